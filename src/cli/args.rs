//! The command line. Shared options have the names that users of the Go client know.

mod mounted;
mod upkeep;

use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use stead_volume::MOUNT_OPTIONS;

pub(crate) use mounted::{BenchArgs, CloneArgs, CompactArgs, InfoArgs, RmrArgs, StatsArgs, SummaryArgs, WarmupArgs};
pub(crate) use upkeep::{
    ConfigArgs, DestroyArgs, DumpArgs, FsckArgs, GcArgs, LoadArgs, QuotaAction, QuotaArgs, RestoreArgs,
};

/// Shared POSIX volumes on Redis or SQLite and an object store, in `JuiceFS` format, for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "stead", version, max_term_width = 100, arg_required_else_help = true, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// What to log: error, warn, info, debug, trace, or per crate (`info,stead_meta=debug`)
    #[arg(long, global = true, value_name = "LEVEL", env = "STEAD_LOG", overrides_with = "log_level")]
    pub(crate) log_level: Option<String>,
    /// Log as JSON lines
    #[arg(long, global = true, overrides_with = "log_json")]
    pub(crate) log_json: bool,
    /// Append the log to a file instead of standard error; with `mount -d` [default: /var/log/stead.log, ~/.stead.log]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Show no progress, and only errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Show no progress; there is none anyway when standard error is no terminal
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Shown below the help of every command that can fail for these reasons.
const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 anything without a code of its own, 2 a wrong argument, option, address or file, 3 wrong \
credentials, 4 a server cannot be reached, 5 no volume there, 6 the volume needs another client, 7 no space, 8 no such \
sub-directory, 9 something is wrong and was not repaired, 10 not confirmed, 11 the volume was removed while mounted";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a volume: write its Format into a metadata engine and check its object storage
    Format(Box<FormatArgs>),
    /// Mount a volume
    Mount(MountArgs),
    /// Unmount a volume
    Umount(UmountArgs),
    /// Show a volume's Format, sessions and usage
    Status(StatusArgs),
    /// Show what lies behind a path of a mounted volume: inode, slices and objects
    Info(InfoArgs),
    /// Show live figures of a mount
    #[command(after_long_help = EXIT_CODES)]
    Stats(StatsArgs),
    /// Measure how fast a mounted directory is
    #[command(after_long_help = EXIT_CODES)]
    Bench(BenchArgs),
    /// Remove directories with everything below, inside a mount
    #[command(after_long_help = EXIT_CODES)]
    Rmr(RmrArgs),
    /// Copy a file or a tree inside a mount without copying its data
    #[command(after_long_help = EXIT_CODES)]
    Clone(CloneArgs),
    /// Join the slices of files inside a mount
    #[command(after_long_help = EXIT_CODES)]
    Compact(CompactArgs),
    /// Show how much lies where below a directory of a mount
    #[command(after_long_help = EXIT_CODES)]
    Summary(SummaryArgs),
    /// Fill the cache of a mount with files, empty it, or look what is in it
    #[command(after_long_help = EXIT_CODES)]
    Warmup(WarmupArgs),
    /// Show or change the settings of a volume
    #[command(after_long_help = EXIT_CODES)]
    Config(Box<ConfigArgs>),
    /// Limit directories, users and groups: space and inodes
    #[command(after_long_help = EXIT_CODES)]
    Quota(QuotaArgs),
    /// Check that every block of every file is there; with `--path / -r`, that directories and counters are right
    #[command(after_long_help = EXIT_CODES)]
    Fsck(FsckArgs),
    /// Find blocks and records that nobody refers to, and remove them
    #[command(after_long_help = EXIT_CODES)]
    Gc(GcArgs),
    /// Move what was removed out of the trash
    #[command(after_long_help = EXIT_CODES)]
    Restore(RestoreArgs),
    /// Write a volume's metadata into a file, as JSON
    #[command(after_long_help = EXIT_CODES)]
    Dump(DumpArgs),
    /// Make a volume from a dump, in an empty metadata engine
    #[command(after_long_help = EXIT_CODES)]
    Load(LoadArgs),
    /// Remove a volume: all of its objects and metadata
    #[command(after_long_help = EXIT_CODES)]
    Destroy(DestroyArgs),
    /// Serve the CSI identity and controller services on a unix socket
    Controller(ControllerArgs),
    /// Serve the CSI identity and node services on a unix socket; mounts volumes, so it needs root. SIGHUP replaces workers
    Node(Box<NodeCommand>),
    /// Start workers for a node service that runs elsewhere; needs no privilege
    Runner(RunnerArgs),
    /// Serve one mount whose FUSE descriptor comes over a socket; started by `stead node`
    #[command(hide = true)]
    Worker(WorkerArgs),
    /// Provision and mount a first volume through CSI, on SQLite and a local directory
    Quickstart(QuickstartArgs),
    /// Print a completion script
    Completion(CompletionArgs),
    /// Print the version
    Version,
}

