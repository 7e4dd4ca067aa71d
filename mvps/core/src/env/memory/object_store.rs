//! An object store in memory, with a script that says which requests go wrong.
//!
//! It is as strict as S3: small parts are refused, creates are atomic, listings are consistent. A
//! misuse that a real store would forgive by accident (a key with odd characters, a reversed
//! range) is a panic here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;

use crate::env::{
    GetRange, ObjectBody, ObjectEntry, ObjectStore, OperationKind, PartTag, StoreError,
    UploadEntry, UploadId,
};

/// S3 refuses to complete an upload with a smaller part, except the last.
const PART_MIN_BYTES: usize = 5 * 1024 * 1024;

/// One call, as the script sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// How many calls came before it.
    pub number: u64,
    /// Which method.
    pub kind: OperationKind,
    /// The key, or the prefix of a listing, or the first key of a deletion.
    pub key: String,
    /// Length of the body.
    pub body_bytes: usize,
}

/// What becomes of one call.
pub enum Verdict {
    /// It is carried out.
    Serve,
    /// It is not carried out and fails so.
    Fail(StoreError),
    /// It is carried out and fails all the same: the reply is lost.
    LoseReply(StoreError),
    /// It is not carried out and never returns.
    Hang,
    /// It is carried out and never returns.
    HangAfter,
    /// It waits for the future, then is carried out; dropping the call while it waits means that
    /// it never happens.
    Delay(BoxFuture<'static, ()>),
}

impl Verdict {
    /// [`Verdict::Fail`] with [`StoreError::Unavailable`].
    #[must_use]
    pub fn unavailable() -> Self {
        Self::Fail(scripted_outage())
    }

    /// [`Verdict::LoseReply`] with [`StoreError::Unavailable`].
    #[must_use]
    pub fn reply_lost() -> Self {
        Self::LoseReply(scripted_outage())
    }
}

fn scripted_outage() -> StoreError {
    StoreError::Unavailable {
        reason: "scripted".to_owned(),
    }
}

type Script = Box<dyn FnMut(&Operation) -> Verdict + Send>;

/// Objects and uploads in memory. Cheap to share in an [`Arc`].
#[derive(Default)]
pub struct MemoryObjectStore {
    contents: Mutex<Contents>,
    script_state: Mutex<ScriptState>,
    small_parts: AtomicBool,
}

/// Where calls are recorded and judged.
#[derive(Default)]
struct ScriptState {
    script: Option<Script>,
    log: Vec<Operation>,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, Upload>,
    uploads_started: u64,
    parts_uploaded: u64,
}

struct Upload {
    key: String,
    parts: BTreeMap<u32, (PartTag, Bytes)>,
}

impl MemoryObjectStore {
    /// An empty store that obeys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes parts of any size from now on, so that small objects can have several.
    pub fn allow_small_parts(&self) {
        self.small_parts.store(true, Ordering::SeqCst);
    }

    /// Is as strict as S3 again.
    pub fn refuse_small_parts(&self) {
        self.small_parts.store(false, Ordering::SeqCst);
    }

    /// Every later call is judged by `script`.
    pub fn set_script(&self, script: impl FnMut(&Operation) -> Verdict + Send + 'static) {
        self.script_state().script = Some(Box::new(script));
    }

    /// Judges the next calls by `verdicts`, one each; afterwards it obeys.
    pub fn set_verdicts(&self, verdicts: impl IntoIterator<Item = Verdict>) {
        let mut verdicts: std::collections::VecDeque<Verdict> = verdicts.into_iter().collect();
        self.set_script(move |_| verdicts.pop_front().unwrap_or(Verdict::Serve));
    }

    /// Serves everything from now on.
    pub fn clear_script(&self) {
        self.script_state().script = None;
    }

    /// Every call so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.script_state().log.clone()
    }

    /// How many calls of `kind` there were.
    #[must_use]
    pub fn count(&self, kind: OperationKind) -> usize {
        self.script_state()
            .log
            .iter()
            .filter(|operation| operation.kind == kind)
            .count()
    }

