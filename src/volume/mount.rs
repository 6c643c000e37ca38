//! What a worker needs to serve a mount: [`MountConfig`], with the options of `stead mount` in [`MountOptions`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use stead_base::{ByteSize, parse_duration};

use crate::worker::WorkerSettings;

/// A text that appears in no log and no error.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Everything a worker needs; travels from the node service to the worker over their socket, never in arguments.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MountConfig {
    /// Address of the metadata engine; may contain its password.
    pub meta_url: Secret,
    /// The engine's password, when it came from elsewhere than the address.
    pub meta_password: Option<Secret>,
    /// The password of Redis sentinels.
    #[serde(default)]
    pub sentinel_password: Option<Secret>,
    /// An object-store credential of the Secret that takes precedence over the Format's.
    pub access_key: Option<Secret>,
    /// Likewise.
    pub secret_key: Option<Secret>,
    /// Likewise.
    pub session_token: Option<Secret>,
    /// Passphrase of the volume's RSA key.
    pub passphrase: Option<Secret>,
    /// Where the volume is mounted: goes into the session's record and the metrics.
    pub mount_point: PathBuf,
    /// Whether the worker itself unmounts when it is asked to end; otherwise whoever started it does.
    pub owns_mount: bool,
    /// The options of the mount.
    pub options: MountOptions,
    /// For the pods of its workers.
    #[serde(default)]
    pub worker: WorkerSettings,
}

/// The options of a mount, with the names and defaults of the Go client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountOptions {
    /// Refuse every change.
    pub read_only: bool,
    /// Directory of the volume to show as its root.
    pub subdir: Option<String>,
    /// Kernel cache of attributes.
    pub attr_cache: Duration,
    /// Kernel cache of file entries.
    pub entry_cache: Duration,
    /// Kernel cache of directory entries.
    pub dir_entry_cache: Duration,
    /// Kernel cache of missing entries.
    pub negative_entry_cache: Duration,
    /// How long attributes of open files may be taken from memory without asking the engine; zero = ask at each open.
    pub open_cache: Duration,
    /// A directory's mtime and ctime are left alone when they are younger than this.
    pub skip_dir_mtime: Duration,
    /// Session heartbeat; a session is dead after five.
    pub heartbeat: Duration,
    /// No background jobs (clean-up of trash, deleted files, stale sessions).
    pub no_bgjob: bool,
    /// Extended attributes.
    pub enable_xattr: bool,
    /// `security.capability` among them.
    pub enable_cap: bool,
    /// `security.selinux` among them.
    pub enable_selinux: bool,
    /// Inode flags, as chattr(1) sets them.
    pub enable_ioctl: bool,
    /// Direct reads and writes are sent in parts at the same time, and cannot be interrupted.
    pub async_dio: bool,
    /// Directories of the disk cache; empty = memory only.
    pub cache_dir: Vec<PathBuf>,
    /// Size of all cache directories together.
    pub cache_size: ByteSize,
    /// Share of the cache's file system that stays free, 0.0 ..= 1.0.
    pub free_space_ratio: f32,
    /// Which cached blocks make room for others.
    pub cache_eviction: CacheEviction,
    /// Cached blocks that nobody has used for so long are removed; zero = none is.
    pub cache_expire: Duration,
    /// How much of a cached block is compared with its checksums.
    pub verify_cache_checksum: CacheChecksum,
    /// Permissions of cached blocks.
    pub cache_mode: u32,
    /// Also cache full blocks that are written.
    pub cache_large_write: bool,
    /// Stage blocks on the local disk and upload them later.
    pub writeback: bool,
    /// Only blocks smaller than this are staged; zero = all.
    pub writeback_threshold_size: ByteSize,
    /// How long a staged block waits at least.
    pub upload_delay: Duration,
    /// Hours of the local day in which staged blocks are uploaded: from the first up to, not including, the second.
    pub upload_hours: Option<(u32, u32)>,
    /// Bytes of write buffers and read-ahead together.
    pub buffer_size: ByteSize,
    /// Blocks to fetch ahead for random reads.
    pub prefetch: u32,
    /// Largest read-ahead of one handle; `None` = derived from `buffer_size`.
    pub max_readahead: Option<ByteSize>,
    /// Parallel uploads.
    pub max_uploads: u32,
    /// Parallel downloads.
    pub max_downloads: u32,
    /// Retries of one object request.
    pub io_retries: u32,
    /// Longest time of one GET.
    pub get_timeout: Duration,
    /// Longest time of one PUT.
    pub put_timeout: Duration,
    /// Upload limit in Mbit/s, 0 = the Format's.
    pub upload_limit: u64,
    /// Download limit in Mbit/s, 0 = the Format's.
    pub download_limit: u64,
    /// Bucket that overrides the Format's.
    pub bucket: Option<String>,
    /// Storage type that overrides the Format's.
    pub storage: Option<String>,
    /// Do not list the virtual files in the root.
    pub hide_internal: bool,
    /// Name the virtual files `.jfs.…`.
    pub prefix_internal: bool,
    /// How long operations wait for a metadata engine that is away.
    pub io_timeout: Duration,
    /// Address of the metrics page; `None` = none.
    pub metrics: Option<String>,
    /// Requests up to this size: `max_write` and `max_read` of the FUSE session.
    pub max_fuse_io: ByteSize,
    /// Other FUSE options as given with `-o`.
    pub fuse_options: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            subdir: None,
            attr_cache: Duration::from_secs(1),
            entry_cache: Duration::from_secs(1),
            dir_entry_cache: Duration::from_secs(1),
            negative_entry_cache: Duration::ZERO,
            open_cache: Duration::ZERO,
            skip_dir_mtime: Duration::from_millis(100),
            heartbeat: Duration::from_secs(12),
            no_bgjob: false,
            enable_xattr: false,
            enable_cap: false,
            enable_selinux: false,
            enable_ioctl: false,
            async_dio: false,
            cache_dir: Vec::new(),
            cache_size: ByteSize(100 << 30),
            free_space_ratio: 0.1,
            cache_eviction: CacheEviction::TwoRandom,
            cache_expire: Duration::ZERO,
            verify_cache_checksum: CacheChecksum::Extend,
            cache_mode: 0o600,
            cache_large_write: false,
            writeback: false,
            writeback_threshold_size: ByteSize(0),
            upload_delay: Duration::ZERO,
            upload_hours: None,
            buffer_size: ByteSize(300 << 20),
            prefetch: 1,
            max_readahead: None,
            max_uploads: 20,
            max_downloads: 200,
            io_retries: 10,
            get_timeout: Duration::from_secs(60),
            put_timeout: Duration::from_secs(60),
            upload_limit: 0,
            download_limit: 0,
            bucket: None,
            storage: None,
            hide_internal: false,
            prefix_internal: false,
            io_timeout: Duration::from_secs(60),
            metrics: None,
            max_fuse_io: ByteSize(1 << 20),
            fuse_options: Vec::new(),
        }
    }
}

