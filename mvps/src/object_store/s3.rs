//! S3, and what speaks its protocol.
//!
//! Every method is one request (listings: one per page, deletions: one per thousand keys), sent
//! once. The SDK's retries and time-outs are off; checksums are sent only where S3 requires them,
//! because everything that mvps stores carries its own and other stores stumble over S3's.
//!
//! Credentials come from the default chain: environment, profile, web identity, ECS, EC2.

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
    retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, Delete, Error as KeyError, ObjectIdentifier,
};
use aws_smithy_http_client::tls;
use bytes::Bytes;
use mvps_core::env::{
    GetRange, ObjectBody, ObjectEntry, ObjectStore, PartTag, StoreError, UploadEntry, UploadId,
};

use super::s3_error::{causes, classify_code, no_credentials, translate};

/// S3's largest page of a listing and largest bulk deletion.
const PAGE_MAX: usize = 1000;
/// Where requests are signed for when nobody says where: what most other stores expect.
const REGION_DEFAULT: &str = "us-east-1";

/// Where the images are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket, which exists.
    pub bucket: String,
    /// Put before every key; empty, or ends in `/`.
    pub prefix: String,
    /// The server's URL (`S3_ENDPOINT`) if it is not Amazon's.
    pub endpoint: Option<String>,
}

/// An object store in a bucket.
pub struct S3ObjectStore {
    client: Client,
    location: S3Location,
    /// Over TLS the connection protects the body; it is not hashed once more for the signature.
    signs_bodies: bool,
}

impl S3ObjectStore {
    /// A client for `location`, with credentials and region from the default chain. Sends nothing
    /// to the store yet.
    ///
    /// # Errors
    /// `Denied` if there are no credentials. Once there were some, failing to renew them is
    /// `Unavailable`, since their source may come back.
    pub async fn connect(location: S3Location) -> Result<Self, StoreError> {
        Self::connect_with(location, None).await
    }