    /// All keys, past every script and unrecorded.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.contents().objects.keys().cloned().collect()
    }

    /// The first key with `prefix`, past every script and unrecorded.
    #[must_use]
    pub fn first_key(&self, prefix: &str) -> Option<String> {
        let contents = self.contents();
        let first = contents.objects.range(prefix.to_owned()..).next();
        first
            .map(|(key, _)| key.clone())
            .filter(|key| key.starts_with(prefix))
    }

    /// An object's body, past every script and unrecorded.
    #[must_use]
    pub fn peek(&self, key: &str) -> Option<Bytes> {
        self.contents().objects.get(key).cloned()
    }

    /// Replaces an object's body, past every script and unrecorded: for bit rot and zombies.
    pub fn poke(&self, key: &str, body: Bytes) {
        self.contents().objects.insert(key.to_owned(), body);
    }

    /// Removes an object, past every script and unrecorded.
    pub fn remove(&self, key: &str) {
        self.contents().objects.remove(key);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents
            .lock()
            .expect("no holder of the contents panics")
    }

    fn script_state(&self) -> MutexGuard<'_, ScriptState> {
        self.script_state.lock().expect("a script does not panic")
    }

    fn judge(&self, kind: OperationKind, key: &str, body_bytes: usize) -> Verdict {
        check_key(key);
        let mut script_state = self.script_state();
        let operation = Operation {
            number: script_state.log.len() as u64,
            kind,
            key: key.to_owned(),
            body_bytes,
        };
        script_state.log.push(operation.clone());
        script_state
            .script
            .as_mut()
            .map_or(Verdict::Serve, |script| script(&operation))
    }

    async fn run<T>(
        &self,
        kind: OperationKind,
        key: &str,
        body_bytes: usize,
        apply: impl FnOnce(&mut Contents) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.judge(kind, key, body_bytes) {
            Verdict::Serve => apply(&mut self.contents()),
            Verdict::Fail(error) => Err(error),
            Verdict::LoseReply(error) => {
                let _ = apply(&mut self.contents());
                Err(error)
            }
            Verdict::Hang => futures_util::future::pending().await,
            Verdict::HangAfter => {
                let _ = apply(&mut self.contents());
                futures_util::future::pending().await
            }
            Verdict::Delay(delay) => {
                delay.await;
                apply(&mut self.contents())
            }
        }
    }
}

impl From<MemoryObjectStore> for Arc<dyn ObjectStore> {
    fn from(store: MemoryObjectStore) -> Self {
        Arc::new(store)
    }
}

fn check_key(key: &str) {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-');
    assert!(key.bytes().all(allowed), "not a key: {key:?}");
}

fn not_found(key: &str) -> StoreError {
    StoreError::NotFound {
        key: key.to_owned(),
    }
}

impl Contents {
    fn upload(&mut self, key: &str, upload: &UploadId) -> Result<&mut Upload, StoreError> {
        self.uploads
            .get_mut(&upload.0)
            .filter(|entry| entry.key == key)
            .ok_or_else(|| not_found(key))
    }

    fn object(&self, key: &str) -> Result<&Bytes, StoreError> {
        self.objects.get(key).ok_or_else(|| not_found(key))
    }

    fn create(&mut self, key: &str, body: Bytes) -> Result<(), StoreError> {
        if self.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists {
                key: key.to_owned(),
            });
        }
        self.objects.insert(key.to_owned(), body);
        Ok(())
    }

    fn complete(
        &mut self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
        part_min_bytes: usize,
    ) -> Result<(), StoreError> {
        let body = assemble(self.upload(key, upload)?, parts, part_min_bytes)?;
        self.uploads.remove(&upload.0);
        self.objects.insert(key.to_owned(), body);
        Ok(())
    }

    fn range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let object = self.object(key)?;
        let end = usize::try_from(range.end).unwrap_or(usize::MAX);
        if end > object.len() {
            return Err(StoreError::Corrupt {
                key: key.to_owned(),
                reason: format!("bytes {range:?} of an object of {} bytes", object.len()),
            });
        }
        let start = usize::try_from(range.start).expect("below the end, which fits");
        Ok(object.slice(start..end))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<ObjectEntry> {
        let start = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, body)| ObjectEntry {
                key: key.clone(),
                size: body.len() as u64,
            })
            .collect()
    }

    fn folders(&self, prefix: &str) -> Vec<String> {
        let below = self
            .objects
            .keys()
            .filter_map(|key| key.strip_prefix(prefix));
        let folders: BTreeSet<&str> = below
            .filter_map(|rest| rest.find('/').map(|slash| &rest[..=slash]))
            .collect();
        folders.into_iter().map(str::to_owned).collect()
    }
}

