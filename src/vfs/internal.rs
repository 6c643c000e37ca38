//! The virtual files of the root directory: `.accesslog`, `.config`, `.stats`, and the name of the trash; `.control`, which
//! can be opened in any directory (format.md §6).
//!
//! They exist in no metadata engine. What a handle reads is fixed when it is opened, but for the access log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use stead_base::{Ino, Timestamp};
use stead_meta::format::Format;
use stead_meta::ops::MetaOptions;
use stead_meta::records::{Attr, NodeType};

use crate::accesslog::LogReader;
use crate::config::VfsConfig;
use crate::control::Control;

/// How long the kernel may keep names and attributes of virtual files.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3600);

/// The trash as the metadata layer names it.
const TRASH: &str = "trash";

/// A virtual file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Virtual {
    AccessLog,
    Control,
    Stats,
    Config,
}

impl Virtual {
    /// Those that are listed.
    pub(crate) const LISTED: [Self; 3] = [Self::AccessLog, Self::Config, Self::Stats];
    pub(crate) const ALL: [Self; 4] = [Self::AccessLog, Self::Control, Self::Stats, Self::Config];

    pub(crate) const fn ino(self) -> Ino {
        Ino(Ino::FIRST_INTERNAL.0
            + match self {
                Self::AccessLog => 1,
                Self::Control => 2,
                Self::Stats => 3,
                Self::Config => 4,
            })
    }

    pub(crate) fn of(ino: Ino) -> Option<Self> {
        Self::ALL.into_iter().find(|file| file.ino() == ino)
    }

    const fn stem(self) -> &'static str {
        match self {
            Self::AccessLog => "accesslog",
            Self::Control => "control",
            Self::Stats => "stats",
            Self::Config => "config",
        }
    }

    const fn mode(self) -> u16 {
        match self {
            Self::AccessLog | Self::Config => 0o400,
            Self::Control => 0o666,
            Self::Stats => 0o444,
        }
    }
}

/// What a name in the root directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Internal {
    File(Virtual),
    Trash,
}

/// The names in force.
#[derive(Debug)]
pub(crate) struct Names {
    prefix: &'static str,
    hidden: bool,
    trash: bool,
}

impl Names {
    /// With a sub-directory as the root, the trash of the volume is not shown.
    pub(crate) fn new(config: &VfsConfig, subdir: bool) -> Self {
        Self {
            prefix: if config.prefix_internal { ".jfs." } else { "." },
            hidden: config.hide_internal,
            trash: !subdir,
        }
    }

    /// What `name` in `parent` stands for, if it is not an ordinary name.
    pub(crate) fn find(&self, parent: Ino, name: &[u8]) -> Option<Internal> {
        let stem = name.strip_prefix(self.prefix.as_bytes())?;
        if stem == Virtual::Control.stem().as_bytes() {
            return Some(Internal::File(Virtual::Control));
        }
        if parent != Ino::ROOT {
            return None;
        }
        if self.trash && stem == TRASH.as_bytes() {
            return Some(Internal::Trash);
        }
        let file = Virtual::ALL.into_iter().find(|file| file.stem().as_bytes() == stem)?;
        Some(Internal::File(file))
    }

    /// The names that a listing of the root shows, by inode.
    pub(crate) fn listed(&self) -> Vec<(Ino, NodeType, String)> {
        if self.hidden {
            return Vec::new();
        }
        let named = |stem| format!("{}{stem}", self.prefix);
        let mut all: Vec<_> =
            Virtual::LISTED.into_iter().map(|file| (file.ino(), NodeType::File, named(file.stem()))).collect();
        if self.trash {
            all.push((Ino::TRASH, NodeType::Directory, named(TRASH)));
        }
        all
    }
}

/// Attributes of a virtual file of `length` bytes.
pub(crate) fn attr(file: Virtual, config: &VfsConfig, since: Timestamp, length: u64) -> Attr {
    Attr {
        flags: 0,
        kind: NodeType::File,
        mode: file.mode(),
        uid: config.uid,
        gid: config.gid,
        atime: since,
        mtime: since,
        ctime: since,
        nlink: 1,
        length,
        rdev: 0,
        parent: Ino::ROOT,
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    }
}

/// An open virtual file.
#[derive(Debug)]
pub(crate) enum VirtualHandle {
    Text(Bytes),
    Log(LogReader),
    Control(Arc<Control>),
}

