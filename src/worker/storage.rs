//! From a Format to an object store, also when the Format changes while the mount serves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stead_base::SliceId;
use stead_chunk::ChunkStore;
use stead_meta::format::Format;
use stead_meta::ops::{Meta, SliceRemover};
use stead_object::{ObjectStore, Policy, StorageConfig, Swappable};
use stead_volume::{MountConfig, Secret};
use tracing::{info, warn};

use crate::error::Error;

/// Where the Format, or what the mount overrides of it, says that the objects are.
fn storage_config(format: &Format, mount: &MountConfig) -> StorageConfig {
    let own = |given: &Option<Secret>, stored: &str| match given {
        Some(secret) => Some(secret.0.clone()),
        None => (!stored.is_empty()).then(|| stored.to_owned()),
    };
    StorageConfig {
        storage: mount.options.storage.clone().unwrap_or_else(|| format.storage.clone()),
        bucket: mount.options.bucket.clone().unwrap_or_else(|| format.bucket.clone()),
        access_key: own(&mount.access_key, &format.access_key),
        secret_key: own(&mount.secret_key, &format.secret_key),
        session_token: own(&mount.session_token, &format.session_token),
        shards: format.shards,
    }
}

/// The store of the volume's objects, with retries, timeouts, limits and the volume's prefix.
///
/// # Errors
/// A storage type or bucket address that cannot be right. Whether the bucket answers shows at the first request.
pub(crate) async fn object_store(format: &Format, mount: &MountConfig) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut format = format.clone();
    format.decrypt_secrets()?;
    if !format.encrypt_key.is_empty() {
        let why = "encryption at rest is not supported by this version".to_owned();
        let value = "(a key)".to_owned();
        return Err(stead_meta::Error::Format { member: "EncryptKey", value, why }.into());
    }
    let raw = stead_object::open(&storage_config(&format, mount)).await?;
    Ok(stead_object::decorate(raw, &policy(&format, mount)))
}

/// How long a bucket may take to say whose it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Refuses a bucket that is not there, that we may not read, or that belongs to another volume (format.md §1.3). One that
/// does not answer now may later: requests to it are retried, so it is only warned of.
pub(crate) async fn check_owner(objects: &dyn ObjectStore, uuid: &str) -> Result<(), Error> {
    let store = objects.describe();
    match tokio::time::timeout(PATIENCE, objects.get("juicefs_uuid", None)).await {
        Ok(Ok(found)) if found == uuid.as_bytes() => Ok(()),
        Ok(Ok(found)) => {
            let found = String::from_utf8_lossy(&found[..found.len().min(64)]).into_owned();
            Err(Error::ForeignBucket { store, found, expected: uuid.to_owned() })
        }
        Ok(Err(stead_object::Error::NotFound { .. })) => {
            warn!(store, "the bucket has no juicefs_uuid that says which volume it belongs to");
            Ok(())
        }
        Ok(Err(error)) if error.is_temporary() => {
            warn!(%error, "the bucket does not answer yet");
            Ok(())
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_elapsed) => {
            warn!(store, "the bucket does not answer yet");
            Ok(())
        }
    }
}

fn policy(format: &Format, mount: &MountConfig) -> Policy {
    let options = &mount.options;
    let limit = |own: u64, stored: u64| if own > 0 { own.saturating_mul(1_000_000) / 8 } else { stored };
    Policy {
        prefix: format!("{}/", format.name),
        retries: options.io_retries,
        get_timeout: options.get_timeout,
        put_timeout: options.put_timeout,
        upload_limit: limit(options.upload_limit, format.upload_bytes_per_second()),
        download_limit: limit(options.download_limit, format.download_bytes_per_second()),
    }
}

/// Applies a changed storage or limit of the Format without a restart.
pub(crate) fn follow_format(meta: &Arc<Meta>, objects: &Arc<Swappable>, mount: &MountConfig) {
    let (objects, mount) = (Arc::clone(objects), mount.clone());
    meta.on_reload(Box::new(move |format| {
        let (objects, mount, format) = (Arc::clone(&objects), mount.clone(), format.clone());
        tokio::spawn(async move {
            match object_store(&format, &mount).await {
                Ok(store) => {
                    info!(store = store.describe(), "the Format changed");
                    objects.replace(store);
                }
                Err(error) => warn!(%error, "the Format names a storage that cannot be used; the old one stays"),
            }
        });
    }));
}

/// Lets the metadata layer remove blocks.
pub(crate) struct Remover(pub(crate) Arc<ChunkStore>);

#[async_trait]
impl SliceRemover for Remover {
    async fn remove_slice(&self, id: SliceId, size: u32) -> Result<(), String> {
        self.0.remove(id, size).await.map_err(|error| error.to_string())
    }
}
