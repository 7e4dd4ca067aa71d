//! What an answer of S3 means to the caller: by error code where there is one, else by status.
//!
//! The code goes first because S3 also reports errors inside a 200 (completing an upload), and
//! because other stores are freer with statuses than with codes.

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use mvps_core::env::StoreError;

/// Translates whatever the SDK returned for `key`.
pub(super) fn translate<E>(key: &str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (code, status) = match &error {
        SdkError::ServiceError(answer) => (
            answer.err().code().map(str::to_owned),
            answer.raw().status().as_u16(),
        ),
        // An answer that is no S3 answer: a proxy's error page, or a body that broke off.
        SdkError::ResponseError(answer) => (None, answer.raw().status().as_u16()),
        _ if lacks_credentials(&error) => {
            return no_credentials();
        }
        SdkError::ConstructionFailure(_) => {
            return StoreError::Invalid {
                reason: describe(key, &error),
            };
        }
        _ => {
            return StoreError::Unavailable {
                reason: describe(key, &error),
            };
        }
    };
    let reason = describe(key, &error);
    let by_code = code.and_then(|code| classify_code(key, &code, reason.clone()));
    by_code.unwrap_or_else(|| classify_status(key, status, reason))
}

fn describe<E>(key: &str, error: &SdkError<E, HttpResponse>) -> String
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let SdkError::ServiceError(answer) = error else {
        return format!("{key}: {}", causes(error));
    };
    let status = answer.raw().status().as_u16();
    let code = answer.err().code().unwrap_or("no code");
    let message = answer.err().message().unwrap_or("no message");
    let request = answer.err().meta().request_id().unwrap_or("unknown");
    format!("{key}: {status} {code}: {message} (request {request})")
}

/// What to do about missing credentials.
pub(super) fn no_credentials() -> StoreError {
    let reason = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or another \
                  source of the AWS default chain";
    StoreError::Denied {
        reason: reason.to_owned(),
    }
}

/// An error and what caused it, in one line.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The SDK could not find credentials at all; asking again will not find any.
fn lacks_credentials(error: &(dyn std::error::Error + 'static)) -> bool {
    use aws_credential_types::provider::error::CredentialsError;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(CredentialsError::CredentialsNotLoaded(_)) = error.downcast_ref() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What an error code means, if it says more than the status.
pub(super) fn classify_code(key: &str, code: &str, reason: String) -> Option<StoreError> {
    let key = key.to_owned();
    let error = match code {
        "NoSuchKey" | "NoSuchUpload" => StoreError::NotFound { key },
        "NoSuchBucket"
        | "PermanentRedirect"
        | "AuthorizationHeaderMalformed"
        | "NotImplemented" => StoreError::Invalid { reason },
        "PreconditionFailed" => StoreError::AlreadyExists { key },
        "ConditionalRequestConflict"
        | "OperationAborted"
        | "InternalError"
        | "ServiceUnavailable"
        | "RequestTimeout"
        | "IncompleteBody" => StoreError::Unavailable { reason },
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException" => StoreError::SlowDown { reason },
        "InvalidRange" => StoreError::Corrupt { key, reason },
        "AccessDenied"
        | "AllAccessDisabled"
        | "AccountProblem"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "RequestTimeTooSkewed" => StoreError::Denied { reason },
        _ => return None,
    };
    Some(error)
}

/// What a status means by itself.
pub(super) fn classify_status(key: &str, status: u16, reason: String) -> StoreError {
    let key = key.to_owned();
    match status {
        404 => StoreError::NotFound { key },
        412 => StoreError::AlreadyExists { key },
        416 => StoreError::Corrupt { key, reason },
        401 | 403 => StoreError::Denied { reason },
        429 | 503 => StoreError::SlowDown { reason },
        501 => StoreError::Invalid { reason },
        // Below 300: an answer that could not be read. 408 and 409: try again.
        0..300 | 408 | 409 | 500.. => StoreError::Unavailable { reason },
        _ => StoreError::Invalid { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(error: &StoreError) -> &'static str {
        match error {
            StoreError::NotFound { .. } => "not found",
            StoreError::AlreadyExists { .. } => "exists",
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::SlowDown { .. } => "slow down",
            StoreError::Corrupt { .. } => "corrupt",
            StoreError::Denied { .. } => "denied",
            StoreError::Invalid { .. } => "invalid",
        }
    }

    #[test]
    fn statuses() {
        for (status, expected) in [
            (200, "unavailable"),
            (301, "invalid"),
            (400, "invalid"),
            (403, "denied"),
            (404, "not found"),
            (409, "unavailable"),
            (412, "exists"),
            (416, "corrupt"),
            (429, "slow down"),
            (500, "unavailable"),
            (501, "invalid"),
            (502, "unavailable"),
            (503, "slow down"),
            (504, "unavailable"),
        ] {
            assert_eq!(
                name(&classify_status("k", status, String::new())),
                expected,
                "{status}"
            );
        }
    }

    #[test]
    fn codes() {
        for (code, expected) in [
            ("NoSuchKey", "not found"),
            ("NoSuchBucket", "invalid"),
            ("PreconditionFailed", "exists"),
            ("ConditionalRequestConflict", "unavailable"),
            ("InternalError", "unavailable"),
            ("SlowDown", "slow down"),
            ("InvalidRange", "corrupt"),
            ("AccessDenied", "denied"),
        ] {
            let error = classify_code("k", code, String::new());
            assert_eq!(error.as_ref().map(name), Some(expected), "{code}");
        }
        assert_eq!(classify_code("k", "EntityTooSmall", String::new()), None);
    }
}
