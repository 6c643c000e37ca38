//! What went wrong, from the words of the SDK and the server to ours.

use std::error::Error as StdError;
use std::fmt::Debug;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::Error;

/// Where the error happened.
pub(super) struct Place<'a> {
    pub(super) store: &'a str,
    pub(super) key: &'a str,
    /// Whether "not found" can only mean the object.
    pub(super) of_object: bool,
}

impl Place<'_> {
    /// Server codes count more than the status, and the status more than the way in which no answer came.
    pub(super) fn error<E>(&self, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Debug + 'static,
    {
        let (store, why) = (self.store.to_owned(), why(error));
        let status = error.raw_response().map_or(0, |answer| answer.status().as_u16());
        match error.code().unwrap_or_default() {
            "NoSuchBucket" => Error::NoBucket { store, why },
            "NoSuchKey" => Error::NotFound { store, key: self.key.to_owned() },
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied" | "ExpiredToken" | "InvalidToken" => {
                Error::Denied { store, why }
            }
            "SlowDown" | "RequestTimeout" | "IncompleteBody" | "BadDigest" | "XMinioServerNotInitialized" => {
                Error::Temporary { store, why }
            }
            "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" | "QuotaExceeded" => Error::Full { store, why },
            _ => match status {
                404 if self.of_object => Error::NotFound { store, key: self.key.to_owned() },
                404 => Error::NoBucket { store, why },
                401 | 403 => Error::Denied { store, why },
                507 => Error::Full { store, why },
                501 => Error::Other { store, why },
                408 | 429 | 500.. => Error::Temporary { store, why },
                _ if is_passing(error) => Error::Temporary { store, why },
                _ => Error::Other { store, why },
            },
        }
    }
}

/// Whether no answer came, for a reason that may go away: the network, or credentials that could not be fetched just
/// now. A certificate that is not trusted stays so.
fn is_passing<E: StdError + Debug + 'static>(error: &SdkError<E>) -> bool {
    let causes = causes(error).join(": ");
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::DispatchFailure(_) => !causes.contains("invalid peer certificate"),
        SdkError::ConstructionFailure(_) => causes.contains("credential"),
        _ => false,
    }
}

/// The server's code and message, or the causes of a request that got no answer.
fn why<E: ProvideErrorMetadata + StdError + Debug + 'static>(error: &SdkError<E>) -> String {
    let status = error.raw_response().map(|answer| answer.status().as_u16());
    match (error.code(), error.message(), status) {
        (Some(code), Some(message), _) => format!("{code}: {message}"),
        (Some(code), None, _) => code.to_owned(),
        (None, _, Some(status)) if !(200..300).contains(&status) => format!("HTTP status {status}"),
        _ => causes(error).join(": "),
    }
}

/// What the SDK says around a cause without telling more of it.
const WRAPPERS: [&str; 6] =
    ["dispatch failure", "io error", "other", "service error", "client error (Connect)", "client error (SendRequest)"];

/// The texts of an error and of what caused it, without repetitions and wrappers.
pub(super) fn causes(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        let is_said = WRAPPERS.contains(&text.as_str()) || texts.iter().any(|known| known.contains(&text));
        if !is_said {
            texts.push(text);
        }
        next = cause.source();
    }
    texts
}
