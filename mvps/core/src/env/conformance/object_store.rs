//! What every [`ObjectStore`] must do.
//!
//! The suite needs no clock and no runtime, and it panics with a message that names the rule. It
//! knows nothing of faults: those belong to the tests of the retry wrapper and the simulation.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::env::{GetRange, ObjectBody, ObjectStore, PartTag, StoreError, UploadId};

/// The smallest part that S3 accepts before the last.
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Enough to need several parts, and several reads of a socket.
const LARGE_BYTES: usize = 20 * 1024 * 1024;
/// Racers for one name.
const CREATES: u8 = 16;
/// More than one page of S3's listings and more than one of its bulk deletions (1000 each).
const MANY: usize = 1_050;
/// Puts in flight at once while the suite makes many objects.
const MANY_AT_ONCE: usize = 50;

/// Runs the suite on `store` under `prefix`, which must be fresh and end in `/`. Leaves no object
/// and no upload behind.
pub async fn check_object_store(store: &dyn ObjectStore, prefix: &str) {
    assert!(
        prefix.ends_with('/'),
        "the suite needs a prefix that ends in /"
    );
    let suite = Suite { store, prefix };
    suite.put_and_get().await;
    suite.large_bodies().await;
    suite.create().await;
    suite.concurrent_creates().await;
    suite.ranges().await;
    suite.list().await;
    suite.list_many_and_delete_many().await;
    suite.folders().await;
    suite.delete().await;
    suite.upload().await;
    suite.upload_replaces_a_part_and_an_object().await;
    suite.upload_refuses().await;
    suite.uploads_are_listed_and_aborted().await;
    suite.nothing_is_left().await;
}

/// Bytes that differ at every offset, and from seed to seed.
fn pattern(length: usize, seed: u8) -> Bytes {
    let byte = |index: usize| (index ^ (index >> 8) ^ (index >> 16)).to_le_bytes()[0] ^ seed;
    (0..length).map(byte).collect()
}

struct Suite<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'a str,
}

