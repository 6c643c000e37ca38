//! From a Format to an object store, also when the Format changes while the mount serves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use stead_base::{SliceId, Tasks};
use stead_chunk::ChunkStore;
use stead_meta::format::Format;
use stead_meta::ops::{Meta, SliceRemover};
use stead_object::{Encrypted, Limits, ObjectStore, Policy, Requests, StorageConfig, Swappable};
use stead_volume::{MountConfig, Secret};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::error::Error;

/// After how long a storage that could not be used is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// The object storage of a volume as one mount uses it: its place and limits are those of the Format, as far as the mount
/// does not say otherwise.
pub(crate) struct Storage {
    mount: MountConfig,
    /// Where [`Storage::objects`] are.
    place: StorageConfig,
    objects: Arc<Swappable>,
    limits: Arc<Limits>,
    requests: Arc<Requests>,
}

/// New credentials, and who wants to know whether they are good.
pub(crate) struct Reconfigure {
    pub(crate) config: MountConfig,
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

impl Storage {
    /// Opens the storage.
    ///
    /// # Errors
    /// A storage type, bucket address or key that cannot be right, a passphrase that does not open the key, a bucket
    /// that is not there or belongs to another volume; with `probe`, one that this process may not write. Whether it
    /// answers at all shows at the first request.
    pub(crate) async fn open(format: &Format, mount: &MountConfig, probe: bool) -> Result<Self, Error> {
        let (upload, download) = limits(format, mount);
        let (limits, requests) = (Arc::new(Limits::new(upload, download)), Arc::default());
        let place = place(format, mount)?;
        let policy = policy(format, mount, &limits, &requests);
        let objects = object_store(format, mount, &place, policy, probe).await?;
        let objects = Arc::new(Swappable::new(objects));
        Ok(Self { mount: mount.clone(), place, objects, limits, requests })
    }

    /// The objects, wherever they are at a time.
    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects) as Arc<dyn ObjectStore>
    }

    /// How the attempts to reach them went.
    pub(crate) fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Applies changes of the Format, and new credentials, without a restart, until `tasks` end.
    pub(crate) fn follow(mut self, meta: &Meta, mut configs: mpsc::Receiver<Reconfigure>, tasks: &Tasks) {
        let (sender, mut formats) = watch::channel(meta.format());
        meta.on_reload(Box::new(move |format| drop(sender.send_replace(Arc::new(format.clone())))));
        let stop = tasks.stopping();
        tasks.spawn("storage", async move {
            let follow = async {
                let mut done = true;
                loop {
                    let new = tokio::select! {
                        more = another(&mut formats, done) => if more { None } else { break },
                        Some(new) = configs.recv() => Some(new),
                    };
                    let format = Arc::clone(&formats.borrow_and_update());
                    match new {
                        None => done = self.apply(&format).await,
                        // Whoever asked may have gone.
                        Some(Reconfigure { config, done }) => drop(done.send(self.reconfigure(config, &format).await)),
                    }
                }
            };
            stop.run_until_cancelled(follow).await.unwrap_or(());
        });
    }

    /// Whether the storage is the one that the Format names now.
    async fn apply(&mut self, format: &Format) -> bool {
        let (upload, download) = limits(format, &self.mount);
        self.limits.set(upload, download);
        let moved = self.move_to(format).await;
        if let Err(error) = &moved {
            warn!(%error, "the Format names a storage that cannot be used; the old one stays");
        }
        moved.is_ok()
    }

    /// Uses the credentials of `config` from now on; if they do not open the storage, the old ones stay.
    async fn reconfigure(&mut self, config: MountConfig, format: &Format) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.mount, config);
        let moved = self.move_to(format).await;
        if moved.is_err() {
            self.mount = before;
        }
        moved
    }

    async fn move_to(&mut self, format: &Format) -> Result<(), Error> {
        let place = place(format, &self.mount)?;
        if place != self.place {
            let policy = policy(format, &self.mount, &self.limits, &self.requests);
            let probe = !self.mount.options.read_only;
            let store = Box::pin(object_store(format, &self.mount, &place, policy, probe)).await?;
            info!(store = store.describe(), "the volume's storage has changed");
            self.objects.replace(store);
            self.place = place;
        }
        Ok(())
    }
}

/// Waits for another Format, or for the time to try again; false when there will be none.
async fn another(formats: &mut watch::Receiver<Arc<Format>>, done: bool) -> bool {
    let changed = formats.changed();
    if done {
        return changed.await.is_ok();
    }
    tokio::time::timeout(AGAIN, changed).await.map_or(true, |changed| changed.is_ok())
}

/// Where the Format, or what the mount overrides of it, says that the objects are.
fn place(format: &Format, mount: &MountConfig) -> Result<StorageConfig, Error> {
    let mut format = format.clone();
    format.decrypt_secrets()?;
    let own = |given: &Option<Secret>, stored: String| match given {
        Some(secret) => Some(secret.0.clone()),
        None => (!stored.is_empty()).then_some(stored),
    };
    Ok(StorageConfig {
        storage: mount.options.storage.clone().unwrap_or(format.storage),
        bucket: mount.options.bucket.clone().unwrap_or(format.bucket),
        access_key: own(&mount.access_key, format.access_key),
        secret_key: own(&mount.secret_key, format.secret_key),
        session_token: own(&mount.session_token, format.session_token),
        shards: format.shards,
    })
}