    async fn connect_with(
        location: S3Location,
        credentials: Option<Credentials>,
    ) -> Result<Self, StoreError> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &location.endpoint {
            loader = loader.endpoint_url(endpoint);
            if std::env::var_os("AWS_REGION").is_none() {
                // Not to ask the EC2 metadata service about a store that is not Amazon's.
                loader = loader.region(Region::from_static(REGION_DEFAULT));
            }
        }
        if let Some(credentials) = credentials {
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        let provider = shared.credentials_provider().ok_or_else(no_credentials)?;
        if let Err(error) = provider.provide_credentials().await {
            tracing::warn!("credentials: {}", causes(&error));
            return Err(no_credentials());
        }
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        config.set_force_path_style(Some(location.endpoint.is_some()));
        if shared.region().is_none() {
            config = config.region(Region::from_static(REGION_DEFAULT));
        }
        let plain = location
            .endpoint
            .as_ref()
            .is_some_and(|url| url.starts_with("http://"));
        Ok(Self {
            client: Client::from_conf(config.build()),
            location,
            signs_bodies: plain,
        })
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.location.prefix)
    }

    fn relative(&self, full: &str) -> Result<String, StoreError> {
        let relative = full.strip_prefix(&self.location.prefix).map(str::to_owned);
        relative.ok_or_else(|| corrupt(full, "a listing names a key that was not asked for"))
    }

    async fn put_if(&self, key: &str, body: Bytes, create: bool) -> Result<(), StoreError> {
        let request = self
            .client
            .put_object()
            .bucket(&self.location.bucket)
            .key(self.full(key))
            .set_if_none_match(create.then(|| "*".to_owned()))
            .body(ByteStream::from(body));
        let sent = if self.signs_bodies {
            request.send().await
        } else {
            request.customize().disable_payload_signing().send().await
        };
        sent.map(|_| ()).map_err(|error| translate(key, error))
    }

    /// The answer in the pieces in which it arrived.
    async fn read(&self, key: &str, range: &GetRange) -> Result<ObjectBody, StoreError> {
        let header = match range {
            GetRange::Whole => None,
            GetRange::Bytes(range) => Some(format!("bytes={}-{}", range.start, range.end - 1)),
        };
        let request = self
            .client
            .get_object()
            .bucket(&self.location.bucket)
            .key(self.full(key));
        let found = request.set_range(header).send().await;
        let mut found = found.map_err(|error| translate(key, error))?;
        let announced = found
            .content_length
            .and_then(|length| u64::try_from(length).ok());
        let expected = range.expected_bytes().or(announced);
        if announced.is_some() && announced != expected {
            return Err(corrupt(
                key,
                &format!("{announced:?} bytes instead of {expected:?}"),
            ));
        }
        let (mut pieces, mut length) = (Vec::new(), 0);
        while let Some(piece) = found.body.next().await {
            let broken = |error| StoreError::Unavailable {
                reason: format!("{key}: {error}"),
            };
            let piece = piece.map_err(broken)?;
            length += piece.len() as u64;
            pieces.push(piece);
        }
        if expected.is_some_and(|expected| expected != length) {
            return Err(corrupt(
                key,
                &format!("{length} bytes instead of {expected:?}"),
            ));
        }
        Ok(pieces.into())
    }

    async fn delete_one(&self, key: &str) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&self.location.bucket);
        let sent = request.key(self.full(key)).send().await;
        match sent.map_err(|error| translate(key, error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_page(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        let named = |key: &String| ObjectIdentifier::builder().key(self.full(key)).build();
        let objects: Result<Vec<_>, _> = keys.iter().map(named).collect();
        let objects = objects.expect("every object was given its key");
        let list = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build();
        let list = list.expect("the objects were given");
        let request = self.client.delete_objects().bucket(&self.location.bucket);
        match request.delete(list).send().await {
            Err(error) => {
                let error = translate(keys.first().map_or("", String::as_str), error);
                keys.iter().map(|_| Err(error.clone())).collect()
            }
            Ok(answer) => {
                let failures = answer.errors();
                keys.iter()
                    .map(|key| key_result(key, &self.full(key), failures))
                    .collect()
            }
        }
    }
}

fn corrupt(key: &str, reason: &str) -> StoreError {
    StoreError::Corrupt {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What a bulk deletion said about one key: with `quiet`, only failures are named.
fn key_result(key: &str, full: &str, failures: &[KeyError]) -> Result<(), StoreError> {
    let Some(failure) = failures.iter().find(|failure| failure.key() == Some(full)) else {
        return Ok(());
    };
    let code = failure.code().unwrap_or("InternalError");
    let reason = format!("delete {key}: {code}: {}", failure.message().unwrap_or(""));
    match classify_code(key, code, reason.clone()) {
        Some(StoreError::NotFound { .. }) => Ok(()),
        Some(error) => Err(error),
        None => Err(StoreError::Unavailable { reason }),
    }
}

/// What a listing promises and does not deliver.
fn missing(what: &str) -> StoreError {
    corrupt("", &format!("a listing without {what}"))
}

#[async_trait]
impl ObjectStore for S3ObjectStore {
    async fn put(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.put_if(key, body, false).await
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.put_if(key, body, true).await
    }

    async fn start_upload(&self, key: &str) -> Result<UploadId, StoreError> {
        let request = self
            .client
            .create_multipart_upload()
            .bucket(&self.location.bucket);
        let started = request.key(self.full(key)).send().await;
        let started = started.map_err(|error| translate(key, error))?;
        let id = started
            .upload_id
            .ok_or_else(|| corrupt(key, "an upload without an id"))?;
        Ok(UploadId(id))
    }

    async fn upload_part(
        &self,
        key: &str,
        upload: &UploadId,
        number: u32,
        body: Bytes,
    ) -> Result<PartTag, StoreError> {
        let number = i32::try_from(number).map_err(|_| StoreError::Invalid {
            reason: format!("part {number}"),
        })?;
        let request = self
            .client
            .upload_part()
            .bucket(&self.location.bucket)
            .key(self.full(key))
            .upload_id(&upload.0)
            .part_number(number)
            .body(ByteStream::from(body));
        let sent = if self.signs_bodies {
            request.send().await
        } else {
            request.customize().disable_payload_signing().send().await
        };
        let sent = sent.map_err(|error| translate(key, error))?;
        sent.e_tag
            .map(PartTag)
            .ok_or_else(|| corrupt(key, "a part without an ETag"))
    }

    async fn complete_upload(
        &self,
        key: &str,
        upload: &UploadId,
        parts: &[PartTag],
    ) -> Result<(), StoreError> {
        let parts = (1..).zip(parts).map(|(number, tag)| {
            CompletedPart::builder()
                .part_number(number)
                .e_tag(&tag.0)
                .build()
        });
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.collect()))
            .build();
        let request = self
            .client
            .complete_multipart_upload()
            .bucket(&self.location.bucket);
        let request = request
            .key(self.full(key))
            .upload_id(&upload.0)
            .multipart_upload(parts);
        request
            .send()
            .await
            .map(|_| ())
            .map_err(|error| translate(key, error))
    }

    async fn abort_upload(&self, key: &str, upload: &UploadId) -> Result<(), StoreError> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.location.bucket);
        let sent = request
            .key(self.full(key))
            .upload_id(&upload.0)
            .send()
            .await;
        match sent.map_err(|error| translate(key, error)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_uploads(&self, prefix: &str) -> Result<Vec<UploadEntry>, StoreError> {
        let mut uploads = Vec::new();
        let (mut key_marker, mut upload_marker) = (None, None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .bucket(&self.location.bucket);
            let request = request.prefix(self.full(prefix));
            let request = request
                .set_key_marker(key_marker)
                .set_upload_id_marker(upload_marker);
            let page = request
                .send()
                .await
                .map_err(|error| translate(prefix, error))?;
            for upload in page.uploads() {
                let key = upload.key().ok_or_else(|| missing("a key"))?;
                let id = upload.upload_id().ok_or_else(|| missing("an upload id"))?;
                let upload = UploadId(id.to_owned());
                uploads.push(UploadEntry {
                    key: self.relative(key)?,
                    upload,
                });
            }
            if page.is_truncated != Some(true) {
                return Ok(uploads);
            }
            let next = page
                .next_key_marker
                .ok_or_else(|| missing("its next page"))?;
            (key_marker, upload_marker) = (Some(next), page.next_upload_id_marker);
        }
    }

    async fn get(&self, key: &str, range: GetRange) -> Result<ObjectBody, StoreError> {
        if range.expected_bytes() == Some(0) {
            return Err(StoreError::Invalid {
                reason: format!("an empty range of {key}"),
            });
        }
        self.read(key, &range).await
    }

    async fn list(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectEntry>, StoreError> {
        let mut entries = Vec::new();
        let mut token = None;
        while entries.len() < limit {
            let page_limit = (limit - entries.len()).min(PAGE_MAX);
            let request = self.client.list_objects_v2().bucket(&self.location.bucket);
            let request = request.prefix(self.full(prefix));
            let request = request.set_start_after(start_after.map(|after| self.full(after)));
            let request = request.set_max_keys(i32::try_from(page_limit).ok());
            let page = request.set_continuation_token(token).send().await;
            let page = page.map_err(|error| translate(prefix, error))?;
            for object in page.contents() {
                let key = object.key().ok_or_else(|| missing("a key"))?;
                let size = object.size().and_then(|size| u64::try_from(size).ok());
                let size = size.ok_or_else(|| missing("a size"))?;
                entries.push(ObjectEntry {
                    key: self.relative(key)?,
                    size,
                });
            }
            if page.is_truncated != Some(true) {
                break;
            }
            let next = page
                .next_continuation_token
                .ok_or_else(|| missing("its next page"))?;
            token = Some(next);
        }
        entries.truncate(limit);
        Ok(entries)
    }

    async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let full = self.full(prefix);
        let mut folders = Vec::new();
        let mut token = None;
        loop {
            let request = self.client.list_objects_v2().bucket(&self.location.bucket);
            let request = request
                .prefix(&full)
                .delimiter("/")
                .set_continuation_token(token);
            let page = request
                .send()
                .await
                .map_err(|error| translate(prefix, error))?;
            for folder in page.common_prefixes() {
                let name = folder.prefix().and_then(|name| name.strip_prefix(&full));
                folders.push(name.ok_or_else(|| missing("a folder's name"))?.to_owned());
            }
            if page.is_truncated != Some(true) {
                return Ok(folders);
            }
            let next = page
                .next_continuation_token
                .ok_or_else(|| missing("its next page"))?;
            token = Some(next);
        }
    }

    async fn delete(&self, keys: &[String]) -> Vec<Result<(), StoreError>> {
        if let [key] = keys {
            return vec![self.delete_one(key).await];
        }
        let mut results = Vec::with_capacity(keys.len());
        for page in keys.chunks(PAGE_MAX) {
            results.extend(self.delete_page(page).await);
        }
        results
    }
}

#[cfg(test)]
pub(super) mod tests;