/// `cache-eviction`: which cached block makes room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheEviction {
    /// The older of two that chance picks.
    #[serde(rename = "2-random")]
    TwoRandom,
    /// None; what does not fit is not cached.
    None,
    /// The one that was not used for the longest time.
    Lru,
}

/// `verify-cache-checksum`: how much of a cached block is compared with its checksums when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheChecksum {
    /// Nothing; blocks are cached without checksums.
    None,
    /// Reads of whole blocks.
    Full,
    /// The units of 32 KiB that lie inside a read as a whole.
    Shrink,
    /// All units that a read touches.
    Extend,
}

/// A mount option that cannot be used: names it, its value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown mount option {name:?}")]
    Unknown {
        /// As it was given.
        name: String,
    },
    /// A value that does not fit.
    #[error("mount option {name}={value}: expected {expected}")]
    Value {
        /// The option.
        name: String,
        /// As it was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

/// FUSE and mount(8) options that are accepted and mean nothing here, or are passed to mount(2).
const PASSED_ON: [&str; 14] = [
    "allow_other",
    "default_permissions",
    "nonempty",
    "noatime",
    "atime",
    "relatime",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "async",
    "_netdev",
];

/// One option of `stead mount`: its name, what its value is called (`None` = a flag) and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// Without dashes.
    pub name: &'static str,
    /// As `--help` shows it.
    pub value: Option<&'static str>,
    /// One line.
    pub help: &'static str,
}

const fn option(name: &'static str, value: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, value: Some(value), help }
}

const fn flag(name: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec { name, value: None, help }
}