/// The address of a metadata engine.
#[derive(Args, Clone, Debug)]
pub(crate) struct MetaUrlArg {
    /// Metadata engine: `redis://[:password@]host[:port]/db`, `sqlite3://file.db`. A password may also be in `META_PASSWORD`
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
}

#[derive(Args, Debug)]
pub(crate) struct FormatArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// 3 to 63 lower-case letters, digits and dashes; also the prefix of all objects
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Object storage: file, s3 (also minio)
    #[arg(long, value_name = "TYPE")]
    pub(crate) storage: Option<String>,
    /// Bucket URL, or a directory for `file` [default: /var/jfs or ~/.juicefs/local]
    #[arg(long, value_name = "URL")]
    pub(crate) bucket: Option<String>,
    /// Access key of the object storage (environment: `ACCESS_KEY`)
    #[arg(long, value_name = "KEY")]
    pub(crate) access_key: Option<String>,
    /// Secret key of the object storage (environment: `SECRET_KEY`)
    #[arg(long, value_name = "KEY")]
    pub(crate) secret_key: Option<String>,
    /// Session token of the object storage (environment: `SESSION_TOKEN`)
    #[arg(long, value_name = "TOKEN")]
    pub(crate) session_token: Option<String>,
    /// Size of a block in KiB, 64K to 16M, a power of two [default: 4M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) block_size: Option<String>,
    /// none, lz4 or zstd [default: none]
    #[arg(long, value_name = "ALGORITHM")]
    pub(crate) compress: Option<String>,
    /// Days that removed files stay in the trash; 0 = no trash [default: 1]
    #[arg(long, value_name = "DAYS")]
    pub(crate) trash_days: Option<String>,
    /// Limit of the space in GiB; 0 = none [default: 0]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<String>,
    /// Limit of the number of inodes; 0 = none [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) inodes: Option<String>,
    /// Spread the objects over this many buckets; the bucket URL then contains `%d`
    #[arg(long, value_name = "N")]
    pub(crate) shards: Option<String>,
    /// Begin object names with a hash
    #[arg(long)]
    pub(crate) hash_prefix: bool,
    /// Encrypt all objects; the file has the RSA private key in PEM (its passphrase: `JFS_RSA_PASSPHRASE`)
    #[arg(long, value_name = "FILE")]
    pub(crate) encrypt_rsa_key: Option<PathBuf>,
    /// aes256gcm-rsa or chacha20-rsa [default: aes256gcm-rsa]
    #[arg(long, value_name = "ALGORITHM")]
    pub(crate) encrypt_algo: Option<String>,
    /// Upload limit of all clients in Mbit/s
    #[arg(long, value_name = "MBIT")]
    pub(crate) upload_limit: Option<String>,
    /// Download limit of all clients in Mbit/s
    #[arg(long, value_name = "MBIT")]
    pub(crate) download_limit: Option<String>,
    /// Leave an existing volume as it is
    #[arg(long)]
    pub(crate) no_update: bool,
    /// Change also what should not change on an existing volume
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct MountArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Where to mount it
    #[arg(value_name = "DIR")]
    pub(crate) mount_point: PathBuf,
    /// Return when the mount serves; go on in the background
    #[arg(short = 'd', long)]
    pub(crate) background: bool,
    /// FUSE and mount options: `-o ro,allow_other`
    #[arg(short = 'o', value_name = "OPTION,...")]
    pub(crate) fuse_options: Vec<String>,
    #[command(flatten)]
    pub(crate) options: MountFlags,
    /// That of the command, for the process in the background.
    #[arg(skip)]
    pub(crate) log: Option<PathBuf>,
}

