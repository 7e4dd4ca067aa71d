//! A list of requests drawn from a seed, and the answers of a store to it: two stores that are
//! both right give the same answers, request by request.
//!
//! Names of uploads, tags of parts and texts of errors are each store's own, so answers name uploads
//! by their order and errors by their kind.

use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::answers::Answers;
use crate::env::memory::SeededEntropy;
use crate::env::{EntropyExt, GetRange, ObjectBody, ObjectStore, PartTag, StoreError, UploadId};

/// What requests are about. No name is a folder of another, because that is no use of a store that
/// mvps makes; in bytes' order they are not as a walk through folders finds them.
const NAMES: [&str; 10] = [
    "m/1", "m/10", "m/2", "m-x", "m.y/1", "m0/a/b/c", "n/a/1", "n/a/2", "n/b", "z_0",
];

/// Beginnings of listings.
const PREFIXES: [&str; 9] = ["", "m", "m/", "m/1", "n/", "n/a", "n/a/", "x", "z_0"];

/// Uploads that a list of requests may have begun.
const UPLOADS_MAX: usize = 6;

/// One request. Numbers of uploads and of parts are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Put(&'static str, Bytes),
    Create(&'static str, Bytes),
    Get(&'static str),
    GetRange(&'static str, Range<u64>),
    List(&'static str, Option<&'static str>, usize),
    ListFolders(&'static str),
    Delete(Vec<&'static str>),
    StartUpload(&'static str),
    UploadPart(usize, u32, Bytes),
    /// With the tags of the parts that were uploaded last under each of these numbers.
    CompleteUpload(usize, Vec<u32>),
    AbortUpload(usize),
    ListUploads(&'static str),
}

impl Step {
    /// What it asks for, without the bytes.
    fn name(&self) -> String {
        match self {
            Self::Put(name, body) => format!("put {name} of {} bytes", body.len()),
            Self::Create(name, body) => format!("create {name} of {} bytes", body.len()),
            Self::UploadPart(upload, part, body) => {
                format!("part {part} of {} bytes of upload {upload}", body.len())
            }
            other => format!("{other:?}"),
        }
    }
}

fn pick<T: Copy>(entropy: &SeededEntropy, from: &[T]) -> T {
    let index = usize::try_from(entropy.below(from.len() as u64)).expect("an index");
    from[index]
}

fn number(entropy: &SeededEntropy, below: u64) -> usize {
    usize::try_from(entropy.below(below)).expect("small")
}

fn body(entropy: &SeededEntropy) -> Bytes {
    let length = pick(entropy, &[0, 1, 100, 4096, 70_000]);
    let mut bytes = vec![0; length];
    crate::env::Entropy::fill(entropy, &mut bytes);
    Bytes::from(bytes)
}

fn draw(entropy: &SeededEntropy) -> Step {
    let name = pick(entropy, &NAMES);
    match entropy.below(16) {
        0..=1 => Step::Put(name, body(entropy)),
        2..=3 => Step::Create(name, body(entropy)),
        4 => Step::Get(name),
        5..=6 => {
            let start = pick(entropy, &[0, 1, 50, 99, 4095, 69_999]);
            let length = pick(entropy, &[1, 2, 50, 100, 4096, 70_000]);
            Step::GetRange(name, start..start + length)
        }
        7..=8 => {
            let after = (entropy.below(2) == 0).then(|| pick(entropy, &NAMES));
            let limit = pick(entropy, &[0, 1, 2, 3, 100]);
            Step::List(pick(entropy, &PREFIXES), after, limit)
        }
        9 => Step::ListFolders(pick(entropy, &["", "m/", "n/", "n/a/", "m0/a/", "x/"])),
        10 => {
            let count = number(entropy, 4);
            Step::Delete((0..count).map(|_| pick(entropy, &NAMES)).collect())
        }
        11 => Step::StartUpload(name),
        12 => Step::UploadPart(
            number(entropy, UPLOADS_MAX as u64),
            pick(entropy, &[1, 1, 2]),
            body(entropy),
        ),
        13 => Step::CompleteUpload(
            number(entropy, UPLOADS_MAX as u64),
            pick(entropy, &[&[1][..], &[1], &[1, 2], &[2], &[]]).to_vec(),
        ),
        14 => Step::AbortUpload(number(entropy, UPLOADS_MAX as u64)),
        _ => Step::ListUploads(pick(entropy, &PREFIXES)),
    }
}

/// Which error it is, without the store's own words.
fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::NotFound { .. } => "not found",
        StoreError::AlreadyExists { .. } => "already exists",
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::SlowDown { .. } => "slow down",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::Denied { .. } => "denied",
        StoreError::Invalid { .. } => "invalid",
    }
}

fn told<T>(outcome: Result<T, StoreError>, show: impl FnOnce(T) -> String) -> String {
    match outcome {
        Ok(value) => show(value),
        Err(error) => kind(&error).to_owned(),
    }
}

fn done(outcome: Result<(), StoreError>) -> String {
    told(outcome, |()| "done".to_owned())
}

fn bytes(outcome: Result<ObjectBody, StoreError>) -> String {
    told(outcome.map(ObjectBody::joined), |it| {
        format!("{} bytes {:x}", it.len(), xxh3_64(&it))
    })
}

struct Upload {
    key: String,
    id: UploadId,
    /// The tag of the part that was uploaded last under each number.
    tags: [Option<PartTag>; 2],
}

struct Player<'a> {
    store: &'a dyn ObjectStore,
    prefix: &'a str,
    uploads: Vec<Upload>,
}

impl Player<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn play(&mut self, step: &Step) -> String {
        let (store, key) = (self.store, |name: &str| self.key(name));
        match step {
            Step::Put(name, body) => done(store.put(&key(name), body.clone()).await),
            Step::Create(name, body) => done(store.create(&key(name), body.clone()).await),
            Step::Get(name) => bytes(store.get(&key(name), GetRange::Whole).await),
            Step::GetRange(name, range) => {
                bytes(store.get(&key(name), GetRange::Bytes(range.clone())).await)
            }
            Step::List(prefix, after, limit) => {
                let after = after.map(key);
                let listed = store.list(&key(prefix), after.as_deref(), *limit).await;
                told(listed, |entries| {
                    let row = |it: crate::env::ObjectEntry| format!("{} {}", it.key, it.size);
                    entries.into_iter().map(row).collect::<Vec<_>>().join(", ")
                })
            }
            Step::ListFolders(prefix) => {
                let listed = store.list_folders(&key(prefix)).await;
                told(listed, |folders| folders.join(", "))
            }
            Step::Delete(names) => {
                let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
                let results = store.delete(&keys).await.into_iter();
                results.map(done).collect::<Vec<_>>().join(", ")
            }
            _ => self.play_upload(step).await,
        }
    }

    async fn play_upload(&mut self, step: &Step) -> String {
        let store = self.store;
        match step {
            Step::StartUpload(name) if self.uploads.len() < UPLOADS_MAX => {
                let key = self.key(name);
                match store.start_upload(&key).await {
                    Ok(id) => {
                        let tags = [None, None];
                        self.uploads.push(Upload { key, id, tags });
                        "started".to_owned()
                    }
                    Err(error) => kind(&error).to_owned(),
                }
            }
            Step::ListUploads(prefix) => {
                let listed = store.list_uploads(&self.key(prefix)).await;
                told(listed, |uploads| {
                    let mut keys: Vec<String> = uploads.into_iter().map(|it| it.key).collect();
                    keys.sort();
                    keys.join(", ")
                })
            }
            Step::UploadPart(which, part, body) => match self.upload(*which) {
                None => "no upload".to_owned(),
                Some(upload) => {
                    let body = body.clone();
                    let sent = store
                        .upload_part(&upload.key, &upload.id, *part, body)
                        .await;
                    told(sent, |tag| {
                        upload.tags[*part as usize - 1] = Some(tag);
                        "uploaded".to_owned()
                    })
                }
            },
            Step::CompleteUpload(which, parts) => match self.upload(*which) {
                None => "no upload".to_owned(),
                Some(upload) => {
                    let tags = parts.iter().map(|it| upload.tags[*it as usize - 1].clone());
                    let tags: Option<Vec<PartTag>> = tags.collect();
                    match tags {
                        None => "no such part".to_owned(),
                        Some(tags) => {
                            done(store.complete_upload(&upload.key, &upload.id, &tags).await)
                        }
                    }
                }
            },
            Step::AbortUpload(which) => match self.upload(*which) {
                None => "no upload".to_owned(),
                Some(upload) => done(store.abort_upload(&upload.key, &upload.id).await),
            },
            _ => "an upload too many".to_owned(),
        }
    }

    fn upload(&mut self, which: usize) -> Option<&mut Upload> {
        let count = self.uploads.len().max(1);
        self.uploads.get_mut(which % count)
    }
}

/// Asks `store` the first `length` requests of `seed`, under `prefix`, which must be fresh and end
/// in `/`. Afterwards everything is read once more.
pub async fn object_answers(
    store: &dyn ObjectStore,
    prefix: &str,
    seed: u64,
    length: usize,
) -> Answers {
    let entropy = SeededEntropy::new(seed);
    let mut player = Player {
        store,
        prefix,
        uploads: Vec::new(),
    };
    let mut answers = Answers::default();
    let last = NAMES.map(Step::Get).into_iter().chain([
        Step::List("", None, 100),
        Step::ListFolders(""),
        Step::ListUploads(""),
    ]);
    for step in (0..length).map(|_| draw(&entropy)).chain(last) {
        let answer = player.play(&step).await;
        answers.add(&step.name(), answer);
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::MemoryObjectStore;

    /// The lists meet what they are there for.
    #[tokio::test]
    async fn every_kind_of_answer_is_met() {
        let mut all = String::new();
        for seed in 0..50 {
            let store = MemoryObjectStore::new();
            let answers = object_answers(&store, "p/", seed, 60).await;
            let again = object_answers(&MemoryObjectStore::new(), "p/", seed, 60).await;
            assert_eq!(answers.difference(&again), None);
            all.push_str(&answers.to_string());
        }
        for answer in [
            "already exists",
            "not found",
            "corrupt",
            "invalid",
            "uploaded",
            "done, done",
            "p/m-x",
            "m/, m0/",
        ] {
            assert!(all.contains(answer), "nothing was answered with {answer}");
        }
    }

    #[tokio::test]
    async fn a_store_that_differs_is_noticed() {
        let (one, other) = (MemoryObjectStore::new(), MemoryObjectStore::new());
        other.poke("p/n/b", Bytes::from_static(b"x"));
        let left = object_answers(&one, "p/", 1, 40).await;
        let right = object_answers(&other, "p/", 1, 40).await;
        assert!(left.difference(&right).is_some());
    }
}