impl Suite<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put(&self, name: &str, body: &[u8]) {
        let key = self.key(name);
        let result = self.store.put(&key, Bytes::copy_from_slice(body)).await;
        result.unwrap_or_else(|error| panic!("put {key}: {error}"));
    }

    async fn whole(&self, key: &str) -> Result<Bytes, StoreError> {
        let got = self.store.get(key, GetRange::Whole).await;
        got.map(ObjectBody::joined)
    }

    async fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let got = self.store.get(key, GetRange::Bytes(range)).await;
        got.map(ObjectBody::joined)
    }

    async fn expect_body(&self, name: &str, expected: &Bytes) {
        let key = self.key(name);
        let body = self.whole(&key).await;
        let body = body.unwrap_or_else(|error| panic!("get {key}: {error}"));
        assert_eq!(body.len(), expected.len(), "get {key}: length");
        assert!(body == expected, "get {key}: other bytes than were written");
    }

    async fn expect_missing(&self, name: &str) {
        let key = self.key(name);
        let got = self.whole(&key).await;
        assert_eq!(
            got,
            Err(StoreError::NotFound { key }),
            "get of a missing object"
        );
    }

    async fn clean_up(&self, names: &[&str]) {
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        for (key, result) in keys.iter().zip(self.store.delete(&keys).await) {
            assert_eq!(result, Ok(()), "delete {key}");
        }
    }

    /// Names (without the prefix) and sizes of a listing.
    async fn listed(&self, under: &str, after: Option<&str>, limit: usize) -> Vec<(String, u64)> {
        let after = after.map(|name| self.key(name));
        let listed = self
            .store
            .list(&self.key(under), after.as_deref(), limit)
            .await;
        let listed = listed.unwrap_or_else(|error| panic!("list {under:?}: {error}"));
        let row = |entry: crate::env::ObjectEntry| {
            let name = entry.key.strip_prefix(self.prefix);
            let name = name.unwrap_or_else(|| panic!("list returned {} out of prefix", entry.key));
            (name.to_owned(), entry.size)
        };
        listed.into_iter().map(row).collect()
    }

    async fn names(&self, under: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        self.listed(under, after, limit)
            .await
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    async fn put_and_get(&self) {
        self.expect_missing("absent").await;
        self.expect_missing("absent/below").await;
        self.put("one", b"first").await;
        self.expect_body("one", &Bytes::from_static(b"first")).await;
        self.put("one", b"the second").await;
        self.expect_body("one", &Bytes::from_static(b"the second"))
            .await;
        self.put("empty", b"").await;
        self.expect_body("empty", &Bytes::new()).await;
        let odd = "deep/er/A-z_0.9/file.name";
        self.put(odd, b"odd").await;
        self.expect_body(odd, &Bytes::from_static(b"odd")).await;
        self.clean_up(&["one", "empty", odd]).await;
        self.expect_missing("one").await;
    }

    async fn large_bodies(&self) {
        let body = pattern(LARGE_BYTES, 1);
        self.put("large", &body).await;
        self.expect_body("large", &body).await;
        let tail = LARGE_BYTES - 10;
        let range = tail as u64..LARGE_BYTES as u64;
        let got = self.range(&self.key("large"), range).await;
        assert_eq!(got, Ok(body.slice(tail..)), "the tail of a large object");
        let other = pattern(LARGE_BYTES, 2);
        let created = self
            .store
            .create(&self.key("large-created"), other.clone())
            .await;
        assert_eq!(created, Ok(()), "create of a large object");
        self.expect_body("large-created", &other).await;
        self.clean_up(&["large", "large-created"]).await;
    }

    async fn create(&self) {
        let key = self.key("created");
        let created = self.store.create(&key, Bytes::from_static(b"mine")).await;
        assert_eq!(created, Ok(()), "create of a free name");
        for body in [&b"mine"[..], b"yours", b""] {
            let again = self.store.create(&key, Bytes::from_static(body)).await;
            let expected = Err(StoreError::AlreadyExists { key: key.clone() });
            assert_eq!(again, expected, "create of a taken name");
        }
        self.expect_body("created", &Bytes::from_static(b"mine"))
            .await;
        self.clean_up(&["created"]).await;
        let created = self.store.create(&key, Bytes::new()).await;
        assert_eq!(created, Ok(()), "create of a name that was freed");
        let again = self.store.create(&key, Bytes::from_static(b"late")).await;
        let expected = Err(StoreError::AlreadyExists { key: key.clone() });
        assert_eq!(again, expected, "create over an empty object");
        self.clean_up(&["created"]).await;
    }

    async fn concurrent_creates(&self) {
        for round in 0..8 {
            let name = format!("race-{round}");
            let key = self.key(&name);
            let racers = (0..CREATES).map(|racer| self.store.create(&key, pattern(3000, racer)));
            let outcomes = join_all(racers).await;
            let mut winners = Vec::new();
            for (racer, outcome) in (0..CREATES).zip(outcomes) {
                match outcome {
                    Ok(()) => winners.push(racer),
                    // A store may also say that another request is in the way (S3: 409).
                    Err(StoreError::AlreadyExists { .. } | StoreError::Unavailable { .. }) => {}
                    Err(error) => panic!("concurrent create: {error}"),
                }
            }
            assert_eq!(
                winners.len(),
                1,
                "concurrent creates of one name won: {winners:?}"
            );
            self.expect_body(&name, &pattern(3000, winners[0])).await;
            self.clean_up(&[&name]).await;
        }
    }

    async fn ranges(&self) {
        let body = pattern(1000, 3);
        self.put("ranged", &body).await;
        self.put("ranged-empty", b"").await;
        let key = self.key("ranged");
        for range in [0..1, 0..1000, 1..2, 999..1000, 100..900] {
            let expected = body.slice(range.start as usize..range.end as usize);
            let got = self.range(&key, range.clone()).await;
            assert_eq!(got, Ok(expected), "bytes {range:?}");
        }
        for (name, range) in [
            ("ranged", 0..1001),
            ("ranged", 999..1001),
            ("ranged", 1000..1001),
            ("ranged", 5000..6000),
            ("ranged-empty", 0..1),
        ] {
            let got = self.range(&self.key(name), range.clone()).await;
            let corrupt = matches!(got, Err(StoreError::Corrupt { .. }));
            assert!(
                corrupt,
                "{name}, {range:?} past the end must be Corrupt: {got:?}"
            );
        }
        let key = self.key("absent");
        let got = self.range(&key, 0..1).await;
        assert_eq!(
            got,
            Err(StoreError::NotFound { key }),
            "a range of a missing object"
        );
        self.clean_up(&["ranged", "ranged-empty"]).await;
    }

    async fn list(&self) {
        // In bytes' order '-' < '.' < '/' < '0' < 'A' < '_' < 'a': a store that walks directories
        // has to sort whole keys.
        let sorted = [
            "l/a", "l/a-b", "l/a.c", "l/a0", "l/aA", "l/a_x", "l/b/1", "l/b/2", "l/c",
        ];
        for name in sorted.iter().rev() {
            self.put(name, name.as_bytes()).await;
        }
        let rows: Vec<(String, u64)> = sorted
            .iter()
            .map(|name| ((*name).to_owned(), name.len() as u64))
            .collect();
        assert_eq!(
            self.listed("l/", None, 100).await,
            rows,
            "list: rows, order and sizes"
        );
        let check = async |under, after, limit, expected: &[&str]| {
            let names = self.names(under, after, limit).await;
            assert_eq!(
                names, expected,
                "list {under:?} after {after:?}, at most {limit}"
            );
        };
        check("l/", None, sorted.len(), &sorted).await;
        check("l/", None, 3, &sorted[..3]).await;
        check("l/", Some("l/a.c"), 2, &sorted[3..5]).await;
        check("l/", Some("l/aB"), 100, &sorted[5..]).await;
        check("l/", Some("l/c"), 100, &[]).await;
        check("l/", Some("k"), 100, &sorted).await;
        check("l/", Some("m"), 100, &[]).await;
        check("l/a", None, 100, &sorted[..6]).await;
        check("l/a", Some("l/a"), 100, &sorted[1..6]).await;
        check("l/b", None, 100, &["l/b/1", "l/b/2"]).await;
        check("l/b/", Some("l/b/1"), 100, &["l/b/2"]).await;
        check("l/nothing", None, 100, &[]).await;
        check("l/", None, 0, &[]).await;
        self.clean_up(&sorted).await;
        check("l/", None, 100, &[]).await;
    }

    async fn list_many_and_delete_many(&self) {
        let names: Vec<String> = (0..MANY)
            .map(|number| format!("many/{number:05}"))
            .collect();
        for some in names.chunks(MANY_AT_ONCE) {
            join_all(some.iter().map(|name| self.put(name, b""))).await;
        }
        assert_eq!(
            self.names("many/", None, MANY).await,
            names,
            "list of more than one page"
        );
        assert_eq!(
            self.names("many/", None, 2 * MANY).await,
            names,
            "list beyond the last page"
        );
        let tail = self.names("many/", Some("many/00009"), MANY).await;
        assert_eq!(tail, names[10..], "list of many after a name");
        let keys: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let results = self.store.delete(&keys).await;
        assert_eq!(results.len(), keys.len(), "delete: one result per key");
        assert!(results.iter().all(Result::is_ok), "delete of many");
        assert!(
            self.names("many/", None, MANY).await.is_empty(),
            "list after deletion of all"
        );
    }

    async fn folders(&self) {
        let names = [
            "f/a/1",
            "f/a/2",
            "f/a/b/3",
            "f/b",
            "f/c/d/e/4",
            "f/a-b/5",
            "f/z.z/6",
        ];
        for name in names {
            self.put(name, b"x").await;
        }
        let check = async |under: &str, expected: &[&str]| {
            let folders = self.store.list_folders(&self.key(under)).await;
            let folders = folders.unwrap_or_else(|error| panic!("folders of {under:?}: {error}"));
            assert_eq!(folders, expected, "folders of {under:?}");
        };
        check("f/", &["a-b/", "a/", "c/", "z.z/"]).await;
        check("f/a/", &["b/"]).await;
        check("f/c/d/", &["e/"]).await;
        check("f/c/d/e/", &[]).await;
        check("f/nothing/", &[]).await;
        self.clean_up(&names).await;
        check("f/", &[]).await;
    }

    async fn delete(&self) {
        assert_eq!(self.store.delete(&[]).await, [], "delete of nothing");
        self.put("d/1", b"1").await;
        self.put("d/10", b"2").await;
        let keys = [self.key("d/1"), self.key("d/absent"), self.key("d")];
        let results = self.store.delete(&keys).await;
        assert_eq!(
            results,
            [Ok(()), Ok(()), Ok(())],
            "delete of missing objects succeeds"
        );
        assert_eq!(
            self.names("d/", None, 10).await,
            ["d/10"],
            "delete takes only what it names"
        );
        self.clean_up(&["d/10"]).await;
    }

    async fn start(&self, name: &str) -> UploadId {
        let key = self.key(name);
        let upload = self.store.start_upload(&key).await;
        upload.unwrap_or_else(|error| panic!("start an upload of {key}: {error}"))
    }

    async fn part(&self, name: &str, upload: &UploadId, number: u32, body: &Bytes) -> PartTag {
        let key = self.key(name);
        let tag = self
            .store
            .upload_part(&key, upload, number, body.clone())
            .await;
        tag.unwrap_or_else(|error| panic!("part {number} of {key}: {error}"))
    }

    async fn complete(&self, name: &str, upload: &UploadId, parts: &[PartTag]) {
        let completed = self
            .store
            .complete_upload(&self.key(name), upload, parts)
            .await;
        assert_eq!(completed, Ok(()), "complete {name}");
    }

    async fn upload(&self) {
        let upload = self.start("u/large").await;
        self.expect_missing("u/large").await;
        let body = pattern(LARGE_BYTES + 77, 4);
        let slices: Vec<Bytes> = (0..body.len())
            .step_by(PART_BYTES)
            .map(|start| body.slice(start..body.len().min(start + PART_BYTES)))
            .collect();
        // All at once and in reverse, as parts really arrive.
        let numbered = (1..).zip(&slices).collect::<Vec<(u32, &Bytes)>>();
        let parts = numbered.iter().rev();
        let mut tags =
            join_all(parts.map(|(number, part)| self.part("u/large", &upload, *number, part)))
                .await;
        tags.reverse();
        assert!(
            self.names("u/", None, 10).await.is_empty(),
            "an upload is not an object"
        );
        self.complete("u/large", &upload, &tags).await;
        self.expect_body("u/large", &body).await;
        let start = PART_BYTES as u64 - 3;
        let got = self.range(&self.key("u/large"), start..start + 6).await;
        let expected = body.slice(PART_BYTES - 3..PART_BYTES + 3);
        assert_eq!(got, Ok(expected), "a range over the border of two parts");
        self.clean_up(&["u/large"]).await;
    }

    async fn upload_replaces_a_part_and_an_object(&self) {
        self.put("u/replaced", b"the old object").await;
        let upload = self.start("u/replaced").await;
        let stale = self.part("u/replaced", &upload, 1, &pattern(100, 5)).await;
        let body = pattern(200, 6);
        let tag = self.part("u/replaced", &upload, 1, &body).await;
        assert_ne!(stale, tag, "another part has another tag");
        self.expect_body("u/replaced", &Bytes::from_static(b"the old object"))
            .await;
        self.complete("u/replaced", &upload, &[tag]).await;
        self.expect_body("u/replaced", &body).await;
        self.clean_up(&["u/replaced"]).await;
    }

    async fn upload_refuses(&self) {
        let key = self.key("u/refused");
        let upload = self.start("u/refused").await;
        let small = self.part("u/refused", &upload, 1, &pattern(1000, 7)).await;
        let last = self.part("u/refused", &upload, 2, &pattern(1000, 8)).await;
        let wrong = vec![last.clone(), last.clone()];
        for (what, parts) in [
            (
                "a small part before the last",
                vec![small.clone(), last.clone()],
            ),
            ("another part's tag", wrong),
            (
                "a part that was not uploaded",
                vec![small.clone(), last.clone(), last],
            ),
            ("no parts", Vec::new()),
        ] {
            let refused = self.store.complete_upload(&key, &upload, &parts).await;
            let invalid = matches!(refused, Err(StoreError::Invalid { .. }));
            assert!(
                invalid,
                "an upload completed with {what} must be Invalid: {refused:?}"
            );
        }
        self.expect_missing("u/refused").await;
        assert_eq!(
            self.store.abort_upload(&key, &upload).await,
            Ok(()),
            "abort"
        );
        let not_found = StoreError::NotFound { key: key.clone() };
        let part = self
            .store
            .upload_part(&key, &upload, 1, Bytes::from_static(b"x"))
            .await;
        assert_eq!(part, Err(not_found.clone()), "a part of an aborted upload");
        let completed = self.store.complete_upload(&key, &upload, &[small]).await;
        assert_eq!(completed, Err(not_found), "completion of an aborted upload");
        assert_eq!(
            self.store.abort_upload(&key, &upload).await,
            Ok(()),
            "abort again"
        );
        self.expect_missing("u/refused").await;
    }

    async fn uploads(&self, under: &str) -> Vec<(String, UploadId)> {
        let listed = self.store.list_uploads(&self.key(under)).await;
        let listed = listed.unwrap_or_else(|error| panic!("list uploads {under:?}: {error}"));
        let mut rows = Vec::new();
        for entry in listed {
            let name = entry.key.strip_prefix(self.prefix);
            let name = name.unwrap_or_else(|| panic!("an upload out of prefix: {}", entry.key));
            rows.push((name.to_owned(), entry.upload));
        }
        rows.sort_by(|left, right| (&left.0, &left.1.0).cmp(&(&right.0, &right.1.0)));
        rows
    }

    async fn uploads_are_listed_and_aborted(&self) {
        assert!(self.uploads("").await.is_empty(), "no uploads at first");
        let mut expected = Vec::new();
        for name in ["v/a", "v/a", "v/b/c", "w"] {
            let upload = self.start(name).await;
            self.part(name, &upload, 1, &Bytes::from_static(b"part"))
                .await;
            expected.push((name.to_owned(), upload));
        }
        expected.sort_by(|left, right| (&left.0, &left.1.0).cmp(&(&right.0, &right.1.0)));
        assert_eq!(self.uploads("").await, expected, "all uploads");
        assert_eq!(
            self.uploads("v/").await,
            expected[..3],
            "uploads under a folder"
        );
        assert_eq!(
            self.uploads("v/b").await,
            expected[2..3],
            "uploads under a prefix"
        );
        for (name, upload) in &expected[1..] {
            let aborted = self.store.abort_upload(&self.key(name), upload).await;
            assert_eq!(aborted, Ok(()), "abort {name}");
        }
        assert_eq!(
            self.uploads("").await,
            expected[..1],
            "aborted uploads are gone"
        );
        let (name, upload) = &expected[0];
        let tag = self
            .part(name, upload, 1, &Bytes::from_static(b"other"))
            .await;
        self.complete(name, upload, &[tag]).await;
        assert!(
            self.uploads("").await.is_empty(),
            "a completed upload is gone"
        );
        self.expect_body(name, &Bytes::from_static(b"other")).await;
        self.clean_up(&[name]).await;
    }

    async fn nothing_is_left(&self) {
        assert!(
            self.names("", None, 10).await.is_empty(),
            "objects were left behind"
        );
        assert!(
            self.uploads("").await.is_empty(),
            "uploads were left behind"
        );
        let folders = self.store.list_folders(self.prefix).await;
        assert_eq!(
            folders,
            Ok(Vec::new()),
            "folders without objects are no folders"
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::env::memory::MemoryObjectStore;

    #[tokio::test]
    async fn memory() {
        super::check_object_store(&MemoryObjectStore::new(), "suite/").await;
    }
}