/// Upload and download limit in bytes per second, 0 = none.
fn limits(format: &Format, mount: &MountConfig) -> (u64, u64) {
    let options = &mount.options;
    let limit = |own: u64, stored: u64| if own > 0 { own.saturating_mul(1_000_000) / 8 } else { stored };
    let upload = limit(options.upload_limit, format.upload_bytes_per_second());
    (upload, limit(options.download_limit, format.download_bytes_per_second()))
}

fn policy(format: &Format, mount: &MountConfig, limits: &Arc<Limits>, requests: &Arc<Requests>) -> Policy {
    Policy {
        prefix: format!("{}/", format.name),
        retries: mount.options.io_retries,
        get_timeout: mount.options.get_timeout,
        put_timeout: mount.options.put_timeout,
        limits: Arc::clone(limits),
        requests: Arc::clone(requests),
    }
}

/// The store of the volume's objects, with retries, timeouts, limits, the volume's prefix and its encryption; it is the
/// volume's own, and with `probe` it can be written.
async fn object_store(
    format: &Format,
    mount: &MountConfig,
    place: &StorageConfig,
    policy: Policy,
    probe: bool,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut format = format.clone();
    format.decrypt_secrets()?;
    let encryption = stead_volume::encryption(&format, mount.passphrase.as_ref())?;
    let raw = stead_object::open(place).await?;
    let store = Encrypted::around(stead_object::decorate(raw, &policy), encryption);
    // At the same time, so that a mount waits for one answer and not for two.
    let (owner, writable) = tokio::join!(check_owner(&*store, &format.uuid), async {
        if probe { check_writable(&store, place).await } else { Ok(()) }
    });
    owner.and(writable)?;
    Ok(store)
}

/// Refuses a bucket that we may not write: nobody would hear of it before the first fsync. Anything else that is wrong with
/// it may pass, and a full one can still be read and cleaned.
async fn check_writable(objects: &Arc<dyn ObjectStore>, place: &StorageConfig) -> Result<(), Error> {
    match tokio::time::timeout(PATIENCE, stead_object::check_put(&**objects)).await {
        Ok(Ok(key)) => {
            let objects = Arc::clone(objects);
            // Nobody has to wait for that.
            tokio::spawn(async move {
                if let Err(error) = stead_object::clean(&*objects, &key).await {
                    warn!(%error, "what is removed will stay in the object storage");
                }
            });
            Ok(())
        }
        Ok(Err(error @ stead_object::Error::Denied { .. })) => {
            let remedy = match &*place.storage.to_ascii_lowercase() {
                "file" => "give the directory to that user (chown)",
                _ => "give the keys permission to put and delete objects (s3:PutObject, s3:DeleteObject)",
            };
            Err(Error::ReadOnlyStorage { error, uid: nix::unistd::geteuid().as_raw(), remedy })
        }
        Ok(Err(error)) => {
            warn!(%error, "the bucket cannot be written yet");
            Ok(())
        }
        Err(_elapsed) => {
            warn!(store = objects.describe(), "the bucket does not take objects yet");
            Ok(())
        }
    }
}

/// How long a bucket may take to say whose it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Refuses a bucket that is not there, that we may not read, or that belongs to another volume (format.md §1.3). One that
/// does not answer now may later: requests to it are retried, so it is only warned of.
async fn check_owner(objects: &dyn ObjectStore, uuid: &str) -> Result<(), Error> {
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

/// Lets the metadata layer remove blocks.
pub(crate) struct Remover(pub(crate) Arc<ChunkStore>);

#[async_trait]
impl SliceRemover for Remover {
    async fn remove_slices(&self, slices: &[(SliceId, u32)]) -> Result<(), String> {
        self.0.remove(slices).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use stead_object::{Error as E, Failing, Fault, MemoryStore, Op, Rule};

    use super::*;
    use crate::error::ExitCode;

    async fn probed(storage: &str, fault: Option<E>) -> (Result<(), Error>, Arc<Failing>) {
        let failing = Arc::new(Failing::new(Arc::new(MemoryStore::new())));
        if let Some(fault) = fault {
            failing.add(Rule::on(Op::Put).fault(Fault::Fail(fault)));
        }
        let place = StorageConfig { storage: storage.to_owned(), ..StorageConfig::default() };
        let objects = Arc::clone(&failing) as Arc<dyn ObjectStore>;
        (check_writable(&objects, &place).await, failing)
    }

    #[tokio::test]
    async fn a_bucket_that_may_not_be_written_is_refused_with_what_would_be_right() {
        for (storage, word) in [("file", "chown"), ("s3", "s3:PutObject")] {
            let denied = E::Denied { store: "s3://host/bucket/".to_owned(), why: "policy".to_owned() };
            let error = probed(storage, Some(denied)).await.0.expect_err("denied");
            assert_eq!(error.exit_code(), ExitCode::Denied);
            let text = error.to_string();
            let uid = format!("user {}", nix::unistd::geteuid());
            for word in [word, "s3://host/bucket/", "policy", "option ro", &uid] {
                assert!(text.contains(word), "{word} is not in {text}");
            }
        }
    }

    #[tokio::test]
    async fn a_bucket_that_is_away_or_full_is_mounted() {
        let store = || "x".to_owned();
        let why = || "y".to_owned();
        for fault in [E::Temporary { store: store(), why: why() }, E::Full { store: store(), why: why() }] {
            probed("s3", Some(fault)).await.0.expect("it can still be read");
        }
    }

    #[tokio::test]
    async fn nothing_of_the_probe_stays() {
        let (probed, store) = probed("s3", None).await;
        probed.expect("writable");
        while store.calls(Op::Delete) < 2 {
            tokio::task::yield_now().await;
        }
        assert!(store.list("", "", 1).await.expect("readable").is_empty());
    }
}
