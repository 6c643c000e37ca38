//! Limits of directories and of owners: set, shown, removed, and held against what is really there (format.md §7.3).

use std::fmt;

use serde::Serialize;
use stead_base::Ino;
use stead_meta::Meta;
use stead_meta::records::{Principal, Quota};

use crate::error::{Error, Result};
use crate::paths;

/// A quota with its usage. A limit of 0 is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shown {
    /// The directory, from the volume's root, or `uid:N`, `gid:N`.
    pub path: String,
    /// Bytes that may be used.
    pub max_space: u64,
    /// Bytes in use.
    pub used_space: i64,
    /// Inodes that may be used.
    pub max_inodes: u64,
    /// Inodes in use.
    pub used_inodes: i64,
}

impl Shown {
    fn of(subject: &impl ToString, quota: &Quota) -> Self {
        Self {
            path: subject.to_string(),
            max_space: quota.max_space.max(0).unsigned_abs(),
            used_space: quota.used_space,
            max_inodes: quota.max_inodes.max(0).unsigned_abs(),
            used_inodes: quota.used_inodes,
        }
    }
}

/// What a check of a quota found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checked {
    /// The directory.
    pub path: String,
    /// Usage as it is recorded: bytes, inodes.
    pub recorded: (i64, i64),
    /// Usage as it was counted.
    pub counted: (i64, i64),
    /// Whether the record has been set to what was counted.
    pub repaired: bool,
}

impl Checked {
    /// Whether the record is right now.
    pub fn is_right(&self) -> bool {
        self.repaired || self.recorded == self.counted
    }
}

/// What a quota limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Everything below this directory, from the volume's root.
    Directory(String),
    /// Everything that a user or a group owns.
    Owner(Principal),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.write_str(path),
            Self::Owner(Principal::User(uid)) => write!(f, "uid:{uid}"),
            Self::Owner(Principal::Group(gid)) => write!(f, "gid:{gid}"),
        }
    }
}

async fn directory(meta: &Meta, path: &str) -> Result<Ino> {
    let (ino, attr) = meta.resolve_path(path).await?;
    if attr.is_dir() { Ok(ino) } else { Err(Error::option("--path", path, "is no directory")) }
}

/// Sets limits; `None` keeps one, 0 is none. The first limit of an owner has the usage of all of them counted.
///
/// # Errors
/// A path that is no directory, unless `create` makes it; limits that cannot be.
pub async fn set(
    meta: &Meta,
    subject: &Subject,
    space: Option<u64>,
    inodes: Option<u64>,
    create: bool,
) -> Result<Shown> {
    let path = match subject {
        Subject::Owner(of) => return Ok(Shown::of(subject, &meta.set_owner_quota(*of, space, inodes).await?)),
        Subject::Directory(path) => path,
    };
    if !meta.format().dir_stats {
        let why = "quotas of directories need directory statistics: `config --dir-stats` turns them on";
        return Err(Error::Refused(why.to_owned()));
    }
    let dir = if create { meta.make_dirs(path, 0o755, 0, 0).await? } else { directory(meta, path).await? };
    Ok(Shown::of(subject, &meta.set_quota(dir, space, inodes).await?))
}

/// The quota of a directory or an owner.
///
/// # Errors
/// [`Error::Option`] if there is none.
pub async fn get(meta: &Meta, subject: &Subject) -> Result<Shown> {
    let quota = match subject {
        Subject::Directory(path) => meta.get_quota(directory(meta, path).await?).await?,
        Subject::Owner(of) => meta.get_owner_quota(*of).await?,
    };
    quota.map(|quota| Shown::of(subject, &quota)).ok_or_else(|| no_quota(subject))
}

/// Lifts the limits of a directory or an owner.
///
/// # Errors
/// [`Error::Option`] if there are none.
pub async fn delete(meta: &Meta, subject: &Subject) -> Result<()> {
    get(meta, subject).await?;
    match subject {
        Subject::Directory(path) => meta.del_quota(directory(meta, path).await?).await?,
        Subject::Owner(of) => meta.del_owner_quota(*of).await?,
    }
    Ok(())
}

fn no_quota(subject: &Subject) -> Error {
    match subject {
        Subject::Directory(path) => Error::option("--path", path, "has no quota"),
        Subject::Owner(Principal::User(uid)) => Error::option("--uid", uid, "has no quota"),
        Subject::Owner(Principal::Group(gid)) => Error::option("--gid", gid, "has no quota"),
    }
}

/// All quotas: directories by path, then owners that have a limit. A directory that is not reachable any more shows as
/// `inode:N`.
///
/// # Errors
/// Those of the engine.
pub async fn list(meta: &Meta) -> Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for (dir, quota) in meta.list_quotas().await? {
        let path = paths::directory(meta, dir).await?.unwrap_or_else(|| format!("inode:{dir}"));
        shown.push(Shown::of(&path, &quota));
    }
    shown.sort_by(|a, b| a.path.cmp(&b.path));
    let owners = meta.list_owner_quotas().await?.into_iter();
    let limited = owners.filter(|(_, quota)| quota.max_space > 0 || quota.max_inodes > 0);
    shown.extend(limited.map(|(of, quota)| Shown::of(&Subject::Owner(of), &quota)));
    Ok(shown)
}

/// Counts what is in use and compares it with what the quota has recorded.
///
/// # Errors
/// [`Error::Option`] if there is no quota.
pub async fn check(meta: &Meta, subject: &Subject, repair: bool) -> Result<Checked> {
    let stored = get(meta, subject).await?;
    let (recorded, counted) = match subject {
        Subject::Directory(path) => {
            let check = meta.check_quota(directory(meta, path).await?, repair).await?;
            ((check.quota.used_space, check.quota.used_inodes), (check.space, check.inodes))
        }
        // All owners are counted together, and those that are wrong set right together.
        Subject::Owner(of) => {
            let wrong = meta.check_owner_quotas(repair).await?.into_iter().find(|usage| usage.of == *of);
            let right = (stored.used_space, stored.used_inodes);
            wrong.map_or((right, right), |usage| {
                ((usage.quota.used_space, usage.quota.used_inodes), (usage.space, usage.inodes))
            })
        }
    };
    let repaired = repair && recorded != counted;
    Ok(Checked { path: subject.to_string(), recorded, counted, repaired })
}
