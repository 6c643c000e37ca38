//! Names that end up in paths: checked once, so that nobody below has to wonder about `..`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes of the id of a volume or snapshot at most (CSI, "Size Limits").
const MAX_ID: usize = 128;
const MAX_COMPONENT: usize = 255;
/// Directories of a volume's root that are not for workloads.
const RESERVED: [&str; 2] = [".stead", ".trash"];

/// Checks one component of a path: 1 to 255 bytes without `/`, control characters and NUL, not `.` or `..`.
pub(crate) fn component(what: &'static str, value: &str) -> Result<()> {
    let why = match value {
        "" => "is empty",
        "." | ".." => "is a relative path",
        _ if value.len() > MAX_COMPONENT => "is longer than 255 bytes",
        _ if value.contains('/') => "contains '/'",
        _ if value.chars().any(char::is_control) => "contains a control character",
        _ => return Ok(()),
    };
    Err(Error::Name { what, value: value.chars().take(300).collect(), why })
}

/// The id of a volume, which is also a file name.
///
/// A directory of a shared file system has the request's name. A file system of its own has `fs@<where>@<name>`, where
/// `<where>` is a Redis database number or `file`: the id alone, with the Secret, leads to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

/// The id of a snapshot, which is also a file name: the request's name. Like that of a directory volume it leads, with the
/// Secret, to the file system that holds it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

/// The id of a group of snapshots, which is also a file name: the request's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupId(String);

/// Where a volume of its own has its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// The Redis database of this number.
    Database(u32),
    /// A SQLite file.
    File,
}

const OWN_FILE_SYSTEM: &str = "fs@";

impl VolumeId {
    /// Checks an id: 1 to 128 bytes, good as a file name.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(id("volume id", text)?))
    }

    /// The id of a new directory volume with the request's name.
    pub(crate) fn of_directory(name: &str) -> Result<Self> {
        if name.starts_with(OWN_FILE_SYSTEM) {
            let why = "begins with \"fs@\", which is kept for volumes with a file system of their own";
            return Err(Error::Name { what: "volume name", value: name.to_owned(), why });
        }
        Self::parse(name)
    }

    pub(crate) fn of_file_system(home: Home, name: &str) -> Self {
        let home = match home {
            Home::Database(number) => number.to_string(),
            Home::File => "file".to_owned(),
        };
        Self(format!("{OWN_FILE_SYSTEM}{home}@{name}"))
    }

    /// Where the volume's own file system is, and its name; `None` for a directory volume.
    pub(crate) fn own_file_system(&self) -> Result<Option<(Home, &str)>> {
        let Some(rest) = self.0.strip_prefix(OWN_FILE_SYSTEM) else { return Ok(None) };
        let parts = rest.split_once('@').and_then(|(home, name)| {
            let home = match home {
                "file" => Home::File,
                number => Home::Database(number.parse().ok()?),
            };
            is_format_name(name).then_some((home, name))
        });
        let why = "expected fs@<database number or \"file\">@<name of the file system>";
        parts.map(Some).ok_or_else(|| Error::Name { what: "volume id", value: self.0.clone(), why })
    }
}

impl SnapshotId {
    /// Checks an id: 1 to 128 bytes, good as a file name.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(id("snapshot id", text)?))
    }
}

impl GroupId {
    /// Checks an id: 1 to 128 bytes, good as a file name.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(id("group snapshot id", text)?))
    }

    /// The id of the group's snapshot number `nth`, which is the same each time.
    pub fn member(&self, nth: usize) -> SnapshotId {
        let number = format!("@{nth}");
        if self.0.len() + number.len() <= MAX_ID {
            return SnapshotId(format!("{self}{number}"));
        }
        // Two groups that came to the same name are told apart by their records.
        SnapshotId(format!("group-{:032x}{number}", hash(&self.0)))
    }
}

fn id(what: &'static str, text: &str) -> Result<String> {
    if text.len() > MAX_ID {
        return Err(Error::Name { what, value: text.chars().take(MAX_ID).collect(), why: "is longer than 128 bytes" });
    }
    component(what, text)?;
    Ok(text.to_owned())
}

macro_rules! text {
    ($($id:ident),*) => {$(
        impl $id {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
        impl TryFrom<String> for $id {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(&text)
            }
        }
        impl From<$id> for String {
            fn from(id: $id) -> Self {
                id.0
            }
        }
    )*};
}
text!(VolumeId, SnapshotId, GroupId);

/// A directory below the root of a file system: `a/b`, every component checked, outside of what is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VolumePath(String);

