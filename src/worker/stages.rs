//! The start-up stages: each logged with its name and duration, each failing with a clear error. What earlier stages
//! built is taken down again when a later one fails.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use stead_base::{Clock, Errno, SessionId, Tasks};
use stead_chunk::{ChunkConfig, ChunkStore, Compression, Eviction, UploadHours, Verify, Writeback};
use stead_fuse::{FuseConfig, Negotiated, Session};
use stead_meta::format::Format;
use stead_meta::ops::{Meta, MetaOptions};
use stead_meta::store::Store;
use stead_meta::url::{ClientCache, ConnectOptions, MetaUrl, connect};
use stead_vfs::{Segment, Vfs, VfsConfig};
use stead_volume::{CacheChecksum, CacheEviction, MountConfig, MountOptions};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::error::{Error, Stage, StartError};
use crate::page::{labels, start_page};
use crate::serve::Serving;
use crate::storage::{Reconfigure, Remover, Storage};

/// The version that sessions carry: the Go program must be able to compare it.
const CLIENT_VERSION: &str = concat!("1.4.0+stead-", env!("CARGO_PKG_VERSION"));
/// How long the data of small deleted files waits for that of others: each then costs a share of three round trips.
const DELETE_DELAY: Duration = Duration::from_millis(20);

/// What a worker knows of its process and machine.
#[derive(Clone, Debug)]
pub struct Process {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// For the session's record and the metrics.
    pub host_name: String,
    /// This process, for the session's record.
    pub pid: u32,
    /// Its user: owner of the virtual files.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The stages so far, and how long they took.
#[derive(Debug, Default)]
struct Stages(Vec<(Stage, Duration)>);

impl Stages {
    /// Runs one stage and logs it.
    async fn run<T>(&mut self, stage: Stage, work: impl Future<Output = Result<T, Error>>) -> Result<T, StartError> {
        let began = Instant::now();
        let done = work.await;
        let took = began.elapsed();
        self.0.push((stage, took));
        match &done {
            Ok(_) => info!(%stage, ms = took.as_millis(), "stage done"),
            Err(error) => warn!(%stage, ms = took.as_millis(), %error, "stage failed"),
        }
        done.map_err(|error| StartError { stage, error })
    }
}

/// Builds all layers for `config` and serves the mount behind `fd`. Returns when the kernel's handshake is done.
///
/// # Errors
/// The stage that failed and why; neither a session nor a task is left behind.
pub async fn start(config: MountConfig, fd: OwnedFd, process: Process) -> Result<Serving, StartError> {
    Box::pin(start_after(None, config, fd, process)).await
}

/// What a worker leaves to the one after it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) session: SessionState,
    /// The [`Segment`].
    pub(crate) segment: OwnedFd,
}

/// What a worker after this one must know of the mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SessionState {
    /// With the kernel.
    pub(crate) negotiated: Negotiated,
    /// With the engine; 0 = none, the mount is read-only.
    pub(crate) sid: u64,
}

