//! Arguments of commands that work on a volume's engine and objects.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::MetaUrlArg;

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Object storage: file, s3
    #[arg(long, value_name = "TYPE")]
    pub(crate) storage: Option<String>,
    /// Bucket URL, or a directory for `file`
    #[arg(long, value_name = "URL")]
    pub(crate) bucket: Option<String>,
    /// Access key of the object storage
    #[arg(long, value_name = "KEY")]
    pub(crate) access_key: Option<String>,
    /// Secret key of the object storage
    #[arg(long, value_name = "KEY")]
    pub(crate) secret_key: Option<String>,
    /// Session token of the object storage
    #[arg(long, value_name = "TOKEN")]
    pub(crate) session_token: Option<String>,
    /// Storage class of new objects
    #[arg(long, value_name = "CLASS")]
    pub(crate) storage_class: Option<String>,
    /// Limit of the space in GiB; 0 = none
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<String>,
    /// Limit of the number of inodes; 0 = none
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub(crate) inodes: Option<u64>,
    /// Upload limit of each client in Mbit/s; 0 = none
    #[arg(long, allow_negative_numbers = true, value_name = "MBIT")]
    pub(crate) upload_limit: Option<u64>,
    /// Download limit of each client in Mbit/s; 0 = none
    #[arg(long, allow_negative_numbers = true, value_name = "MBIT")]
    pub(crate) download_limit: Option<u64>,
    /// Days that removed files stay in the trash; 0 = no trash
    #[arg(long, allow_negative_numbers = true, value_name = "DAYS")]
    pub(crate) trash_days: Option<u32>,
    /// Keep statistics of directories, which their quotas need
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) dir_stats: Option<bool>,
    /// Keep usage of users and groups
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) user_group_quota: Option<bool>,
    /// Turn POSIX ACLs on, for good
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) enable_acl: Option<bool>,
    /// Not supported
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) changelog: Option<bool>,
    /// Refuse clients below this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) min_client_version: Option<String>,
    /// Refuse clients above this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) max_client_version: Option<String>,
    /// Encrypt secrets that an old client stored in plain text
    #[arg(long)]
    pub(crate) encrypt_secret: bool,
    /// Answer yes to all questions
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Change it without trying the storage and without questions
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what changed as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuotaAction {
    /// Set limits of a directory
    Set,
    /// Show those of one directory
    Get,
    /// Show all
    #[value(alias = "ls")]
    List,
    /// Remove those of a directory
    #[value(alias = "del", alias = "rm")]
    Delete,
    /// Compare the recorded usage with what is there
    Check,
}

#[derive(Args, Debug)]
pub(crate) struct QuotaArgs {
    /// What to do
    #[arg(value_name = "ACTION")]
    pub(crate) action: QuotaAction,
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// The directory, from the volume's root
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The user, instead of a directory
    #[arg(long, value_name = "UID", conflicts_with = "path")]
    pub(crate) uid: Option<u32>,
    /// The group, instead of a directory
    #[arg(long, value_name = "GID", conflicts_with_all = ["path", "uid"])]
    pub(crate) gid: Option<u32>,
    /// Limit of the space in GiB; 0 = none
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<String>,
    /// Limit of the number of inodes; 0 = none
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub(crate) inodes: Option<u64>,
    /// Make the directory if it is not there
    #[arg(long)]
    pub(crate) create: bool,
    /// Correct the recorded usage
    #[arg(long)]
    pub(crate) repair: bool,
    /// Accepted for scripts: usage is always counted in full
    #[arg(long, hide = true)]
    pub(crate) strict: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Where to; `.gz` at its end compresses [default: standard output]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Only what is below this directory, as a volume of its own
    #[arg(long, value_name = "PATH")]
    pub(crate) subdir: Option<String>,
    /// Leave the trash out
    #[arg(long)]
    pub(crate) skip_trash: bool,
    /// Keep the credentials of the object storage
    #[arg(long)]
    pub(crate) keep_secret_key: bool,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) binary: bool,
    /// Accepted for scripts: has no effect
    #[arg(long, hide = true)]
    pub(crate) fast: bool,
    /// Accepted for scripts: has no effect
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Print what was dumped as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// The dump; `.gz` at its end is uncompressed [default: standard input]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) binary: bool,
    /// Accepted for scripts: has no effect
    #[arg(long, hide = true, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Print what was loaded as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// The volume's UUID, as `stead status` shows it
    #[arg(value_name = "UUID")]
    pub(crate) uuid: String,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Even if the volume is mounted
    #[arg(long)]
    pub(crate) force: bool,
    /// Print what went as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct FsckArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Check this directory, from the volume's root
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// Check the directories below it, too; from `/` also the volume's usage
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Set right what is wrong with directories and usage
    #[arg(long)]
    pub(crate) repair: bool,
    /// Set statistics of directories right
    #[arg(long)]
    pub(crate) sync_dir_stat: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Remove what is found
    #[arg(long)]
    pub(crate) delete: bool,
    /// Join small slices first
    #[arg(long)]
    pub(crate) compact: bool,
    /// Calls at the same time that remove blocks
    #[arg(short = 'p', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,
    /// Leave younger blocks alone; a client may be about to commit them [default: 3600, or JFS_GC_SKIPPEDTIME]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) skip_younger: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) meta: MetaUrlArg,
    /// Hours of the trash (UTC), such as 2026-01-31-23
    #[arg(value_name = "HOUR", required = true)]
    pub(crate) hours: Vec<String>,
    /// Put everything back where it was; otherwise only trees inside the trash are made whole
    #[arg(long)]
    pub(crate) put_back: bool,
    /// Entries moved at the same time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
