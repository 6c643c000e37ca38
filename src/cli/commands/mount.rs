//! `stead mount`: mounts in this process and serves until unmounted, or starts a worker and returns when it serves.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use stead_keeper::launch::{self, WorkerLaunch};
use stead_keeper::mount::{self as kernel, MountSpec};
use stead_keeper::{Message, mount_unprivileged, umount_unprivileged};
use stead_meta::ops::Meta;
use stead_meta::url::{ConnectOptions, connect};
use stead_volume::{MountConfig, MountOptions, Secret, WorkerSettings};
use stead_worker::End;
use tracing::warn;

use super::environment;
use crate::args::MountArgs;
use crate::exit::{Code, Failure};

pub(crate) async fn run(args: MountArgs) -> Result<(), Failure> {
    let (config, name) = configure(&args).await?;
    let dir = config.mount_point.clone();
    let fd = mount(&dir, &name, &config.options)?;
    let served =
        if args.background { serve_in_background(config, fd, args.log).await } else { serve_here(config, fd).await };
    if served.is_err() {
        unmount(&dir);
    }
    served
}

/// Reads the arguments and asks the engine for the volume's name, so that nothing is mounted when either is wrong.
async fn configure(args: &MountArgs) -> Result<(MountConfig, String), Failure> {
    let options = mount_options(args)?;
    let shown = args.mount_point.display();
    if !args.mount_point.exists() {
        std::fs::create_dir_all(&args.mount_point).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    }
    let mount_point = args.mount_point.canonicalize().map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    if !mount_point.is_dir() {
        return Err(Failure::usage(format!("{shown} is no directory")));
    }
    if kernel::root_of(&mount_point).map_err(|error| Failure::general(error.to_string()))?.is_some() {
        return Err(Failure::usage(format!("{shown} has a volume mounted already")));
    }
    let address = environment::meta_address(&args.meta.meta_url)?;
    let store = connect(&address.url, &ConnectOptions::new(environment::process().clock)).await?;
    let name = Meta::load_format(&*store).await?.name;
    let config = MountConfig {
        meta_url: Secret(address.text),
        meta_password: address.password.map(Secret),
        sentinel_password: address.sentinel_password.map(Secret),
        access_key: None,
        secret_key: None,
        session_token: None,
        passphrase: environment::variable("JFS_RSA_PASSPHRASE").map(Secret),
        mount_point,
        owns_mount: true,
        options,
        worker: WorkerSettings::default(),
    };
    Ok((config, name))
}

fn mount_options(args: &MountArgs) -> Result<MountOptions, Failure> {
    let mut options = MountOptions { cache_dir: vec![default_cache_dir()], ..MountOptions::default() };
    let wrong = |error: stead_volume::OptionError| Failure::usage(error.to_string());
    for given in &args.fuse_options {
        options.apply(given.split(',')).map_err(wrong)?;
    }
    for (name, value) in &args.options.0 {
        options.set(name, value).map_err(wrong)?;
    }
    Ok(options)
}

/// Where the Go client keeps its cache, too.
fn default_cache_dir() -> PathBuf {
    match environment::variable("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => PathBuf::from(home).join(".juicefs/cache"),
        _ => PathBuf::from("/var/jfsCache"),
    }
}

fn mount(dir: &Path, name: &str, options: &MountOptions) -> Result<OwnedFd, Failure> {
    let failed = |error: stead_keeper::Error| Failure::general(error.to_string());
    let max_read = u32::try_from(options.max_fuse_io.0)
        .map_err(|_too_big| Failure::usage(format!("max-fuse-io={}: at most 1 MiB", options.max_fuse_io)))?;
    let spec = MountSpec::volume(name, options.read_only, max_read).with_options(&options.fuse_options);
    if !nix::unistd::geteuid().is_root() {
        return mount_unprivileged(dir, &spec).map_err(failed);
    }
    let device = kernel::open_device().map_err(failed)?;
    kernel::mount(device.as_fd(), dir, &spec).map_err(failed)?;
    Ok(device)
}

fn unmount(dir: &Path) {
    let privileged = nix::unistd::geteuid().is_root();
    let unmounted = if privileged { kernel::umount(dir, true) } else { umount_unprivileged(dir, true) };
    if let Err(error) = unmounted {
        warn!(%error, "the failed mount stays");
    }
}

async fn serve_here(config: MountConfig, fd: OwnedFd) -> Result<(), Failure> {
    let stop = environment::stop_on_signal()?;
    let serving = Box::pin(stead_worker::start(config, fd, environment::process())).await?;
    match serving.run(stop.cancelled_owned()).await? {
        End::VolumeGone => {
            Err(Failure::new(Code::VolumeGone, "the volume was removed or replaced while it was mounted"))
        }
        End::Unmounted | End::Stopped | End::HandedOver => Ok(()),
    }
}

/// The worker gets configuration and descriptor over a socket, so that no secret stands in its arguments.
async fn serve_in_background(config: MountConfig, fd: OwnedFd, log: Option<PathBuf>) -> Result<(), Failure> {
    let failed = |error: stead_keeper::Error| Failure::general(error.to_string());
    let exe = std::env::current_exe().map_err(|error| Failure::general(format!("own program: {error}")))?;
    let log_path = log.unwrap_or_else(usual_log);
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|error| Failure::usage(format!("log file {}: {error}", log_path.display())))?;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let (_child, channel) =
        launch::start(&WorkerLaunch { exe, uid, gid, ..WorkerLaunch::default() }, log).map_err(failed)?;
    let shown = config.mount_point.display().to_string();
    let config = serde_json::to_value(&config).map_err(|error| Failure::general(error.to_string()))?;
    channel.send(&Message::Mount { config, keeper: None }, &[fd.as_raw_fd()]).await.map_err(failed)?;
    drop(fd);
    match channel
        .recv()
        .await
        .map_err(|error| Failure::general(format!("worker: {error}; see {}", log_path.display())))?
        .0
    {
        Message::Serving { pid, .. } => {
            println!("{shown} is served by process {pid}; log: {}", log_path.display());
            Ok(())
        }
        Message::Failed { stage, error, exit_code } => {
            let code = u8::try_from(exit_code).unwrap_or(Code::General as u8);
            Err(Failure::with_code(code, format!("{stage}: {error}")))
        }
        other => Err(Failure::general(format!("unexpected answer of the worker: {}", other.kind()))),
    }
}

fn usual_log() -> PathBuf {
    match environment::variable("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => PathBuf::from(home).join(".stead.log"),
        _ => PathBuf::from("/var/log/stead.log"),
    }
}