/// [`start`], or going on where another worker has ended. What that one has left is there as long as it can be used.
pub(crate) async fn start_after(
    before: Option<Predecessor>,
    config: MountConfig,
    fd: OwnedFd,
    process: Process,
) -> Result<Serving, StartError> {
    let mut stages = Stages::default();
    // A worker that goes on with a mount can write what the one before could.
    let probe = before.is_none() && !config.options.read_only;
    let sid = before.as_ref().map(|before| SessionId(before.session.sid));
    stages.run(Stage::Checks, async { check(&config) }).await?;
    let (store, format) = stages.run(Stage::Format, load_format(&config, &process)).await?;
    let storage = Box::pin(stages.run(Stage::Storage, Storage::open(&format, &config, probe))).await?;
    let chunks = stages.run(Stage::Chunk, async { open_chunks(&format, &config, &process.clock, &storage) }).await?;
    let meta = stages.run(Stage::Session, start_session(&config, &process, store, format, &chunks, sid)).await?;
    let tasks = Tasks::new();
    let (reconfigure, configs) = mpsc::channel(1);
    let served =
        Box::pin(serve(&config, fd, &process, &meta, &chunks, (storage, configs), &tasks, before, &mut stages)).await;
    match served {
        Ok((vfs, session)) => {
            let (labels, stages) = (labels(&config, &process, &meta), stages.0);
            Ok(Serving { config, meta, chunks, vfs, session, tasks, reconfigure, labels, stages })
        }
        Err(failed) => {
            tasks.drain().await;
            meta.drain().await;
            // A session that was taken over is for the next who tries.
            if sid.is_none()
                && let Err(error) = meta.close_session().await
            {
                warn!(%error, "the session is left to expire");
            }
            Err(failed)
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "everything that the stages before have built")]
async fn serve(
    config: &MountConfig,
    fd: OwnedFd,
    process: &Process,
    meta: &Arc<Meta>,
    chunks: &Arc<ChunkStore>,
    (storage, configs): (Storage, mpsc::Receiver<Reconfigure>),
    tasks: &Tasks,
    before: Option<Predecessor>,
    stages: &mut Stages,
) -> Result<(Arc<Vfs>, Session), StartError> {
    let (negotiated, segment) = before.map(|before| (before.session.negotiated, before.segment)).unzip();
    let vfs = stages.run(Stage::Vfs, open_vfs(config, process, meta, chunks, segment)).await?;
    stages
        .run(Stage::Background, async {
            storage.follow(meta, configs, tasks);
            meta.start_background();
            start_page(config, &labels(config, process, meta), &vfs, tasks).await
        })
        .await?;
    let fuse = FuseConfig {
        max_write: u32::try_from(config.options.max_fuse_io.0).unwrap_or(u32::MAX),
        async_dio: config.options.async_dio,
        ..FuseConfig::default()
    };
    let handshake = async {
        let (vfs, runtime) = (Arc::clone(&vfs), tokio::runtime::Handle::current());
        let serving = match negotiated {
            None => Session::serve(vfs, fd, fuse, runtime),
            Some(negotiated) => adopt(vfs, fd, negotiated, &fuse, runtime),
        };
        serving.map_err(|error| Error::Io { what: "FUSE handshake".to_owned(), error })
    };
    let session = stages.run(Stage::Serve, handshake).await?;
    Ok((vfs, session))
}

fn adopt(
    vfs: Arc<Vfs>,
    fd: OwnedFd,
    negotiated: Negotiated,
    config: &FuseConfig,
    runtime: Handle,
) -> io::Result<Session> {
    let session = Session::adopt(Arc::clone(&vfs), fd, negotiated, config, runtime.clone())?;
    // While it serves: the kernel may first have to write the pages that it is to drop.
    runtime.spawn(async move { vfs.everything_changed().await });
    Ok(session)
}

fn check(config: &MountConfig) -> Result<(), Error> {
    let options = &config.options;
    if options.max_uploads == 0 || options.max_downloads == 0 {
        return Err(Error::BadInput("max-uploads and max-downloads must be at least 1".to_owned()));
    }
    if options.buffer_size.0 < 8 << 20 {
        let given = options.buffer_size;
        return Err(Error::BadInput(format!("buffer-size={given}: at least 8 MiB are needed")));
    }
    options.cache_dir.iter().try_for_each(|dir| check_cache_dir(dir))
}

fn check_cache_dir(dir: &Path) -> Result<(), Error> {
    if !dir.is_absolute() {
        return Err(Error::BadInput(format!("cache-dir={}: an absolute path is needed", dir.display())));
    }
    std::fs::create_dir_all(dir).map_err(|error| Error::Io { what: format!("cache-dir={}", dir.display()), error })
}

async fn load_format(config: &MountConfig, process: &Process) -> Result<(Arc<dyn Store>, Format), Error> {
    let password = config.meta_password.as_ref().map(|password| password.0.clone());
    let sentinel_password = config.sentinel_password.as_ref().map(|password| password.0.clone());
    let url = config.meta_url.0.parse::<MetaUrl>()?.or_password(password).with_sentinel_password(sentinel_password);
    let url = only_what_may_be_cached(url, config);
    let mut options = ConnectOptions::new(Arc::clone(&process.clock));
    options.retry_for = config.options.io_timeout;
    let store = connect(&url, &options).await?;
    let format = Meta::load_format(&*store).await?;
    format.check_version(CLIENT_VERSION)?;
    if format.change_log && !config.options.read_only {
        warn!("the volume keeps a change log (ChangeLog): what changes through this mount will be missing from it");
    }
    Ok((store, format))
}

/// Where the kernel may keep nothing that another client could change, this client believes nothing either.
fn only_what_may_be_cached(mut url: MetaUrl, config: &MountConfig) -> MetaUrl {
    let options = &config.options;
    let nothing = [options.attr_cache, options.entry_cache, options.dir_entry_cache].contains(&Duration::ZERO);
    if let MetaUrl::Redis(redis) = &mut url
        && redis.tuning.client_cache == ClientCache::Asked
        && nothing
    {
        redis.tuning.client_cache = ClientCache::Off;
    }
    url
}

fn open_chunks(
    format: &Format,
    config: &MountConfig,
    clock: &Arc<dyn Clock>,
    storage: &Storage,
) -> Result<Arc<ChunkStore>, Error> {
    let options = &config.options;
    let chunk_config = ChunkConfig {
        block_size: format.block_bytes(),
        compression: compression(&format.compression)?,
        hash_prefix: format.hash_prefix,
        uuid: format.uuid.clone(),
        cache_dirs: options.cache_dir.clone(),
        cache_size: options.cache_size.0,
        free_space_ratio: options.free_space_ratio,
        eviction: match options.cache_eviction {
            CacheEviction::TwoRandom => Eviction::TwoRandom,
            CacheEviction::None => Eviction::None,
            CacheEviction::Lru => Eviction::Lru,
        },
        cache_expire: options.cache_expire,
        verify: match options.verify_cache_checksum {
            CacheChecksum::None => Verify::None,
            CacheChecksum::Full => Verify::Full,
            CacheChecksum::Shrink => Verify::Shrink,
            CacheChecksum::Extend => Verify::Extend,
        },
        cache_mode: options.cache_mode,
        cache_large_write: options.cache_large_write,
        buffer_size: options.buffer_size.0,
        max_uploads: options.max_uploads,
        max_downloads: options.max_downloads,
        prefetch: options.prefetch,
        range_reads: format.encrypt_key.is_empty(),
        writeback: writeback(options, clock),
        requests: Arc::clone(storage.requests()),
        ..ChunkConfig::default()
    };
    Ok(ChunkStore::open(chunk_config, storage.objects())?)
}

/// Where there is no disk cache nothing can be staged: as with the Go client, blocks are then uploaded at once.
fn writeback(options: &MountOptions, clock: &Arc<dyn Clock>) -> Option<Writeback> {
    let staging = options.writeback && !options.read_only;
    if staging && (options.cache_dir.is_empty() || options.cache_size.0 == 0) {
        warn!("writeback needs a disk cache, and there is none: blocks are uploaded before a write is durable");
        return None;
    }
    staging.then(|| Writeback {
        threshold: options.writeback_threshold_size.0,
        delay: options.upload_delay,
        hours: options.upload_hours.map(|(start, end)| UploadHours { start, end }),
        clock: Arc::clone(clock),
    })
}

fn compression(name: &str) -> Result<Compression, Error> {
    Ok(match name {
        "" | "none" => Compression::None,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        other => {
            let why = "none, lz4 or zstd can be read".to_owned();
            return Err(stead_meta::Error::Format { member: "Compression", value: other.to_owned(), why }.into());
        }
    })
}

async fn start_session(
    config: &MountConfig,
    process: &Process,
    store: Arc<dyn Store>,
    format: Format,
    chunks: &Arc<ChunkStore>,
    before: Option<SessionId>,
) -> Result<Arc<Meta>, Error> {
    let options = &config.options;
    let meta_options = MetaOptions {
        delete_delay: DELETE_DELAY,
        read_only: options.read_only,
        subdir: options.subdir.clone(),
        skip_dir_mtime: options.skip_dir_mtime,
        heartbeat: options.heartbeat,
        no_bgjob: options.no_bgjob,
        mount_point: config.mount_point.clone(),
        version: CLIENT_VERSION.to_owned(),
        host_name: process.host_name.clone(),
        pid: process.pid,
        enable_xattr: options.enable_xattr,
        enable_cap: options.enable_cap,
        enable_selinux: options.enable_selinux,
        clock: Arc::clone(&process.clock),
        ..MetaOptions::default()
    };
    let meta = Meta::new(store, format, meta_options).await.map_err(|error| match &options.subdir {
        Some(subdir) => Error::Subdir { subdir: subdir.clone(), error },
        None => error.into(),
    })?;
    meta.set_slice_remover(Arc::new(Remover(Arc::clone(chunks))));
    if !options.read_only {
        meta.hear_flush_requests().await;
        let sid = match before {
            None => meta.start_session().await?,
            Some(sid) => meta.resume_session(sid).await?,
        };
        info!(%sid, "session started");
    }
    Ok(meta)
}

/// With `segment`, what another process has left open is open again.
async fn open_vfs(
    config: &MountConfig,
    process: &Process,
    meta: &Arc<Meta>,
    chunks: &Arc<ChunkStore>,
    segment: Option<OwnedFd>,
) -> Result<Arc<Vfs>, Error> {
    let options = &config.options;
    let vfs_config = VfsConfig {
        attr_cache: options.attr_cache,
        entry_cache: options.entry_cache,
        dir_entry_cache: options.dir_entry_cache,
        negative_entry_cache: options.negative_entry_cache,
        open_cache: options.open_cache,
        hide_internal: options.hide_internal,
        prefix_internal: options.prefix_internal,
        enable_ioctl: options.enable_ioctl,
        max_readahead: options.max_readahead.map_or_else(|| chunks.read_ahead_limit(), |size| size.0),
        uid: process.uid,
        gid: process.gid,
        ..VfsConfig::default()
    };
    let inherits = segment.is_some();
    let segment = segment.map_or_else(Segment::shared, Segment::open);
    let segment = segment.map_err(|error| Error::Io { what: "memory for handles".to_owned(), error })?;
    let vfs = Vfs::over(segment, vfs_config, Arc::clone(meta), Arc::clone(chunks), Arc::clone(&process.clock));
    publish(config, meta, chunks, &vfs);
    if inherits {
        let failed = |errno: Errno| io::Error::from_raw_os_error(errno.0);
        vfs.inherit().await.map_err(|errno| Error::Io { what: "open handles".to_owned(), error: failed(errno) })?;
    }
    Ok(vfs)
}

/// What `.config` tells of the layers below and of the mount (format.md §6.2): durations in nanoseconds, sizes in bytes.
fn publish(config: &MountConfig, meta: &Meta, chunks: &ChunkStore, vfs: &Vfs) {
    let (options, format) = (&config.options, meta.format());
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let dirs: Vec<String> = options.cache_dir.iter().map(|dir| dir.join(&format.uuid).display().to_string()).collect();
    vfs.publish(
        "Chunk",
        json!({
            "CacheDir": dirs.join(":"),
            "CacheMode": options.cache_mode,
            "CacheChecksum": options.verify_cache_checksum,
            "CacheEviction": options.cache_eviction,
            "CacheExpire": nanos(options.cache_expire),
            "CacheSize": options.cache_size.0,
            "FreeSpace": options.free_space_ratio,
            "AutoCreate": true,
            "Compress": format.compression,
            "MaxUpload": options.max_uploads,
            "MaxDownload": options.max_downloads,
            "MaxRetries": options.io_retries,
            "UploadLimit": options.upload_limit.saturating_mul(1_000_000) / 8,
            "DownloadLimit": options.download_limit.saturating_mul(1_000_000) / 8,
            "HashPrefix": format.hash_prefix,
            "BlockSize": chunks.block_size(),
            "GetTimeout": nanos(options.get_timeout),
            "PutTimeout": nanos(options.put_timeout),
            "CacheFullBlock": true,
            "CacheLargeWrite": options.cache_large_write,
            "BufferSize": options.buffer_size.0,
            "Readahead": options.max_readahead.map_or_else(|| chunks.read_ahead_limit(), |size| size.0),
            "Prefetch": options.prefetch,
        }),
    );
    vfs.publish(
        "FuseOpts",
        json!({
            "MaxWrite": options.max_fuse_io.0,
            "FsName": format!("JuiceFS:{}", format.name),
            "Name": "juicefs",
            "EnableLocks": true,
            "EnableSymlinkCaching": true,
            "EnableAcl": format.enable_acl,
            "DisableXAttrs": !options.enable_xattr,
        }),
    );
}
