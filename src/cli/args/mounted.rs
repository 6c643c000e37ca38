//! Arguments of commands that ask a mount.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Files or directories of a mounted volume
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Sum up everything below a directory
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Show slices instead of objects
    #[arg(long)]
    pub(crate) raw: bool,
    /// The paths are inode numbers; the current directory is inside the mount
    #[arg(short, long)]
    pub(crate) inode: bool,
    /// Accepted for scripts: sums are always exact
    #[arg(long, hide = true)]
    pub(crate) strict: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RmrArgs {
    /// Files or directories of a mounted volume
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// For good, not into the trash; needs root
    #[arg(long)]
    pub(crate) skip_trash: bool,
    /// Entries removed at the same time
    #[arg(short = 'p', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) threads: u8,
}

#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    /// A file or directory of a mounted volume
    #[arg(value_name = "SOURCE")]
    pub(crate) source: PathBuf,
    /// What is to be made, in the same mount
    #[arg(value_name = "TARGET")]
    pub(crate) target: PathBuf,
    /// Keep owner, group and mode
    #[arg(short, long)]
    pub(crate) preserve: bool,
    /// Directories cloned at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) threads: u8,
}

#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    /// Files or directories of a mounted volume
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Chunks at the same time
    #[arg(short = 'p', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,
}

#[derive(Args, Debug)]
pub(crate) struct SummaryArgs {
    /// A directory of a mounted volume
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Levels to show, 10 at most; 0 = the directory only
    #[arg(short, long, value_name = "N", default_value_t = 2)]
    pub(crate) depth: u8,
    /// Entries of each directory to show, the largest ones, 100 at most
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    pub(crate) entries: u8,
    /// Accepted for scripts: a mount of ours always counts exactly
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WarmupArgs {
    /// Files or directories of a mounted volume
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// A file with more paths, one per line
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Files at the same time
    #[arg(short = 'p', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,
    /// Do not wait
    #[arg(short, long)]
    pub(crate) background: bool,
    /// Take blocks out of the cache instead
    #[arg(long, conflicts_with = "check")]
    pub(crate) evict: bool,
    /// Only look which blocks are cached
    #[arg(long)]
    pub(crate) check: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// A mounted volume
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// Seconds between two lines
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) interval: u64,
    /// Lines to print; 0 = until it is interrupted
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    pub(crate) count: u64,
    /// Sections: t time, u usage, f fuse, m meta, c blockcache, o object
    #[arg(long, value_name = "LETTERS", default_value = "ufmco")]
    pub(crate) schema: String,
    /// Accepted for scripts: has no effect
    #[arg(short = 'l', long, hide = true, value_name = "N")]
    pub(crate) verbosity: Option<u8>,
    /// Print a JSON object per line
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// A directory
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// Size of one write or read of a large file in MiB
    #[arg(long, value_name = "SIZE", default_value = "1M")]
    pub(crate) block_size: String,
    /// Size of the large file of each thread in MiB; 0 = none
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub(crate) big_file_size: String,
    /// Size of each small file in KiB
    #[arg(long, value_name = "SIZE", default_value = "128K")]
    pub(crate) small_file_size: String,
    /// Small files of each thread; 0 = none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) small_file_count: u32,
    /// Threads
    #[arg(short = 'p', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: u32,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