/// The options of [`MOUNT_OPTIONS`] as they were given: (name, value).
#[derive(Clone, Debug, Default)]
pub(crate) struct MountFlags(pub(crate) Vec<(&'static str, String)>);

impl FromArgMatches for MountFlags {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let given = MOUNT_OPTIONS.iter().filter_map(|spec| {
            let value = match spec.value {
                Some(_) => matches.get_one::<String>(spec.name)?.clone(),
                None => matches.get_flag(spec.name).then(String::new)?,
            };
            Some((spec.name, value))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for MountFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(MOUNT_OPTIONS.iter().map(|spec| {
            let arg = clap::Arg::new(spec.name).long(spec.name).help(spec.help);
            match spec.value {
                Some(value) => arg.value_name(value),
                None => arg.action(clap::ArgAction::SetTrue),
            }
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

#[derive(Args, Debug)]
pub(crate) struct UmountArgs {
    /// A mounted directory
    #[arg(value_name = "DIR")]
    pub(crate) mount_point: PathBuf,
    /// Detach now, even if files are open
    #[arg(short, long, conflicts_with = "flush")]
    pub(crate) force: bool,
    /// Wait first until everything that was staged (mount --writeback) is uploaded
    #[arg(long)]
    pub(crate) flush: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Show one session, with what it holds
    #[arg(short, long, value_name = "SID")]
    pub(crate) session: Option<u64>,
    /// Accepted for programs: the output is JSON in any case
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ControllerArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// A directory with a mounted Secret in each of its directories: the file systems whose volumes, snapshots and room are
    /// listed
    #[arg(long, value_name = "DIR")]
    pub(crate) file_systems: Option<PathBuf>,
    /// Ask the cluster for labels and annotations of claims, where a `StorageClass` needs them
    #[arg(long)]
    pub(crate) claims: bool,
    /// How to reach the cluster [default: as the pod's service account]
    #[arg(long, value_name = "FILE", requires = "claims")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ServiceArgs {
    /// The socket to serve on
    #[arg(long, value_name = "unix://PATH", env = "CSI_ENDPOINT")]
    pub(crate) endpoint: String,
    /// Name of the driver
    #[arg(long, value_name = "NAME", default_value = "csi.steadfast.io", env = "DRIVER_NAME")]
    pub(crate) driver_name: String,
    /// Serve `/metrics` and `/healthz` on this address, such as 0.0.0.0:9568
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<String>,
}

/// The service with its options, or something about it with other ones.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one, in a box")]
pub(crate) enum NodeCommand {
    Serve(NodeArgs),
    List(NodeListArgs),
}

const NODE_LIST: &str = "ls";

impl FromArgMatches for NodeCommand {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((NODE_LIST, matches)) => NodeListArgs::from_arg_matches(matches).map(Self::List),
            _ => NodeArgs::from_arg_matches(matches).map(Self::Serve),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for NodeCommand {
    fn augment_args(command: clap::Command) -> clap::Command {
        let list = clap::Command::new(NODE_LIST)
            .about("List the volumes on this node with their workers and pods, also while no node service runs");
        NodeArgs::augment_args(command)
            .subcommand(NodeListArgs::augment_args(list))
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

#[derive(Args, Debug)]
pub(crate) struct NodeListArgs {
    /// Where the node service keeps mounts and their records
    #[arg(long, value_name = "DIR", default_value = "/var/lib/steadfast")]
    pub(crate) state_dir: PathBuf,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Name of this node
    #[arg(long, value_name = "ID", env = "NODE_NAME")]
    pub(crate) node_id: String,
    /// Topology of this node, which the kubelet makes labels of: external-provisioner publishes no capacity without any
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) topology: Vec<(String, String)>,
    /// Where mounts and their records are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/steadfast")]
    pub(crate) state_dir: PathBuf,
    /// Register with the kubelet that watches this directory (/var/lib/kubelet/plugins_registry); it must see the endpoint
    /// under the same path
    #[arg(long, value_name = "DIR")]
    pub(crate) registration_dir: Option<PathBuf>,
    /// User that workers run as
    #[arg(long, value_name = "UID", default_value_t = 65532)]
    pub(crate) worker_uid: u32,
    /// Group that workers run as
    #[arg(long, value_name = "GID", default_value_t = 65532)]
    pub(crate) worker_gid: u32,
    /// Program of workers, read anew for each [default: this program]
    #[arg(long, value_name = "FILE", conflicts_with = "runner_socket")]
    pub(crate) worker_exe: Option<PathBuf>,
    /// Where workers run: as processes of their own, below a runner, in pods [default: process, or runner with
    /// --runner-socket]
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<NodeMode>,
    /// Have workers started by the runner that listens here (`stead runner`)
    #[arg(long, value_name = "PATH", required_if_eq("mode", "runner"))]
    pub(crate) runner_socket: Option<PathBuf>,
    /// What pods of workers are made from, in YAML or JSON; read anew for each
    #[arg(long, value_name = "FILE", required_if_eq("mode", "pod"))]
    pub(crate) worker_template: Option<PathBuf>,
    /// Tell pods and claims by events what happens to their mounts
    #[arg(long)]
    pub(crate) events: bool,
    /// Name of the pod that this is in: pods of workers belong to its `DaemonSet`
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,
    /// How to reach the cluster [default: as the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeMode {
    /// As processes of the node service
    Process,
    /// As processes of a runner
    Runner,
    /// In a pod each
    Pod,
}

#[derive(Args, Debug)]
pub(crate) struct RunnerArgs {
    /// The socket to listen on; workers find the node service in the same directory
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Start one worker and end when that has; its log goes to standard error, too
    #[arg(long)]
    pub(crate) once: bool,
    /// User that workers run as, if this is root
    #[arg(long, value_name = "UID", default_value_t = 65532)]
    pub(crate) worker_uid: u32,
    /// Group that workers run as, if this is root
    #[arg(long, value_name = "GID", default_value_t = 65532)]
    pub(crate) worker_gid: u32,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Number of the inherited descriptor of the control socket
    #[arg(long, value_name = "FD")]
    pub(crate) control_fd: i32,
}

#[derive(Args, Debug)]
pub(crate) struct QuickstartArgs {
    /// Everything the quick start makes lies below this directory
    #[arg(long, value_name = "DIR", default_value = "/var/lib/steadfast-quickstart")]
    pub(crate) state_dir: PathBuf,
    /// Unmount, delete the volume, stop the services and remove the directory
    #[arg(long)]
    pub(crate) stop: bool,
    /// User that controller and workers run as
    #[arg(long, value_name = "UID", default_value_t = 65532)]
    pub(crate) uid: u32,
    /// Group that controller and workers run as
    #[arg(long, value_name = "GID", default_value_t = 65532)]
    pub(crate) gid: u32,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mount_reads_what_users_of_the_go_client_type() {
        let line = "stead mount redis://h/1 /mnt -d --cache-size 1024 --read-only -o allow_other,ro --buffer-size=64";
        let Command::Mount(args) = Cli::parse_from(line.split(' ')).command else { panic!("not mount") };
        assert!(args.background);
        assert_eq!(args.fuse_options, ["allow_other,ro"]);
        let given: Vec<_> = args.options.0.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(given, [("read-only", ""), ("cache-size", "1024"), ("buffer-size", "64")]);
    }

    fn node(arguments: &[&str]) -> Result<NodeCommand, clap::Error> {
        Cli::try_parse_from([&["stead", "node"], arguments].concat()).map(|cli| match cli.command {
            Command::Node(command) => *command,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_node_serves_or_lists() {
        let served = node(&["--endpoint", "unix:///s", "--node-id", "n", "--state-dir", "/d"]).expect("complete");
        assert!(
            matches!(served, NodeCommand::Serve(args) if args.node_id == "n" && args.state_dir.as_path() == std::path::Path::new("/d"))
        );
        assert!(node(&["--endpoint", "unix:///s"]).is_err());
        let listed = node(&["ls", "--json", "--state-dir", "/d"]).expect("complete");
        assert!(
            matches!(listed, NodeCommand::List(args) if args.json && args.state_dir.as_path() == std::path::Path::new("/d"))
        );
        assert!(node(&["--node-id", "n", "ls"]).is_err());
    }
}
