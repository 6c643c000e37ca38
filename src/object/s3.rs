//! S3 and what speaks its protocol.
//!
//! Retries and timeouts are layers of ours, so the SDK's are off, except for making a connection. Checksums beyond the
//! protocol's are sent only where an operation requires them, since many compatible stores refuse them; over TLS a body
//! is not hashed for its signature either, because TLS protects it.

mod address;
mod client;
mod failure;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration, Object};
use bytes::{Bytes, BytesMut};
use stead_base::Timestamp;

use crate::{Error, ObjectInfo, ObjectStore, Result, StorageConfig};
use address::Address;
use failure::Place;

pub(crate) use address::without_password;

/// Most objects that a server lists at once.
const PAGE: usize = 1000;
/// The region that needs no name.
const DEFAULT_REGION: &str = "us-east-1";

/// A bucket.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    address: Address,
    region: String,
    shown: String,
}

impl S3Store {
    /// A bucket as a Format names it. Nothing is sent yet. The region is what the host's name says, else
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`, else us-east-1.
    ///
    /// # Errors
    /// [`Error::Config`] for an address or keys that cannot be right.
    pub async fn open(config: &StorageConfig) -> Result<Self> {
        let plain = config.storage.eq_ignore_ascii_case("minio");
        let address = Address::parse(&config.bucket, plain)?;
        let region = client::region(&address).await;
        let client = client::connect(&address, &region, config).await?;
        Ok(Self { client, shown: address.describe(), address, region })
    }

    fn bucket(&self) -> &str {
        &self.address.bucket
    }

    /// An error of a call that reads or deletes `key`.
    fn object_error<E>(&self, key: &str, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Place { store: &self.shown, key, of_object: true }.error(error)
    }

    /// An error of a call for which only the bucket can be missing.
    fn bucket_error<E>(&self, key: &str, error: &SdkError<E>) -> Error
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Place { store: &self.shown, key, of_object: false }.error(error)
    }

    async fn body(&self, key: &str, mut answer: GetObjectOutput) -> Result<Bytes> {
        let broken = |why: String| Error::Temporary { store: self.shown.clone(), why: format!("{key:?}: {why}") };
        let expected = answer.content_length().and_then(|length| usize::try_from(length).ok());
        let mut body = Body::default();
        while let Some(part) = answer.body.next().await {
            let part = part.map_err(|error| broken(failure::causes(&error).join(": ")))?;
            body.push(part, expected.unwrap_or(0));
        }
        let body = body.finish();
        match expected {
            Some(expected) if expected != body.len() => {
                Err(broken(format!("{} of {expected} bytes arrived", body.len())))
            }
            _ => Ok(body),
        }
    }

    async fn page(&self, prefix: &str, after: &str, limit: usize) -> Result<ListObjectsV2Output> {
        let limit = i32::try_from(limit.min(PAGE)).expect("at most 1000");
        let after = (!after.is_empty()).then(|| after.to_owned());
        let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(prefix).max_keys(limit);
        request.set_start_after(after).send().await.map_err(|error| self.bucket_error(prefix, &error))
    }
}

/// The parts of an answer, which are copied together only if there are several.
#[derive(Default)]
struct Body {
    first: Bytes,
    joined: BytesMut,
}

impl Body {
    fn push(&mut self, part: Bytes, expected: usize) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = part;
            return;
        }
        if self.joined.is_empty() {
            self.joined.reserve(expected.max(self.first.len() + part.len()));
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(&part);
    }

    fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

fn timestamp(time: Option<&DateTime>) -> Timestamp {
    time.map_or_else(Timestamp::default, |time| Timestamp { secs: time.secs(), nanos: time.subsec_nanos() })
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0)
}

fn listed(object: &Object) -> ObjectInfo {
    ObjectInfo {
        key: object.key().unwrap_or_default().to_owned(),
        size: size(object.size()),
        modified: timestamp(object.last_modified()),
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        if range.as_ref().is_some_and(|range| range.end <= range.start) {
            // HTTP has no empty ranges.
            return self.head(key).await.map(|_exists| Bytes::new());
        }
        let wanted = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let sent = self.client.get_object().bucket(self.bucket()).key(key).set_range(wanted).send().await;
        match sent {
            Ok(answer) => self.body(key, answer).await,
            Err(error) if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 416) => {
                Ok(Bytes::new())
            }
            Err(error) => Err(self.object_error(key, &error)),
        }
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let request = self.client.put_object().bucket(self.bucket()).key(key).body(ByteStream::from(body));
        let sent = if self.address.is_tls() {
            request.customize().disable_payload_signing().send().await
        } else {
            request.send().await
        };
        sent.map(drop).map_err(|error| self.bucket_error(key, &error))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let sent = self.client.delete_object().bucket(self.bucket()).key(key).send().await;
        match sent.map_err(|error| self.object_error(key, &error)) {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let sent = self.client.head_object().bucket(self.bucket()).key(key).send().await;
        let answer = sent.map_err(|error| self.object_error(key, &error))?;
        let (size, modified) = (size(answer.content_length()), timestamp(answer.last_modified()));
        Ok(ObjectInfo { key: key.to_owned(), size, modified })
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let mut found: Vec<ObjectInfo> = Vec::new();
        while found.len() < limit {
            let last = found.last().map_or(after, |last| last.key.as_str());
            let answer = self.page(prefix, last, limit - found.len()).await?;
            found.extend(answer.contents().iter().map(listed));
            if answer.is_truncated() != Some(true) || answer.contents().is_empty() {
                break;
            }
        }
        Ok(found)
    }

    async fn create_bucket(&self) -> Result<()> {
        let place = (self.region != DEFAULT_REGION).then(|| {
            let region = BucketLocationConstraint::from(self.region.as_str());
            CreateBucketConfiguration::builder().location_constraint(region).build()
        });
        let request = self.client.create_bucket().bucket(self.bucket()).set_create_bucket_configuration(place);
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error) => match error.code() {
                Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists") => Ok(()),
                _ => Err(self.bucket_error("", &error)),
            },
        }
    }
}