fn assemble(upload: &Upload, tags: &[PartTag], part_min_bytes: usize) -> Result<Bytes, StoreError> {
    let invalid = |reason: String| Err(StoreError::Invalid { reason });
    if tags.is_empty() {
        return invalid("an upload of no parts".to_owned());
    }
    let mut body = BytesMut::new();
    for (number, tag) in (1..).zip(tags) {
        let last = number as usize == tags.len();
        match upload.parts.get(&number) {
            Some((stored, _)) if stored != tag => {
                return invalid(format!("part {number} has another tag"));
            }
            Some((_, part)) if part.len() < part_min_bytes && !last => {
                return invalid(format!("part {number} is too small: {} bytes", part.len()));
            }
            Some((_, part)) => body.extend_from_slice(part),
            None => return invalid(format!("part {number} was not uploaded")),
        }
    }
    Ok(body.freeze())
}

#[async_trait]
impl ObjectStore for MemoryObjectStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.run(OperationKind::Put, key, body.len(), |contents| {
            contents.objects.insert(key.to_owned(), body);
            Ok(())
        })
        .await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let length = body.len();
        self.run(OperationKind::Create, key, length, |contents| {
            contents.create(key, body)
        })
        .await
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        self.run(OperationKind::StartUpload, key, 0, |contents| {
            contents.uploads_started += 1;
            let id = format!("upload-{:06}", contents.uploads_started);
            let upload = Upload {
                key: key.to_owned(),
                parts: BTreeMap::new(),
            };
            contents.uploads.insert(id.clone(), upload);
            Ok(UploadId(id))
        })
        .await
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        self.run(OperationKind::UploadPart, key, body.len(), |contents| {
            contents.parts_uploaded += 1;
            let tag = PartTag(format!("part-{:06}", contents.parts_uploaded));
            let entry = contents.upload(key, upload)?;
            entry.parts.insert(number, (tag.clone(), body));
            Ok(tag)
        })
        .await
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        let small = self.small_parts.load(Ordering::SeqCst);
        let part_min_bytes = if small { 1 } else { PART_MIN_BYTES };
        self.run(OperationKind::CompleteUpload, key, 0, |contents| {
            contents.complete(key, upload, parts, part_min_bytes)
        })
        .await
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        self.run(OperationKind::AbortUpload, key, 0, |contents| {
            contents
                .uploads
                .retain(|id, entry| !(*id == upload.0 && entry.key == key));
            Ok(())
        })
        .await
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        self.run(OperationKind::ListUploads, prefix, 0, |contents| {
            let uploads = contents.uploads.iter();
            let mut found: Vec<UploadEntry> = uploads
                .filter(|(_, entry)| entry.key.starts_with(prefix))
                .map(|(id, entry)| UploadEntry {
                    key: entry.key.clone(),
                    upload: UploadId(id.clone()),
                })
                .collect();
            found.sort_by(|left, right| left.key.cmp(&right.key));
            Ok(found)
        })
        .await
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        let empty = range.expected_bytes() == Some(0);
        assert!(!empty, "an empty range: {range:?} of {key}");
        self.run(OperationKind::of_get(&range), key, 0, |contents| {
            let body = match range {
                GetRange::Whole => contents.object(key)?.clone(),
                GetRange::Bytes(range) => contents.range(key, range)?,
            };
            Ok(body.into())
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        self.run(OperationKind::List, prefix, 0, |contents| {
            Ok(contents.list(prefix, start_after, limit))
        })
        .await
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.run(OperationKind::ListFolders, prefix, 0, |contents| {
            Ok(contents.folders(prefix))
        })
        .await
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        keys.iter().for_each(|key| check_key(key));
        let first = keys.first().map_or("", String::as_str);
        let outcome = self
            .run(OperationKind::Delete, first, 0, |contents| {
                for key in keys {
                    contents.objects.remove(key);
                }
                Ok(())
            })
            .await;
        keys.iter().map(|_| outcome.clone()).collect()
    }
}
