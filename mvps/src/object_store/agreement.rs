//! Lists of requests drawn from a seed get the same answers from a folder, from an S3 server, and
//! from the store in memory that the simulation stands on.

use mvps_core::env::ObjectStore;
use mvps_core::env::conformance::object_answers;
use mvps_core::env::memory::MemoryObjectStore;
use proptest::prelude::*;
use s3_test_server::{BUCKET, S3Server, SECRET_KEY};

use super::LocalObjectStore;
use super::s3::tests::connect;

/// The longest list.
const STEPS_MAX: usize = 80;

/// How often a list is tried whose only difference is a connection that was lost.
const ATTEMPTS_MAX: usize = 4;

async fn compare(store: &dyn ObjectStore, prefix: &str, seed: u64, steps: usize) {
    let expected = object_answers(&MemoryObjectStore::new(), prefix, seed, steps).await;
    let answers = object_answers(store, prefix, seed, steps).await;
    let difference = expected.difference(&answers);
    assert_eq!(difference, None, "in memory, and here; seed {seed}");
}

/// The same in a place of its own; again in another one if the server closed a connection just as it
/// was used again, which is "unavailable" for who asks without retries.
async fn compare_over_network(store: &dyn ObjectStore, seed: u64) {
    let mut difference = None;
    for attempt in 0..ATTEMPTS_MAX {
        let prefix = format!("seed-{seed}-{attempt}/");
        let expected = object_answers(&MemoryObjectStore::new(), &prefix, seed, STEPS_MAX).await;
        let answers = object_answers(store, &prefix, seed, STEPS_MAX).await;
        difference = expected.difference(&answers);
        let is_network = |it: &String| it.ends_with("and \"unavailable\"");
        if !difference.as_ref().is_some_and(is_network) {
            break;
        }
    }
    assert_eq!(difference, None, "in memory, and here; seed {seed}");
}

fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_folder_answers_as_memory_does(seed in any::<u64>(), steps in 1..STEPS_MAX) {
        run(async {
            let folder = tempfile::tempdir().unwrap();
            let store = LocalObjectStore::open(folder.path()).unwrap();
            compare(&store, "p/", seed, steps).await;
        });
    }
}

/// One server for all lists, which begin in a place of their own.
#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_answers_as_memory_does() {
    let folder = tempfile::tempdir().unwrap();
    let any_port = "127.0.0.1:0".parse().unwrap();
    let server = S3Server::start(folder.path(), any_port).await.unwrap();
    let store = connect(server.endpoint(), BUCKET, SECRET_KEY, "").await;
    for seed in 0..24 {
        compare_over_network(&store, seed).await;
    }
}
