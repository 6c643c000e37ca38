//! Opening a file system for the control path: engine, Format, objects. Formats it if it is not there yet.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use stead_base::{Clock, SliceId};
use stead_meta::Error as MetaError;
use stead_meta::format::Format;
use stead_meta::ops::{Meta, MetaOptions, SliceRemover};
use stead_meta::store::Store;
use stead_meta::url::{ConnectOptions, MetaUrl, connect};
use stead_object::{Encrypted, Encryption, ObjectStore, Policy, StorageConfig};
use tracing::info;

use crate::error::{Error, Result};
use crate::mount::Secret;
use crate::secrets::VolumeSecrets;

/// How long an engine or a bucket may take to answer before a call fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls at the same time that remove blocks.
const PARALLEL: usize = 16;
/// The object that says whose prefix this is (format.md §1.3).
const UUID_OBJECT: &str = "juicefs_uuid";

/// A file system as the control path works with it.
pub(crate) struct FileSystem {
    pub(crate) meta: Arc<Meta>,
    pub(crate) objects: Arc<dyn ObjectStore>,
}

/// Waits for a first contact, so that a wrong address is an error and not a hanging call. Boxed, since clients of engines
/// and buckets are large while they connect.
fn patiently<'a, T: Send + 'a, E: 'a>(
    what: &'static str,
    work: impl Future<Output = Result<T, E>> + Send + 'a,
) -> Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>
where
    Error: From<E>,
{
    Box::pin(async move {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(result) => Ok(result?),
            Err(_elapsed) => Err(Error::Deadline { what, limit: PATIENCE }),
        }
    })
}

