//! `stead quickstart`: a first volume through CSI, on SQLite and a local directory. It starts the two services as an
//! orchestrator would, provisions and publishes over their sockets, shows what came of it, and takes all of it away again.

mod client;
mod processes;

use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};

use stead_meta::ops::{Meta, MetaOptions};
use stead_meta::url::{ConnectOptions, MetaUrl, connect};

use super::environment;
use crate::args::QuickstartArgs;
use crate::exit::Failure;
use client::Csi;
use processes::Processes;

/// The volume's name, as a PVC would give it.
const VOLUME: &str = "pvc-quickstart";
/// The file system's name.
const FILE_SYSTEM: &str = "quickstart";
/// What is written through the mount.
const GREETING: &str = "Hello from a volume that the CSI controller provisioned.\n";

pub(crate) async fn run(args: QuickstartArgs) -> Result<(), Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::usage("the node service mounts, so the quick start needs root"));
    }
    let places = Places::below(&args.state_dir)?;
    if args.stop { stop(&places).await } else { start(&args, &places).await }
}

/// Where everything of the quick start lies.
struct Places {
    base: PathBuf,
    engine: PathBuf,
    objects: PathBuf,
    sockets: PathBuf,
    node_state: PathBuf,
    volume: PathBuf,
}

impl Places {
    fn below(base: &Path) -> Result<Self, Failure> {
        let base = std::path::absolute(base)
            .map_err(|error| Failure::usage(format!("--state-dir {}: {error}", base.display())))?;
        Ok(Self {
            engine: base.join("engine"),
            objects: base.join("objects"),
            sockets: base.join("sockets"),
            node_state: base.join("node"),
            volume: base.join("volume"),
            base,
        })
    }

    fn database(&self) -> PathBuf {
        self.engine.join("quickstart.db")
    }

    fn meta_url(&self) -> String {
        format!("sqlite3://{}", self.database().display())
    }

    /// The Secret that a StorageClass would name.
    fn secret(&self) -> HashMap<String, String> {
        let members = [
            ("name", FILE_SYSTEM.to_owned()),
            ("metaurl", self.meta_url()),
            ("storage", "file".to_owned()),
            ("bucket", format!("{}/", self.objects.display())),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The controller and the workers run as an ordinary user, so engine, objects and its socket are that user's.
    fn make(&self, uid: u32, gid: u32) -> Result<(), Failure> {
        for dir in [&self.base, &self.engine, &self.objects, &self.sockets, &self.node_state] {
            let failed = |error: std::io::Error| Failure::general(format!("{}: {error}", dir.display()));
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(failed)?;
            if dir != &self.base && dir != &self.node_state {
                chown(dir, Some(uid), Some(gid)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

async fn start(args: &QuickstartArgs, places: &Places) -> Result<(), Failure> {
    if Processes::recorded(&places.base)?.any_alive() {
        let why = "the quick start runs already; `stead quickstart --stop` ends it";
        return Err(Failure::usage(format!("{}: {why}", places.base.display())));
    }
    places.make(args.uid, args.gid)?;
    let processes = Processes::start(&places.base, &places.sockets, &places.node_state, args.uid, args.gid)?;
    println!("controller  process {}, user {}", processes.controller.pid, args.uid);
    println!("node        process {}, root", processes.node.pid);
    match provision(places).await {
        Ok(()) => {
            show(places).await?;
            println!("\nstop it with: stead quickstart --stop --state-dir {}", places.base.display());
            Ok(())
        }
        Err(failure) => {
            processes.end();
            Err(failure)
        }
    }
}

/// CreateVolume, NodePublishVolume, a file.
async fn provision(places: &Places) -> Result<(), Failure> {
    let mut csi = Csi::connect(&places.sockets).await?;
    let volume = csi.create(VOLUME, 1 << 30, places.secret()).await?;
    println!("CreateVolume       {} of {} bytes", volume.volume_id, volume.capacity_bytes);
    csi.publish(&volume, &places.volume, places.secret()).await?;
    println!("NodePublishVolume  {}", places.volume.display());
    let file = places.volume.join("hello.txt");
    let failed = |error: std::io::Error| Failure::general(format!("{}: {error}", file.display()));
    std::fs::write(&file, GREETING).map_err(failed)?;
    if std::fs::read_to_string(&file).map_err(failed)? != GREETING {
        return Err(Failure::general(format!("{} reads differently than it was written", file.display())));
    }
    println!("wrote and read     {}", file.display());
    Ok(())
}

/// What lies in the engine and in the object store.
async fn show(places: &Places) -> Result<(), Failure> {
    let url: MetaUrl = places.meta_url().parse()?;
    let store = connect(&url, &ConnectOptions::new(environment::process().clock)).await?;
    let format = Meta::load_format(&*store).await?;
    println!("\nin the engine ({}):", places.database().display());
    println!("  Format of {:?}, UUID {}, blocks of {} KiB", format.name, format.uuid, format.block_size);
    let options = MetaOptions { read_only: true, no_bgjob: true, ..MetaOptions::default() };
    let meta = Meta::new(store, format, options).await?;
    for path in [VOLUME, &format!("{VOLUME}/hello.txt")] {
        let (ino, attr) = meta.resolve_path(path).await?;
        println!("  /{path}: inode {ino}, mode {:o}, {} bytes", attr.mode, attr.length);
    }
    println!("\nin the object store ({}):", places.objects.display());
    let objects = stead_object::file::FileStore::new(&format!("{}/", places.objects.display()))?;
    for object in stead_object::ObjectStore::list(&objects, "", "", 20).await? {
        println!("  {} ({} bytes)", object.key, object.size);
    }
    println!("\nmounted at {}", places.volume.display());
    Ok(())
}

async fn stop(places: &Places) -> Result<(), Failure> {
    let processes = Processes::recorded(&places.base)?;
    if processes.any_alive() {
        let mut csi = Csi::connect(&places.sockets).await?;
        csi.unpublish(VOLUME, &places.volume).await?;
        println!("NodeUnpublishVolume {}", places.volume.display());
        csi.delete(VOLUME, places.secret()).await?;
        println!("DeleteVolume        {VOLUME}");
    }
    processes.end();
    for dir in [&places.engine, &places.objects, &places.sockets, &places.node_state, &places.base] {
        match std::fs::remove_dir_all(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::general(format!("{}: {error}", dir.display()))),
        }
    }
    println!("controller and node have ended; {} is gone", places.base.display());
    Ok(())
}