impl VirtualHandle {
    pub(crate) async fn read(&self, offset: u64, size: usize) -> Bytes {
        match self {
            Self::Log(reader) => reader.read(size).await,
            Self::Control(control) => control.read(offset, size),
            Self::Text(text) => {
                let start = usize::try_from(offset).map_or(text.len(), |offset| offset.min(text.len()));
                text.slice(start..text.len().min(start.saturating_add(size)))
            }
        }
    }
}

/// The content of `.config`: JSON with one space of indentation, durations in nanoseconds, secrets removed.
pub(crate) fn config(
    config: &VfsConfig,
    meta: &MetaOptions,
    format: &Format,
    sid: u64,
    published: &serde_json::Map<String, Value>,
) -> String {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut document = json!({
        "Meta": {
            "Retries": 10,
            "MaxDeletes": meta.max_deletes,
            "SkipDirNlink": 20,
            "CaseInsensi": false,
            "ReadOnly": meta.read_only,
            "NoBGJob": meta.no_bgjob,
            "OpenCache": nanos(config.open_cache),
            "OpenCacheLimit": 10000,
            "Heartbeat": nanos(meta.heartbeat),
            "MountPoint": meta.mount_point,
            "Subdir": meta.subdir.as_deref().unwrap_or(""),
            "AtimeMode": "noatime",
            "DirStatFlushPeriod": 1_000_000_000,
            "SkipDirMtime": nanos(meta.skip_dir_mtime),
            "Sid": sid,
            "SortDir": false,
            "FastStatfs": false,
            "NetworkInterfaces": [],
        },
        "Format": published_format(format),
        "Chunk": {},
        "Security": {"EnableCap": false, "EnableSELinux": false},
        "Port": {},
        "Version": meta.version,
        "AttrTimeout": nanos(config.attr_cache),
        "DirEntryTimeout": nanos(config.dir_entry_cache),
        "NegEntryTimeout": nanos(config.negative_entry_cache),
        "EntryTimeout": nanos(config.entry_cache),
        "ReaddirCache": false,
        "BackupMeta": 0,
        "BackupSkipTrash": false,
        "PrefixInternal": config.prefix_internal,
        "HideInternal": config.hide_internal,
        "UMask": 65535,
        "Pid": meta.pid,
        "PPid": std::os::unix::process::parent_id(),
        "CommPath": "",
        "StatePath": "",
        "FuseOpts": {},
        "Mountpoint": meta.mount_point,
    });
    if let Some(ours) = document.as_object_mut() {
        ours.extend(published.clone());
    }
    indented(&document)
}

fn published_format(format: &Format) -> Value {
    serde_json::from_slice(&format.redacted().encode()).unwrap_or(Value::Null)
}

fn indented(document: &Value) -> String {
    use serde::Serialize as _;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let written = document.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    written.expect("a JSON value with text keys can be written to memory");
    String::from_utf8(out).expect("JSON is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_options() {
        let plain = Names::new(&VfsConfig::default(), false);
        assert_eq!(plain.find(Ino::ROOT, b".config"), Some(Internal::File(Virtual::Config)));
        assert_eq!(plain.find(Ino::ROOT, b".trash"), Some(Internal::Trash));
        assert_eq!(plain.find(Ino(7), b".config"), None);
        assert_eq!(plain.find(Ino(7), b".control"), Some(Internal::File(Virtual::Control)));
        let prefixed = VfsConfig { prefix_internal: true, ..VfsConfig::default() };
        let prefixed = Names::new(&prefixed, true);
        assert_eq!(prefixed.find(Ino::ROOT, b".config"), None);
        assert_eq!(prefixed.find(Ino::ROOT, b".jfs.stats"), Some(Internal::File(Virtual::Stats)));
        assert_eq!(prefixed.find(Ino::ROOT, b".jfs.trash"), None);
        let names: Vec<_> = prefixed.listed().into_iter().map(|(_, _, name)| name).collect();
        assert_eq!(names, [".jfs.accesslog", ".jfs.config", ".jfs.stats"]);
    }

    #[test]
    fn numbers_are_those_of_the_format() {
        let expected = [1, 2, 3, 4].map(|number| 0x7FFF_FFFF_0000_0000 + number);
        assert_eq!(Virtual::ALL.map(|file| file.ino().0), expected);
    }
}