/// Connects to an engine. `create` makes a SQLite file that is not there.
pub(crate) async fn engine(url: &MetaUrl, create: bool, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Store>> {
    let mut options = ConnectOptions::new(Arc::clone(clock));
    options.retry_for = PATIENCE / 2;
    options.create = create;
    patiently("connecting to the metadata engine", connect(url, &options)).await
}

/// The engine of a file system that may have to be made. A SQLite file is only created once `wanted` is known to be right
/// and its bucket to be usable, so that a failed call leaves no file behind.
pub(crate) async fn engine_to_format(
    url: &MetaUrl,
    wanted: impl FnOnce() -> Result<Format>,
    secrets: &VolumeSecrets,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Store>> {
    if let MetaUrl::Sqlite { path } = url
        && !path.exists()
    {
        usable_bucket(&wanted()?, secrets).await?;
    }
    engine(url, true, clock).await
}

/// Makes sure that a new file system can keep its objects where `format` says.
async fn usable_bucket(format: &Format, secrets: &VolumeSecrets) -> Result<()> {
    let objects = objects(format, secrets).await?;
    patiently("reaching the bucket", async {
        objects.create_bucket().await?;
        stead_object::check(&*objects).await
    })
    .await?;
    patiently("listing the bucket", empty_prefix(&*objects)).await
}

/// The Format in an engine; `None` if there is none.
pub(crate) async fn stored_format(store: &dyn Store) -> Result<Option<Format>> {
    match patiently("reading the Format", Meta::load_format(store)).await {
        Ok(format) => Ok(Some(format)),
        Err(Error::Meta(MetaError::NotFormatted { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens what is formatted in `store`.
pub(crate) async fn open(
    store: Arc<dyn Store>,
    format: Format,
    secrets: &VolumeSecrets,
    clock: &Arc<dyn Clock>,
) -> Result<FileSystem> {
    let objects = objects(&format, secrets).await?;
    let options = MetaOptions {
        enable_xattr: true,
        no_bgjob: true,
        // Times in directories matter to nobody here, but are cheap to keep exact.
        skip_dir_mtime: Duration::ZERO,
        clock: Arc::clone(clock),
        ..MetaOptions::default()
    };
    let blocks = Blocks::of(&format, Arc::clone(&objects));
    let meta = Meta::new(store, format, options).await?;
    meta.set_slice_remover(Arc::new(blocks));
    Ok(FileSystem { meta, objects })
}

/// Opens the file system `wanted.name` in `store` for a new volume: formats it if nothing is there, and makes sure that
/// its bucket answers and is its own.
///
/// # Errors
/// [`Error::InUse`] when engine or prefix hold something else.
pub(crate) async fn ensure(
    store: Arc<dyn Store>,
    wanted: impl FnOnce() -> Result<Format>,
    name: &str,
    secrets: &VolumeSecrets,
    clock: &Arc<dyn Clock>,
) -> Result<FileSystem> {
    let format = match stored_format(&*store).await? {
        Some(format) => format,
        None => write_format(&*store, &wanted()?, secrets, clock).await?,
    };
    if format.name != name {
        let why = format!("it holds the file system {:?}, the secret names {name:?}", format.name);
        return Err(Error::InUse { place: store.describe(), why });
    }
    let file_system = open(store, format, secrets, clock).await?;
    let uuid = file_system.meta.format().uuid.clone();
    patiently("reading from the bucket", own_prefix(&*file_system.objects, &uuid)).await?;
    Ok(file_system)
}

/// Formats: the setting first, the bucket's mark after it, so that a crash in between is repaired by [`own_prefix`].
async fn write_format(
    store: &dyn Store,
    format: &Format,
    secrets: &VolumeSecrets,
    clock: &Arc<dyn Clock>,
) -> Result<Format> {
    let mut format = format.clone();
    format.raise_min_client_version();
    format.validate()?;
    match usable_bucket(&format, secrets).await {
        Ok(()) => {}
        // Another controller may have formatted it just now.
        Err(in_use @ Error::InUse { .. }) => return stored_format(store).await?.ok_or(in_use),
        Err(error) => return Err(error),
    }
    match Meta::write_format(store, &format, clock.as_ref()).await {
        Ok(format) => {
            info!(name = format.name, uuid = format.uuid, engine = store.describe(), "formatted a file system");
            Ok(format)
        }
        // Somebody else's file system came first; the caller compares the names.
        Err(error @ MetaError::Format { .. }) => stored_format(store).await?.ok_or(Error::Meta(error)),
        Err(error) => Err(error.into()),
    }
}

/// Makes sure that the objects of the file system `old` are where and as `new` says.
///
/// # Errors
/// The bucket that does not answer, is another one's, or does not have them.
pub(crate) async fn check_place(new: &Format, old: &Format, secrets: &VolumeSecrets) -> Result<()> {
    let objects = objects(new, secrets).await?;
    let moved = (&new.storage, &new.bucket) != (&old.storage, &old.bucket);
    patiently("reading from the bucket", async {
        match objects.get(UUID_OBJECT, None).await {
            Err(stead_object::Error::NotFound { .. }) if moved => {
                let why = format!("the objects of this file system have to be there first, {UUID_OBJECT:?} among them");
                Err(Error::Secret { name: "bucket", why })
            }
            _ => own_prefix(&*objects, &new.uuid).await,
        }
    })
    .await
}

async fn empty_prefix(objects: &dyn ObjectStore) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = objects.list("", &after, 100).await?;
        if let Some(object) = page.iter().find(|object| object.size > 0 && !object.key.starts_with("testing")) {
            let why = format!("a new file system needs an empty prefix, but there is {:?}", object.key);
            return Err(Error::InUse { place: objects.describe(), why });
        }
        match page.last() {
            Some(last) if page.len() == 100 => after.clone_from(&last.key),
            _ => return Ok(()),
        }
    }
}

/// Makes sure that the prefix belongs to the file system `uuid`, and marks it if a crash prevented that.
async fn own_prefix(objects: &dyn ObjectStore, uuid: &str) -> Result<()> {
    match objects.get(UUID_OBJECT, None).await {
        Ok(found) if found == uuid.as_bytes() => Ok(()),
        Ok(found) => {
            let other = String::from_utf8_lossy(&found[..found.len().min(64)]).into_owned();
            let why = format!("it belongs to the file system {other:?}, this one is {uuid}");
            Err(Error::InUse { place: objects.describe(), why })
        }
        Err(stead_object::Error::NotFound { .. }) => {
            Ok(objects.put(UUID_OBJECT, Bytes::copy_from_slice(uuid.as_bytes())).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The bucket of new file systems, without a prefix; `None` if the Secret names none.
///
/// # Errors
/// As of [`open_objects`].
pub(crate) async fn bucket(secrets: &VolumeSecrets) -> Result<Option<Arc<dyn ObjectStore>>> {
    if secrets.storage.is_none() || secrets.bucket.is_none() {
        return Ok(None);
    }
    open_raw(&secrets.new_format(&secrets.name)?, String::new()).await.map(Some)
}

/// The objects of a file system, below its prefix. Credentials in the Secret win over those in the Format.
async fn objects(format: &Format, secrets: &VolumeSecrets) -> Result<Arc<dyn ObjectStore>> {
    let mut format = format.clone();
    format.decrypt_secrets()?;
    let set = |member: &mut String, given: &Option<Secret>| {
        if let Some(secret) = given {
            member.clone_from(&secret.0);
        }
    };
    set(&mut format.access_key, &secrets.access_key);
    set(&mut format.secret_key, &secrets.secret_key);
    set(&mut format.session_token, &secrets.session_token);
    open_objects(&format, secrets.passphrase.as_ref()).await
}

/// The objects of a file system, below its prefix, where and with the credentials that the Format has. `passphrase` is that
/// of its key, if it is encrypted at rest.
///
/// # Errors
/// A storage type, bucket address or key that cannot be right; a secret that is lost.
pub async fn open_objects(format: &Format, passphrase: Option<&Secret>) -> Result<Arc<dyn ObjectStore>> {
    let mut format = format.clone();
    format.decrypt_secrets()?;
    let encryption = encryption(&format, passphrase)?;
    let stored = open_raw(&format, format!("{}/", format.name)).await?;
    Ok(Encrypted::around(stored, encryption))
}

/// Objects as they are stored, below `prefix`. The secrets in the Format are not encrypted.
async fn open_raw(format: &Format, prefix: String) -> Result<Arc<dyn ObjectStore>> {
    let given = |member: &str| (!member.is_empty()).then(|| member.to_owned());
    let config = StorageConfig {
        storage: format.storage.clone(),
        bucket: format.bucket.clone(),
        access_key: given(&format.access_key),
        secret_key: given(&format.secret_key),
        session_token: given(&format.session_token),
        shards: format.shards,
    };
    let raw = patiently("opening the bucket", stead_object::open(&config)).await?;
    let policy = Policy { prefix, retries: 2, get_timeout: PATIENCE, put_timeout: PATIENCE, ..Policy::default() };
    Ok(stead_object::decorate(raw, &policy))
}

/// The key of a file system that is encrypted at rest, from a Format whose secrets are not encrypted; `None` = it is not.
///
/// # Errors
/// [`stead_object::Error::EncryptKey`] when key, passphrase or algorithm cannot be used.
pub fn encryption(format: &Format, passphrase: Option<&Secret>) -> stead_object::Result<Option<Encryption>> {
    if format.encrypt_key.is_empty() {
        return Ok(None);
    }
    let passphrase = passphrase.map(|secret| secret.0.as_str());
    Encryption::new(&format.encrypt_algo, &format.encrypt_key, passphrase).map(Some)
}

/// Removes the blocks of deleted files (names: format.md §5.1).
struct Blocks {
    objects: Arc<dyn ObjectStore>,
    block_bytes: u32,
    hash_prefix: bool,
}

impl Blocks {
    fn of(format: &Format, objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, block_bytes: format.block_bytes(), hash_prefix: format.hash_prefix }
    }

    fn key(&self, id: SliceId, index: u32, length: u32) -> String {
        let id = id.0;
        if self.hash_prefix {
            format!("chunks/{:02X}/{}/{id}_{index}_{length}", id % 256, id / 1_000_000)
        } else {
            format!("chunks/{}/{}/{id}_{index}_{length}", id / 1_000_000, id / 1000)
        }
    }

    fn keys(&self, id: SliceId, size: u32) -> Vec<String> {
        let blocks = 0..size.div_ceil(self.block_bytes);
        blocks.map(|index| self.key(id, index, self.block_bytes.min(size - index * self.block_bytes))).collect()
    }
}

#[async_trait]
impl SliceRemover for Blocks {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> std::result::Result<(), String> {
        let keys: Vec<_> = slices.iter().flat_map(|(id, size)| self.keys(*id, *size)).collect();
        stead_object::delete_all(&*self.objects, &keys, PARALLEL).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use stead_object::memory::MemoryStore;

    use super::*;

    fn blocks(hash_prefix: bool) -> Blocks {
        Blocks { objects: Arc::new(MemoryStore::new()), block_bytes: 65536, hash_prefix }
    }

    #[test]
    fn blocks_are_named_as_the_format_says() {
        let keys = blocks(false).keys(SliceId(1_234_567), 100_000);
        assert_eq!(keys, ["chunks/1/1234/1234567_0_65536", "chunks/1/1234/1234567_1_34464"]);
        assert_eq!(blocks(true).keys(SliceId(5), 65536), ["chunks/05/0/5_0_65536"]);
        assert!(blocks(false).keys(SliceId(5), 0).is_empty());
    }

    #[tokio::test]
    async fn a_prefix_belongs_to_one_file_system() {
        let store = MemoryStore::new();
        own_prefix(&store, "a").await.expect("free, so it is marked");
        own_prefix(&store, "a").await.expect("its own");
        let error = own_prefix(&store, "b").await.expect_err("not its own").to_string();
        assert!(error.contains("belongs to the file system \"a\""), "{error}");
        let error = empty_prefix(&store).await.expect_err("not empty").to_string();
        assert!(error.contains(UUID_OBJECT), "{error}");
    }
}