/// All options that [`MountOptions::set`] takes, in the order of `--help`.
pub const MOUNT_OPTIONS: &[OptionSpec] = &[
    flag("read-only", "Refuse every change"),
    option("subdir", "PATH", "Directory of the volume to show as its root"),
    option("attr-cache", "SECONDS", "How long the kernel keeps attributes [default: 1]"),
    option("entry-cache", "SECONDS", "How long the kernel keeps file entries [default: 1]"),
    option("dir-entry-cache", "SECONDS", "How long the kernel keeps directory entries [default: 1]"),
    option("negative-entry-cache", "SECONDS", "How long the kernel keeps missing entries [default: 0]"),
    option("open-cache", "SECONDS", "How long attributes may be reused at open [default: 0 = always ask]"),
    option("skip-dir-mtime", "TIME", "Leave a directory's times alone when they are younger [default: 100ms]"),
    option("heartbeat", "SECONDS", "Interval of the session's heartbeat [default: 12]"),
    flag("no-bgjob", "Run no background jobs (clean-up of trash, deleted files, dead sessions)"),
    flag("enable-xattr", "Support extended attributes"),
    flag("enable-cap", "Support security.capability among them"),
    flag("enable-selinux", "Support security.selinux among them"),
    flag("enable-ioctl", "Support the inode flags of chattr"),
    flag("async-dio", "Send the parts of a direct read or write at the same time; nothing can interrupt them then"),
    option("cache-dir", "DIR[:DIR]", "Directories of the disk cache; `memory` for none"),
    option("cache-size", "MIB", "Size of the disk cache [default: 100G]"),
    option("free-space-ratio", "RATIO", "Share of the cache's file system that stays free [default: 0.1]"),
    option("cache-eviction", "POLICY", "Which cached blocks make room: 2-random, none or lru [default: 2-random]"),
    option("cache-expire", "TIME", "Remove cached blocks that were not used for so long [default: 0 = never]"),
    option("verify-cache-checksum", "LEVEL", "Verify cached blocks: none, full, shrink or extend [default: extend]"),
    option("cache-mode", "MODE", "Permissions of cached blocks [default: 0600]"),
    flag("cache-large-write", "Also cache full blocks when they are written"),
    flag("writeback", "Stage blocks on the local disk and upload them in the background; others read them only then"),
    option("writeback-threshold-size", "BYTES", "Stage only blocks smaller than this [default: 0 = all]"),
    option("upload-delay", "TIME", "How long staged blocks wait at least [default: 0]"),
    option("upload-hours", "START,END", "Hours of the day in which staged blocks are uploaded, such as 23,6"),
    option("buffer-size", "MIB", "Write buffers and read-ahead together [default: 300M]"),
    option("prefetch", "N", "Blocks to fetch ahead for random reads [default: 1]"),
    option("max-readahead", "MIB", "Largest read-ahead of one handle"),
    option("max-uploads", "N", "Parallel uploads [default: 20]"),
    option("max-downloads", "N", "Parallel downloads [default: 200]"),
    option("io-retries", "N", "Retries of an object request [default: 10]"),
    option("get-timeout", "SECONDS", "Longest time of one download [default: 60]"),
    option("put-timeout", "SECONDS", "Longest time of one upload [default: 60]"),
    option("io-timeout", "SECONDS", "How long operations wait for a metadata engine that is away [default: 60]"),
    option("upload-limit", "MBIT", "Upload bandwidth in Mbit/s [default: the volume's]"),
    option("download-limit", "MBIT", "Download bandwidth in Mbit/s [default: the volume's]"),
    option("bucket", "URL", "Use this bucket instead of the volume's"),
    option("storage", "TYPE", "Use this type of object storage instead of the volume's"),
    flag("hide-internal", "Do not list .accesslog, .config, .stats and .trash"),
    flag("prefix-internal", "Name them .jfs.accesslog, .jfs.config, ..."),
    option("metrics", "HOST:PORT", "Serve /metrics and /healthz there"),
    option("max-fuse-io", "BYTES", "Largest FUSE request [default: 1M]"),
];

