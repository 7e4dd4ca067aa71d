//! `s3s-fs`, made to behave as S3 does where mvps depends on it:
//!
//! - conditional creates are serialised, because `s3s-fs` looks first and writes then;
//! - uploads are known by key, listed, and checked before they are completed;
//! - keys that are directories on disk do not exist;
//! - whole ranges are read at once, since its reads of 4 KiB would measure the file system.
//!
//! Uploads are forgotten when the process ends; objects stay in the directory.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use s3s::dto::*;
use s3s::{Body, S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

use crate::listing::{self, Row};

/// S3 takes no smaller part, except the last.
const PART_MIN_BYTES: usize = 5 * 1024 * 1024;
/// S3's largest page of a listing.
const PAGE_MAX: usize = 1000;

/// All buckets in one directory, a directory each.
pub struct Buckets {
    files: FileSystem,
    directory: PathBuf,
    /// Held over the look and the write of a conditional create.
    creating: tokio::sync::Mutex<()>,
    /// By upload id.
    uploads: Mutex<BTreeMap<String, Upload>>,
}

struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, (String, usize)>,
}

impl Buckets {
    /// Serves `directory`, which exists.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let files =
            FileSystem::new(directory).map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self {
            files,
            directory: directory.to_owned(),
            creating: tokio::sync::Mutex::new(()),
            uploads: Mutex::new(BTreeMap::new()),
        })
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Upload>> {
        self.uploads.lock().expect("no holder panics")
    }

    fn bucket(&self, bucket: &str) -> S3Result<PathBuf> {
        let path = self.directory.join(bucket);
        if path.is_dir() {
            Ok(path)
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    /// Where an object is; a key that leads out of its bucket is refused.
    fn object(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if key.split('/').any(odd) {
            return Err(s3_error!(
                InvalidArgument,
                "not a key that this server can store"
            ));
        }
        Ok(self.bucket(bucket)?.join(key))
    }

    fn check_upload(&self, id: &str, bucket: &str, key: &str) -> S3Result<()> {
        let uploads = self.uploads();
        let upload = uploads
            .get(id)
            .filter(|upload| upload.bucket == bucket && upload.key == key);
        upload.map(|_| ()).ok_or_else(|| s3_error!(NoSuchUpload))
    }
}

/// Reads a whole body, so that nothing is done for a request that breaks off.
async fn collect(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(|error| s3_error!(IncompleteBody, "{error}"))?);
    }
    Ok(bytes.freeze())
}

fn blob(bytes: Bytes) -> StreamingBlob {
    StreamingBlob::from(Body::from(bytes))
}

async fn on_disk<T: Send + 'static>(
    job: impl FnOnce() -> S3Result<T> + Send + 'static,
) -> S3Result<T> {
    let done = tokio::task::spawn_blocking(job).await;
    done.map_err(|error| s3_error!(error, InternalError))?
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("a file's length fits")
}

fn read_object(path: &Path, range: Option<Range>) -> S3Result<GetObjectOutput> {
    let file = std::fs::File::open(path).map_err(|error| s3_error!(error, NoSuchKey))?;
    let metadata = file
        .metadata()
        .map_err(|error| s3_error!(error, InternalError))?;
    if metadata.is_dir() {
        return Err(s3_error!(NoSuchKey));
    }
    let size = metadata.len();
    let span = range.map_or(Ok(0..size), |range| range.check(size))?;
    let bytes = usize::try_from(span.end - span.start).expect("a range in memory");
    let mut body = vec![0; bytes];
    file.read_exact_at(&mut body, span.start)
        .map_err(|error| s3_error!(error, InternalError))?;
    let content_range = range.map(|_| format!("bytes {}-{}/{size}", span.start, span.end - 1));
    Ok(GetObjectOutput {
        body: Some(blob(Bytes::from(body))),
        content_length: Some(length(span.end - span.start)),
        content_range,
        ..Default::default()
    })
}

/// Removes one object; missing ones and directories are as good as removed.
fn remove_object(path: &Path) -> S3Result<()> {
    let result = std::fs::remove_file(path);
    match result {
        Err(error) if !path.is_dir() && error.kind() != io::ErrorKind::NotFound => {
            Err(s3_error!(error, InternalError))
        }
        _ => Ok(()),
    }
}

fn check_parts(upload: &Upload, parts: &[CompletedPart]) -> S3Result<()> {
    if parts.is_empty() {
        return Err(s3_error!(MalformedXML));
    }
    for (index, part) in parts.iter().enumerate() {
        let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML))?;
        let named = part.e_tag.as_ref().map(ETag::value);
        let stored = upload.parts.get(&number);
        let Some((_, bytes)) = stored.filter(|(tag, _)| named == Some(tag.as_str())) else {
            return Err(s3_error!(InvalidPart));
        };
        if *bytes < PART_MIN_BYTES && index + 1 < parts.len() {
            return Err(s3_error!(EntityTooSmall));
        }
    }
    Ok(())
}