impl VolumePath {
    /// Reads `a/b`; a leading or trailing `/` is allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let inner = text.strip_prefix('/').unwrap_or(text);
        let inner = inner.strip_suffix('/').unwrap_or(inner);
        for part in inner.split('/') {
            component("path component", part)?;
        }
        let first = inner.split('/').next().unwrap_or_default();
        if RESERVED.contains(&first) {
            let why = "lies in a directory that is kept for the driver or the trash";
            return Err(Error::Name { what: "path", value: text.to_owned(), why });
        }
        Ok(Self(inner.to_owned()))
    }

    /// Without slashes at the ends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of a directory in this one.
    pub(crate) fn join(&self, below: &Self) -> Self {
        Self(format!("{}/{}", self.0, below.0))
    }

    /// Whether one lies in the other or they are the same.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let inside = |inner: &Self, outer: &Self| {
            inner.0.strip_prefix(&outer.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        inside(self, other) || inside(other, self)
    }
}

/// Whether a text can be the name of a file system (format.md §1): 3 to 63 of a-z, 0-9 and '-', no '-' at the ends.
pub(crate) fn is_format_name(text: &str) -> bool {
    let right = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (3..=63).contains(&text.len())
        && text.as_bytes().iter().all(right)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of the file system of a volume's own: the request's name if it can be one, else one made from its hash.
/// Two requests that came to the same name are told apart by their records.
pub(crate) fn format_name(request: &str) -> String {
    if is_format_name(request) {
        return request.to_owned();
    }
    format!("vol-{:032x}", hash(request))
}

/// FNV-1a, which stays the same from version to version.
pub(crate) fn hash(text: &str) -> u128 {
    text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangerous_ids_are_refused_with_the_reason() {
        let long = "x".repeat(129);
        for (id, why) in [
            ("", "is empty"),
            ("..", "relative path"),
            ("a/b", "contains '/'"),
            ("a\0b", "control character"),
            ("a\nb", "control character"),
            (&long, "longer than 128"),
        ] {
            let error = VolumeId::parse(id).expect_err(id).to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(VolumeId::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn dangerous_paths_are_refused_with_the_reason() {
        let long = "x".repeat(256);
        for (path, why) in [
            ("", "is empty"),
            ("/", "is empty"),
            ("a//b", "is empty"),
            ("a/../b", "relative path"),
            ("../b", "relative path"),
            ("a/./b", "relative path"),
            ("a/b\0", "control character"),
            (&long, "longer than 255"),
            (".stead/volumes", "kept for the driver"),
            ("/.trash", "kept for the driver"),
        ] {
            let error = VolumePath::parse(path).expect_err(path).to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
        assert_eq!(VolumePath::parse("/a/b/").expect("fine").as_str(), "a/b");
    }

    #[test]
    fn overlap_is_by_component() {
        let path = |text| VolumePath::parse(text).expect("fine");
        assert!(path("a").overlaps(&path("a/b")) && path("a/b").overlaps(&path("a")) && path("a").overlaps(&path("a")));
        assert!(!path("a").overlaps(&path("ab")) && !path("a/b").overlaps(&path("a/c")));
    }

    #[test]
    fn the_id_of_an_own_file_system_leads_to_it() {
        let id = VolumeId::of_file_system(Home::Database(3), "pvc-1");
        assert_eq!(id.as_str(), "fs@3@pvc-1");
        assert_eq!(id.own_file_system().expect("well-formed"), Some((Home::Database(3), "pvc-1")));
        let file = VolumeId::of_file_system(Home::File, "pvc-1");
        assert_eq!(file.own_file_system().expect("well-formed"), Some((Home::File, "pvc-1")));
        assert!(VolumeId::of_directory("fs@3@pvc-1").is_err());
        assert_eq!(VolumeId::parse("pvc-1").expect("fine").own_file_system().expect("fine"), None);
        for bad in ["fs@", "fs@x@pvc-1", "fs@3@", "fs@3@UP"] {
            assert!(VolumeId::parse(bad).expect("a name").own_file_system().is_err(), "{bad}");
        }
    }

    #[test]
    fn any_group_names_its_snapshots() {
        let group = |name: &str| GroupId::parse(name).expect("right");
        assert_eq!(group("g").member(3).as_str(), "g@3");
        let (long, other) = ("x".repeat(128), "y".repeat(128));
        for nth in [0, 12_345] {
            let member = group(&long).member(nth);
            assert_eq!(SnapshotId::parse(member.as_str()).expect("an id"), member);
            assert_ne!(group(&other).member(nth), member);
        }
    }

    #[test]
    fn any_request_gets_a_name_for_its_file_system() {
        assert_eq!(format_name("pvc-123"), "pvc-123");
        for odd in ["UPPER", "x", "a_b", &"long".repeat(30)] {
            let name = format_name(odd);
            assert!(is_format_name(&name), "{name}");
        }
        assert_ne!(format_name("UPPER"), format_name("UPPER2"));
    }
}
