//! From the storage members of a Format to a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{
    Error, FileStore, Limits, Measured, MemoryStore, ObjectStore, Prefixed, Requests, Result, Retried, S3Store,
    Sharded, Throttled, TimeLimited,
};

/// Most shards that a Format may have (format.md §1).
const MAX_SHARDS: u32 = 256;

/// Where objects lie and who we are there: the members `Storage`, `Bucket`, `AccessKey`, `SecretKey`, `SessionToken`
/// and `Shards` of a Format.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// `file`, `s3`, `minio` or `mem`, in any case.
    pub storage: String,
    /// A directory for `file`, a URL for `s3` (format.md §8), anything for `mem`. With shards, `%d` in it stands for
    /// the shard's number.
    pub bucket: String,
    /// For `s3`: `anonymous` = unsigned requests; none or empty = the default chain of the AWS tools (environment,
    /// profile, web identity, instance).
    pub access_key: Option<String>,
    /// Belongs to `access_key`.
    pub secret_key: Option<String>,
    /// Belongs to a temporary `access_key`.
    pub session_token: Option<String>,
    /// Number of buckets; 0 and 1 mean one.
    pub shards: u32,
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { storage, bucket, shards, .. } = self;
        f.debug_struct("StorageConfig")
            .field("storage", storage)
            .field("bucket", &crate::s3::without_password(bucket))
            .field("shards", shards)
            .finish_non_exhaustive()
    }
}

/// A store as `config` names it, bare: no prefix, retries, limits or timeouts. Asks no server: whether the bucket is
/// there shows at the first call, or by [`check`](crate::check()). A `mem` store is a new, empty one each time.
///
/// # Errors
/// [`Error::Config`] for an unknown storage type, a malformed bucket, or keys that do not go together.
pub async fn open(config: &StorageConfig) -> Result<Arc<dyn ObjectStore>> {
    if config.shards <= 1 {
        return open_one(config).await;
    }
    let mut shards = Vec::new();
    for number in 0..checked_shards(config)? {
        let bucket = config.bucket.replacen("%d", &number.to_string(), 1);
        shards.push(open_one(&StorageConfig { bucket, ..config.clone() }).await?);
    }
    Ok(Arc::new(Sharded::new(shards)))
}

fn checked_shards(config: &StorageConfig) -> Result<u32> {
    if config.shards > MAX_SHARDS {
        let why = format!("at most {MAX_SHARDS} are possible");
        return Err(Error::Config { field: "shards", value: config.shards.to_string(), why });
    }
    if config.bucket.matches("%d").count() != 1 {
        let why = format!("with {} shards it must contain %d once, for the shard's number", config.shards);
        return Err(Error::Config { field: "bucket", value: crate::s3::without_password(&config.bucket), why });
    }
    Ok(config.shards)
}

async fn open_one(config: &StorageConfig) -> Result<Arc<dyn ObjectStore>> {
    match config.storage.to_ascii_lowercase().as_str() {
        "file" => Ok(Arc::new(FileStore::new(&config.bucket)?)),
        "s3" | "minio" => Ok(Arc::new(S3Store::open(config).await?)),
        "mem" => Ok(Arc::new(MemoryStore::new())),
        _ => Err(Error::Config {
            field: "storage",
            value: config.storage.clone(),
            why: "unknown; known are file, s3, minio (the same as s3) and mem".to_owned(),
        }),
    }
}

/// What a mount puts around a store.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Goes before every key: `<Name>/`.
    pub prefix: String,
    /// Attempts beyond the first for temporary errors.
    pub retries: u32,
    /// Longest time of one attempt to get, head, list or delete.
    pub get_timeout: Duration,
    /// Longest time of one attempt to put.
    pub put_timeout: Duration,
    /// Bytes per second.
    pub limits: Arc<Limits>,
    /// Where attempts are counted.
    pub requests: Arc<Requests>,
}

impl Default for Policy {
    /// No prefix, retries or limits; a minute for an attempt.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self {
            prefix: String::new(),
            retries: 0,
            get_timeout: minute,
            put_timeout: minute,
            limits: Arc::default(),
            requests: Arc::default(),
        }
    }
}

/// `store` with the volume's prefix, retries, limits and timeouts. Waiting for a limit does not count as time of an
/// attempt, and every attempt counts against the limits.
pub fn decorate(store: Arc<dyn ObjectStore>, policy: &Policy) -> Arc<dyn ObjectStore> {
    let mut store: Arc<dyn ObjectStore> = Arc::new(Prefixed::new(store, policy.prefix.clone()));
    store = Arc::new(TimeLimited::new(store, policy.get_timeout, policy.put_timeout));
    store = Arc::new(Measured::new(store, Arc::clone(&policy.requests)));
    store = Arc::new(Throttled::new(store, Arc::clone(&policy.limits)));
    Arc::new(Retried::new(store, policy.retries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(storage: &str, bucket: &str) -> StorageConfig {
        StorageConfig { storage: storage.into(), bucket: bucket.into(), ..StorageConfig::default() }
    }

    #[tokio::test]
    async fn an_unknown_storage_is_named_with_the_known_ones() {
        let error = open(&config("gs", "b")).await.unwrap_err().to_string();
        let expected = r#"object storage storage "gs": unknown; known are file, s3, minio (the same as s3) and mem"#;
        assert_eq!(error, expected);
    }

    #[tokio::test]
    async fn shards_need_their_place_in_the_bucket() {
        let error = open(&StorageConfig { shards: 3, ..config("file", "/tmp/x/") }).await.unwrap_err().to_string();
        assert!(error.contains("%d once"), "{error}");
        let error = open(&StorageConfig { shards: 300, ..config("file", "/tmp/%d/") }).await.unwrap_err().to_string();
        assert!(error.contains("300") && error.contains("at most 256"), "{error}");
        let store = open(&StorageConfig { shards: 3, ..config("file", "/tmp/%d/") }).await.unwrap();
        assert_eq!(store.describe(), "shards 0..=2, the first being file:///tmp/0/");
    }

    #[tokio::test]
    async fn a_decorated_store_behaves_as_every_store_does() {
        let limits = Arc::new(Limits::new(1 << 40, 1 << 40));
        let policy = Policy { prefix: "vol/".into(), retries: 3, limits, ..Policy::default() };
        crate::behaviour::check(decorate(Arc::new(MemoryStore::new()), &policy)).await;
    }

    #[test]
    fn secrets_do_not_show() {
        let mut config = config("s3", "http://user:password@host/b");
        config.access_key = Some("AKIA".into());
        config.secret_key = Some("hunter2".into());
        let shown = format!("{config:?}");
        assert!(!shown.contains("AKIA") && !shown.contains("hunter2") && !shown.contains("password"), "{shown}");
    }
}