impl MountOptions {
    /// Applies options as they stand in a StorageClass, a PV or after `-o`: `name`, `name=value`.
    pub fn apply<'a>(&mut self, options: impl IntoIterator<Item = &'a str>) -> Result<(), OptionError> {
        for option in options.into_iter().map(str::trim).filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            self.set(name, value)?;
        }
        Ok(())
    }

    /// Sets one option by the name it has on the command line (with or without leading dashes, `_` for `-` allowed).
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let option = Given { name: name.trim_start_matches('-'), value };
        if PASSED_ON.contains(&option.name) {
            self.fuse_options.push(option.name.to_owned());
            return Ok(());
        }
        match option.name.replace('_', "-").as_str() {
            "ro" | "read-only" => self.read_only = option.flag()?,
            "rw" => self.read_only = !option.flag()?,
            "no-bgjob" => self.no_bgjob = option.flag()?,
            "enable-xattr" => self.enable_xattr = option.flag()?,
            "enable-cap" => self.enable_cap = option.flag()?,
            "enable-selinux" => self.enable_selinux = option.flag()?,
            "async-dio" => self.async_dio = option.flag()?,
            "enable-ioctl" => self.enable_ioctl = option.flag()?,
            "writeback" => self.writeback = option.flag()?,
            "upload-hours" => self.upload_hours = option.hours()?,
            "cache-large-write" => self.cache_large_write = option.flag()?,
            "hide-internal" => self.hide_internal = option.flag()?,
            "prefix-internal" => self.prefix_internal = option.flag()?,
            "subdir" => self.subdir = Some(option.text()?),
            "bucket" => self.bucket = Some(option.text()?),
            "storage" => self.storage = Some(option.text()?),
            "metrics" => self.metrics = Some(option.text()?),
            "cache-dir" => self.cache_dir = option.directories()?,
            "cache-eviction" => self.cache_eviction = option.named("2-random, none or lru")?,
            "verify-cache-checksum" => self.verify_cache_checksum = option.named("none, full, shrink or extend")?,
            _ => return self.set_number(&option),
        }
        Ok(())
    }

    fn set_number(&mut self, option: &Given<'_>) -> Result<(), OptionError> {
        match option.name.replace('_', "-").as_str() {
            "attr-cache" => self.attr_cache = option.duration()?,
            "entry-cache" => self.entry_cache = option.duration()?,
            "dir-entry-cache" => self.dir_entry_cache = option.duration()?,
            "negative-entry-cache" => self.negative_entry_cache = option.duration()?,
            "open-cache" => self.open_cache = option.duration()?,
            "skip-dir-mtime" => self.skip_dir_mtime = option.duration()?,
            "heartbeat" => self.heartbeat = option.duration()?,
            "get-timeout" => self.get_timeout = option.duration()?,
            "put-timeout" => self.put_timeout = option.duration()?,
            "io-timeout" => self.io_timeout = option.duration()?,
            "cache-mode" => self.cache_mode = option.mode()?,
            "cache-expire" => self.cache_expire = option.duration()?,
            "cache-size" => self.cache_size = option.size(1 << 20)?,
            "buffer-size" => self.buffer_size = option.size(1 << 20)?,
            "max-readahead" => self.max_readahead = Some(option.size(1 << 20)?),
            "writeback-threshold-size" => self.writeback_threshold_size = option.size(1)?,
            "upload-delay" => self.upload_delay = option.duration()?,
            "max-fuse-io" => self.max_fuse_io = option.size(1)?,
            "free-space-ratio" => self.free_space_ratio = option.ratio()?,
            "prefetch" => self.prefetch = option.number("a number of blocks")?,
            "max-uploads" => self.max_uploads = option.number("a number of parallel uploads")?,
            "max-downloads" => self.max_downloads = option.number("a number of parallel downloads")?,
            "io-retries" => self.io_retries = option.number("a number of retries")?,
            "upload-limit" => self.upload_limit = option.number("a limit in Mbit/s")?,
            "download-limit" => self.download_limit = option.number("a limit in Mbit/s")?,
            _ => {
                return Err(OptionError::Unknown { name: option.name.to_owned() });
            }
        }
        Ok(())
    }
}

