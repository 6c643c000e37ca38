//! From a Format to an object store, also when the Format changes while the mount serves.

use std::sync::Arc;

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