#[async_trait]
impl S3 for Buckets {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.files.create_bucket(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.object(&request.input.bucket, &request.input.key)?;
        let body = collect(request.input.body.take()).await?;
        request.input.body = Some(blob(body));
        let conditional = request.input.if_none_match.is_some();
        let _turn = if conditional {
            Some(self.creating.lock().await)
        } else {
            None
        };
        self.files.put_object(request).await
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let path = self.object(&request.input.bucket, &request.input.key)?;
        let range = request.input.range;
        on_disk(move || read_object(&path, range))
            .await
            .map(S3Response::new)
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let path = self.object(&request.input.bucket, &request.input.key)?;
        on_disk(move || remove_object(&path)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        if input.delete.objects.is_empty() || input.delete.objects.len() > PAGE_MAX {
            return Err(s3_error!(MalformedXML));
        }
        let mut paths = Vec::new();
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            paths.push(self.object(&input.bucket, &object.key)?);
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        on_disk(move || paths.iter().try_for_each(|path| remove_object(path))).await?;
        let quiet = input.delete.quiet == Some(true);
        let deleted = if quiet { None } else { Some(deleted) };
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let delimiter = input.delimiter.clone();
        let page = input.max_keys.and_then(|keys| usize::try_from(keys).ok());
        let page = page.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let token = input.continuation_token.clone();
        let after = token.or(input.start_after.clone()).unwrap_or_default();
        let mut rows = on_disk(move || {
            listing::rows(&bucket, &prefix, delimiter.as_deref(), &after)
                .map_err(|error| s3_error!(error, InternalError))
        })
        .await?;
        let truncated = rows.len() > page;
        rows.truncate(page);
        let last = rows.last().map(|row| row.name().to_owned());
        let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
        for row in rows {
            match row {
                Row::Object(key, size) => contents.push(Object {
                    key: Some(key),
                    size: Some(length(size)),
                    ..Default::default()
                }),
                Row::CommonPrefix(prefix) => {
                    common_prefixes.push(CommonPrefix {
                        prefix: Some(prefix),
                    });
                }
            }
        }
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(contents.len() + common_prefixes.len()).ok(),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            is_truncated: Some(truncated),
            next_continuation_token: last.filter(|_| truncated),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: input.max_keys,
            ..Default::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        self.object(&bucket, &key)?;
        let response = self.files.create_multipart_upload(request).await?;
        let id = response
            .output
            .upload_id
            .clone()
            .ok_or_else(|| s3_error!(InternalError))?;
        self.uploads().insert(
            id,
            Upload {
                bucket,
                key,
                parts: BTreeMap::new(),
            },
        );
        Ok(response)
    }

    async fn upload_part(
        &self,
        mut request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let (id, number) = (request.input.upload_id.clone(), request.input.part_number);
        self.check_upload(&id, &request.input.bucket, &request.input.key)?;
        let body = collect(request.input.body.take()).await?;
        let bytes = body.len();
        request.input.body = Some(blob(body));
        let response = self.files.upload_part(request).await?;
        let tag = response
            .output
            .e_tag
            .as_ref()
            .map(|tag| tag.value().to_owned());
        let tag = tag.ok_or_else(|| s3_error!(InternalError))?;
        let mut uploads = self.uploads();
        let upload = uploads
            .get_mut(&id)
            .ok_or_else(|| s3_error!(NoSuchUpload))?;
        upload.parts.insert(number, (tag, bytes));
        Ok(response)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = &request.input;
        self.check_upload(&input.upload_id, &input.bucket, &input.key)?;
        let parts = input
            .multipart_upload
            .as_ref()
            .and_then(|upload| upload.parts.as_deref());
        {
            let mut uploads = self.uploads();
            let upload = uploads
                .get(&input.upload_id)
                .ok_or_else(|| s3_error!(NoSuchUpload))?;
            check_parts(upload, parts.unwrap_or_default())?;
            // From here on nobody else can complete or abort it.
            uploads.remove(&input.upload_id);
        }
        self.files.complete_multipart_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = &request.input;
        self.check_upload(&input.upload_id, &input.bucket, &input.key)?;
        self.uploads()
            .remove(&input.upload_id)
            .ok_or_else(|| s3_error!(NoSuchUpload))?;
        self.files.abort_multipart_upload(request).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let page = input
            .max_uploads
            .and_then(|uploads| usize::try_from(uploads).ok());
        let page = page.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let after_key = input.key_marker.clone().unwrap_or_default();
        let after_id = input.upload_id_marker.clone().unwrap_or_default();
        let mut rows: Vec<(String, String)> = self
            .uploads()
            .iter()
            .filter(|(_, upload)| upload.bucket == input.bucket && upload.key.starts_with(&prefix))
            .map(|(id, upload)| (upload.key.clone(), id.clone()))
            // Without an upload id marker, the key marker leaves out its own key (as S3 does).
            .filter(|(key, id)| {
                *key > after_key || (*key == after_key && !after_id.is_empty() && *id > after_id)
            })
            .collect();
        rows.sort();
        let truncated = rows.len() > page;
        rows.truncate(page);
        let last = rows.last().cloned().filter(|_| truncated);
        let (next_key, next_id) = last.unzip();
        let uploads = rows.into_iter().map(|(key, id)| MultipartUpload {
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            is_truncated: Some(truncated),
            next_key_marker: next_key,
            next_upload_id_marker: next_id,
            bucket: Some(input.bucket),
            prefix: input.prefix,
            ..Default::default()
        }))
    }
}