/// An option as it was written.
struct Given<'a> {
    name: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn wrong(&self, expected: &'static str) -> OptionError {
        OptionError::Value { name: self.name.to_owned(), value: self.value.to_owned(), expected }
    }

    fn flag(&self) -> Result<bool, OptionError> {
        match self.value {
            "" | "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn text(&self) -> Result<String, OptionError> {
        if self.value.is_empty() { Err(self.wrong("a value")) } else { Ok(self.value.to_owned()) }
    }

    fn directories(&self) -> Result<Vec<PathBuf>, OptionError> {
        let text = self.text()?;
        Ok(if text == "memory" { Vec::new() } else { text.split([':', ',']).map(PathBuf::from).collect() })
    }

    /// One of the names that a type has in its serialized form.
    fn named<T: DeserializeOwned>(&self, expected: &'static str) -> Result<T, OptionError> {
        let name: StrDeserializer<'_, serde::de::value::Error> = self.value.into_deserializer();
        T::deserialize(name).map_err(|_unknown| self.wrong(expected))
    }

    /// Without read and write for the owner the cache would be of no use.
    fn mode(&self) -> Result<u32, OptionError> {
        match u32::from_str_radix(self.value, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
            _ => Err(self.wrong("octal permissions that let the owner read and write, such as 0600")),
        }
    }

    fn duration(&self) -> Result<Duration, OptionError> {
        parse_duration(self.value).map_err(|error| self.wrong(error.expected))
    }

    fn size(&self, unit: u64) -> Result<ByteSize, OptionError> {
        ByteSize::parse_with_unit(self.value, unit).map_err(|error| self.wrong(error.expected))
    }

    fn hours(&self) -> Result<Option<(u32, u32)>, OptionError> {
        let hour = |text: &str| text.trim().parse().ok().filter(|hour| *hour < 24);
        let hours = self.value.split_once([',', '-']).and_then(|(start, end)| Some((hour(start)?, hour(end)?)));
        match hours {
            Some(hours) => Ok(Some(hours)),
            None if self.value.is_empty() => Ok(None),
            None => Err(self.wrong("two hours of the day, 0 to 23, such as 23,6")),
        }
    }

    fn ratio(&self) -> Result<f32, OptionError> {
        let expected = "a ratio between 0 and 1, such as 0.1";
        match self.value.parse() {
            Ok(ratio) if (0.0..1.0).contains(&ratio) => Ok(ratio),
            _ => Err(self.wrong(expected)),
        }
    }

    fn number<T: std::str::FromStr>(&self, expected: &'static str) -> Result<T, OptionError> {
        self.value.parse().map_err(|_not_a_number| self.wrong(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_as_the_go_client_names_them() {
        let mut options = MountOptions::default();
        let given = ["ro", "cache-size=512", "buffer_size=64M", "attr-cache=0.5", "cache-dir=/a:/b", "allow_other", ""];
        options.apply(given).expect("all are known");
        assert!(options.read_only);
        assert_eq!(options.cache_size, ByteSize(512 << 20));
        assert_eq!(options.buffer_size, ByteSize(64 << 20));
        assert_eq!(options.attr_cache, Duration::from_millis(500));
        assert_eq!(options.cache_dir, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.fuse_options, ["allow_other"]);
    }

    #[test]
    fn every_listed_option_is_known() {
        for spec in MOUNT_OPTIONS {
            match MountOptions::default().set(spec.name, if spec.value.is_some() { "1" } else { "" }) {
                Ok(()) | Err(OptionError::Value { .. }) => {}
                Err(unknown) => panic!("{unknown}"),
            }
        }
    }

    #[test]
    fn a_wrong_option_is_named() {
        let mut options = MountOptions::default();
        let unknown = options.apply(["cache-sise=1"]).expect_err("misspelt");
        assert_eq!(unknown.to_string(), "unknown mount option \"cache-sise\"");
        let wrong = options.apply(["attr-cache=soon"]).expect_err("no duration");
        assert!(wrong.to_string().starts_with("mount option attr-cache=soon: expected a duration"), "{wrong}");
    }

    #[test]
    fn staging_options_are_read() {
        let mut options = MountOptions::default();
        options.apply(["writeback", "upload-delay=1m", "upload-hours=23-6"]).expect("all are right");
        assert!(options.writeback);
        assert_eq!((options.upload_delay, options.upload_hours), (Duration::from_secs(60), Some((23, 6))));
        for wrong in ["upload-hours=24,1", "upload-hours=3", "writeback=maybe"] {
            options.apply([wrong]).expect_err(wrong);
        }
    }

    #[test]
    fn cache_options_are_read_and_wrong_ones_named() {
        let mut options = MountOptions::default();
        options
            .apply(["cache-eviction=lru", "verify-cache-checksum=shrink", "cache-expire=1h", "cache-mode=0644"])
            .expect("all are right");
        assert_eq!(options.cache_eviction, CacheEviction::Lru);
        assert_eq!(options.verify_cache_checksum, CacheChecksum::Shrink);
        assert_eq!((options.cache_expire, options.cache_mode), (Duration::from_secs(3600), 0o644));
        for (wrong, right) in [
            ("cache-eviction=random", "2-random, none or lru"),
            ("cache-eviction=", "2-random, none or lru"),
            ("verify-cache-checksum=all", "none, full, shrink or extend"),
            ("cache-mode=888", "octal permissions that let the owner read and write, such as 0600"),
            ("cache-mode=0400", "octal permissions that let the owner read and write, such as 0600"),
        ] {
            let error = options.apply([wrong]).expect_err(wrong);
            assert_eq!(error.to_string(), format!("mount option {wrong}: expected {right}"));
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "(secret)");
    }
}
