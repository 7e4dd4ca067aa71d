//! The wrapper against a scripted store, in simulated time.

use super::*;
use crate::env::memory::testing::TestClock;
use crate::env::memory::{ManualClock, MemoryObjectStore, SeededEntropy, Verdict};
use futures_util::FutureExt;
use futures_util::future::join_all;

fn setup() -> (RetryingStore, Arc<MemoryObjectStore>) {
    let objects = Arc::new(MemoryObjectStore::new());
    let (clock, entropy) = (
        Arc::new(TestClock::start()),
        Arc::new(SeededEntropy::new(7)),
    );
    (RetryingStore::new(objects.clone(), clock, entropy), objects)
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn body(
    got: impl Future<Output = Result<ObjectBody, StoreError>>,
) -> Result<Bytes, StoreError> {
    got.await.map(ObjectBody::joined)
}

fn exists() -> Result<(), StoreError> {
    Err(StoreError::AlreadyExists {
        key: "k".to_owned(),
    })
}

#[tokio::test(start_paused = true)]
async fn outages_of_every_kind_are_waited_out() {
    let (store, objects) = setup();
    let outage = || [Verdict::unavailable(), Verdict::Hang, Verdict::reply_lost()];
    objects.set_verdicts(outage());
    assert_eq!(store.put("k", bytes("body")).await, Ok(()));
    objects.set_verdicts(outage());
    assert_eq!(
        body(store.get("k", GetRange::Whole)).await,
        Ok(bytes("body"))
    );
    objects.set_verdicts(outage());
    assert_eq!(
        body(store.get("k", GetRange::Bytes(1..3))).await,
        Ok(bytes("od"))
    );
    objects.set_verdicts(outage());
    assert_eq!(store.list("", None, 10).await.unwrap().len(), 1);
    objects.set_verdicts(outage());
    assert_eq!(store.list_folders("").await, Ok(vec![]));
    objects.set_verdicts(outage());
    let upload = store.start_upload("u").await.unwrap();
    objects.set_verdicts(outage());
    assert_eq!(store.abort_upload("u", &upload).await, Ok(()));
    objects.set_verdicts(outage());
    assert_eq!(
        store.delete(&["k".to_owned(), "absent".to_owned()]).await,
        [Ok(()), Ok(())]
    );
    assert!(objects.keys().is_empty());

    let statistics = store.statistics();
    assert_eq!(statistics.tries["put"], 4);
    assert_eq!(statistics.failed_tries, 8 * 3);
    assert_eq!((statistics.put_bytes, statistics.got_bytes), (4, 4 + 2));
    assert_eq!(statistics.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_reply_was_lost_is_resolved_by_comparing() {
    type Case = (
        &'static str,
        fn() -> Vec<Verdict>,
        Option<&'static str>,
        Result<(), StoreError>,
    );
    let cases: [Case; 8] = [
        ("no fault", Vec::new, None, Ok(())),
        ("taken", Vec::new, Some("theirs"), exists()),
        // Without an unclear try, equal bytes are somebody else's.
        ("taken by equal bytes", Vec::new, Some("mine"), exists()),
        ("not applied", || vec![Verdict::unavailable()], None, Ok(())),
        ("reply lost", || vec![Verdict::reply_lost()], None, Ok(())),
        (
            "applied, then hung",
            || vec![Verdict::HangAfter],
            None,
            Ok(()),
        ),
        (
            "unclear, taken",
            || vec![Verdict::unavailable()],
            Some("theirs"),
            exists(),
        ),
        (
            "reply lost, and the reads that resolve it fail too",
            || {
                vec![
                    Verdict::reply_lost(),
                    Verdict::Serve,
                    Verdict::Hang,
                    Verdict::unavailable(),
                ]
            },
            None,
            Ok(()),
        ),
    ];
    for (name, verdicts, before, expected) in cases {
        let (store, objects) = setup();
        if let Some(before) = before {
            objects.poke("k", bytes(before));
        }
        objects.set_verdicts(verdicts());
        assert_eq!(store.create("k", bytes("mine")).await, expected, "{name}");
        let left = before.unwrap_or("mine");
        assert_eq!(objects.peek("k"), Some(bytes(left)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_created_object_that_is_gone_again_is_not_made_twice() {
    let (store, objects) = setup();
    let weak = Arc::downgrade(&objects);
    objects.set_script(move |operation| match operation.number {
        0 => Verdict::reply_lost(),
        1 => Verdict::Serve,
        _ => {
            // The collector deletes it before the read that was to resolve the create.
            weak.upgrade().unwrap().remove("k");
            Verdict::Serve
        }
    });
    assert_eq!(store.create("k", bytes("mine")).await, exists());
    assert_eq!(objects.peek("k"), None);
}

#[tokio::test(start_paused = true)]
async fn a_completion_whose_reply_was_lost_is_resolved_by_looking() {
    for (verdict, size, completes) in [
        (Verdict::Serve, 4, true),
        (Verdict::reply_lost(), 4, true),
        (Verdict::HangAfter, 4, true),
        (Verdict::unavailable(), 4, true),
        (Verdict::reply_lost(), 5, false),
    ] {
        let (store, objects) = setup();
        let upload = store.start_upload("k").await.unwrap();
        let tag = store
            .upload_part("k", &upload, 1, bytes("part"))
            .await
            .unwrap();
        objects.poke("k-longer-name", bytes("part"));
        objects.set_verdicts([verdict]);
        let result = store.complete_upload("k", &upload, &[tag], size).await;
        assert_eq!(result.is_ok(), completes);
    }
    let (store, objects) = setup();
    let gone = UploadId("gone".to_owned());
    objects.set_verdicts([Verdict::unavailable()]);
    let result = store
        .complete_upload("k", &gone, &[PartTag(String::new())], 4)
        .await;
    assert_eq!(
        result,
        Err(StoreError::NotFound {
            key: "k".to_owned()
        })
    );
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let (store, objects) = setup();
    objects.set_script(|_| Verdict::Hang);
    let began = tokio::time::Instant::now();
    let hasty = store.with_patience(Patience::For(Duration::from_secs(2)));
    assert!(matches!(
        hasty.get("k", GetRange::Whole).await,
        Err(StoreError::Unavailable { .. })
    ));
    assert_eq!(began.elapsed().as_secs(), 2);

    objects.set_script(|_| Verdict::unavailable());
    let began = tokio::time::Instant::now();
    assert!(matches!(
        hasty.list("", None, 1).await,
        Err(StoreError::Unavailable { .. })
    ));
    assert!(began.elapsed() <= Duration::from_secs(2));

    let once = store.with_patience(Patience::Once);
    let before = objects.operations().len();
    assert!(matches!(
        once.get("k", GetRange::Whole).await,
        Err(StoreError::Unavailable { .. })
    ));
    assert_eq!(objects.operations().len(), before + 1);
    objects.set_script(|_| {
        Verdict::Fail(StoreError::SlowDown {
            reason: "r".to_owned(),
        })
    });
    assert!(matches!(
        once.get("k", GetRange::Whole).await,
        Err(StoreError::Unavailable { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_is_returned_at_once() {
    for error in [
        StoreError::Denied {
            reason: "r".to_owned(),
        },
        StoreError::Invalid {
            reason: "r".to_owned(),
        },
        StoreError::NotFound {
            key: "k".to_owned(),
        },
    ] {
        let (store, objects) = setup();
        objects.set_verdicts([Verdict::Fail(error.clone())]);
        assert_eq!(body(store.get("k", GetRange::Whole)).await, Err(error));
        assert_eq!(objects.operations().len(), 1);
    }
    let (store, objects) = setup();
    objects.poke("k", bytes("short"));
    assert!(matches!(
        store.get("k", GetRange::Bytes(0..6)).await,
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(
        objects.operations().len(),
        3,
        "a cut body deserves more tries, but not for ever"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_down_holds_back_everybody() {
    let (store, objects) = setup();
    objects.poke("k", bytes("body"));
    objects.set_verdicts([Verdict::Fail(StoreError::SlowDown {
        reason: "r".to_owned(),
    })]);
    let began = tokio::time::Instant::now();
    let first = store.get("k", GetRange::Whole);
    let second = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        store
            .get("k", GetRange::Whole)
            .await
            .map(|_| began.elapsed())
    };
    let (first, second) = futures_util::future::join(first, second).await;
    assert!(first.is_ok());
    assert_eq!(objects.operations().len(), 3);
    assert!(
        second.unwrap() > Duration::from_millis(10),
        "the second waited as well"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_bounded() {
    let (store, objects) = setup();
    objects.set_script(|_| Verdict::Delay(tokio::time::sleep(Duration::from_secs(1)).boxed()));
    let requests = join_all((0..REQUESTS_MAX * 2).map(|_| store.put("k", bytes("body"))));
    let watch = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(store.statistics().in_flight, REQUESTS_MAX as u64);
        assert_eq!(objects.operations().len(), REQUESTS_MAX);
    };
    let (results, ()) = futures_util::future::join(requests, watch).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(store.statistics().failed_tries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_gives_its_place_back() {
    let (store, objects) = setup();
    objects.set_script(|_| Verdict::Hang);
    let mut requests = join_all((0..REQUESTS_MAX).map(|_| store.get("k", GetRange::Whole))).boxed();
    assert!((&mut requests).now_or_never().is_none());
    assert_eq!(store.statistics().in_flight, REQUESTS_MAX as u64);
    drop(requests);
    assert_eq!(store.statistics().in_flight, 0);
    objects.clear_script();
    assert_eq!(store.put("k", bytes("body")).await, Ok(()));
}

#[test]
fn the_wrapper_needs_no_runtime() {
    let objects = Arc::new(MemoryObjectStore::new());
    let clock = ManualClock::new();
    let entropy = Arc::new(SeededEntropy::new(7));
    let store = RetryingStore::new(objects.clone(), Arc::new(clock.clone()), entropy);
    objects.set_verdicts([Verdict::Hang]);
    let mut put = store.put("k", bytes("body")).boxed();
    assert!((&mut put).now_or_never().is_none());
    clock.advance(Duration::from_millis(9_999));
    assert!((&mut put).now_or_never().is_none());
    assert_eq!(objects.operations().len(), 1);
    clock.advance(Duration::from_secs(2));
    assert!(
        (&mut put).now_or_never().is_none(),
        "it waits before the next try"
    );
    clock.advance(Duration::from_secs(1));
    assert_eq!((&mut put).now_or_never(), Some(Ok(())));
}
