//! mount(2) and its relatives for FUSE mounts, with the checks that keep writes off the node's own disk.
//!
//! These calls block; whatever may reach a FUSE server goes through [`crate::within`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::statvfs::Statvfs;
use nix::unistd::linkat;

use crate::error::{Error, Result, errno_of};
use crate::mountinfo::{self, MountEntry};

/// The file-system type of every mount of ours, which is also that of the Go client's: tools know it.
pub const FS_TYPE: &str = "fuse.juicefs";

/// How a FUSE file system is mounted (fuse(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// What `df` shows as the source: `JuiceFS:<name>`.
    pub source: String,
    /// The kernel refuses changes.
    pub read_only: bool,
    /// Largest READ in bytes.
    pub max_read: u32,
    /// Others than `user_id` may use it.
    pub allow_other: bool,
    /// The kernel checks modes and owners.
    pub default_permissions: bool,
    /// Who mounts: the user who may use it without `allow_other`.
    pub user_id: u32,
    /// Likewise.
    pub group_id: u32,
    /// No program in it is run.
    pub no_exec: bool,
    /// Shown as such: the kernel keeps no access times of FUSE files in any case.
    pub no_atime: bool,
}

impl MountSpec {
    /// A mount of the volume `name` for everybody, with permissions checked by the kernel.
    pub fn volume(name: &str, read_only: bool, max_read: u32) -> Self {
        Self {
            source: format!("JuiceFS:{name}"),
            read_only,
            max_read,
            allow_other: true,
            default_permissions: true,
            user_id: nix::unistd::geteuid().as_raw(),
            group_id: nix::unistd::getegid().as_raw(),
            no_exec: false,
            no_atime: false,
        }
    }

    /// Applies options of mount(8), the last one of a kind; those that change nothing about a FUSE mount are passed over.
    #[must_use]
    pub fn with_options(mut self, options: &[String]) -> Self {
        for option in options {
            match option.as_str() {
                "noexec" => self.no_exec = true,
                "exec" => self.no_exec = false,
                "noatime" => self.no_atime = true,
                "atime" | "relatime" => self.no_atime = false,
                _ => {}
            }
        }
        self
    }

    fn data(&self, device: BorrowedFd<'_>) -> String {
        let (fd, uid, gid) = (device.as_raw_fd(), self.user_id, self.group_id);
        let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}");
        if self.default_permissions {
            data.push_str(",default_permissions");
        }
        if self.allow_other {
            data.push_str(",allow_other");
        }
        if self.max_read > 0 {
            data.push_str(&format!(",max_read={}", self.max_read));
        }
        data
    }
}

/// Opens `/dev/fuse`: one new, not yet mounted connection.
pub fn open_device() -> Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(OwnedFd::from)
        .map_err(|error| Error::Device { errno: errno_of(&error) })
}

/// Mounts the connection `device` on `dir`. Needs CAP_SYS_ADMIN. Requests wait until somebody serves the descriptor.
pub fn mount(device: BorrowedFd<'_>, dir: &Path, spec: &MountSpec) -> Result<()> {
    let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    flags.set(MsFlags::MS_RDONLY, spec.read_only);
    flags.set(MsFlags::MS_NOEXEC, spec.no_exec);
    flags.set(MsFlags::MS_NOATIME, spec.no_atime);
    nix::mount::mount(Some(&*spec.source), dir, Some(FS_TYPE), flags, Some(&*spec.data(device)))
        .map_err(|errno| Error::call("mount FUSE on", dir, errno))
}

/// Unmounts the topmost mount at `dir`. `lazy` detaches it at once and lets users that still hold it finish
/// (MNT_DETACH). What is not mounted is a success, so that a repeat is one.
pub fn umount(dir: &Path, lazy: bool) -> Result<()> {
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, lazy);
    match nix::mount::umount2(dir, flags) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::call("unmount", dir, errno)),
    }
}

/// Whether something is mounted at exactly `dir` (absolute, no symbolic links).
pub fn is_mounted(dir: &Path) -> Result<bool> {
    Ok(mountinfo::at(dir)?.is_some())
}

/// The mount at `dir` if it is the root of a FUSE file system of ours.
pub fn root_of(dir: &Path) -> Result<Option<MountEntry>> {
    Ok(mountinfo::at(dir)?.filter(is_ours))
}

/// The mount at `dir` if it shows a FUSE file system of ours, or a directory of one.
pub fn part_of(dir: &Path) -> Result<Option<MountEntry>> {
    Ok(mountinfo::at(dir)?.filter(|entry| entry.fs_type == FS_TYPE))
}

/// All places where one is shown, with the topmost mount there.
pub fn parts() -> Result<HashMap<PathBuf, MountEntry>> {
    let topmost: HashMap<_, _> =
        mountinfo::read()?.into_iter().map(|entry| (entry.mount_point.clone(), entry)).collect();
    Ok(topmost.into_iter().filter(|(_, entry)| entry.fs_type == FS_TYPE).collect())
}

fn is_ours(entry: &MountEntry) -> bool {
    entry.fs_type == FS_TYPE && entry.root == Path::new("/")
}

/// A mounted root of ours, or a directory below it, held open: what it names cannot be swapped between the check and the
/// bind.
#[derive(Debug)]
pub struct FuseRoot {
    fd: OwnedFd,
    /// The mount as it was when it was checked.
    pub entry: MountEntry,
}

impl FuseRoot {
    /// Opens `dir` (without asking the server: O_PATH) and requires it to be the root of a FUSE mount of ours.
    pub fn open(dir: &Path) -> Result<Self> {
        let (fd, entry) = open_mount(dir)?;
        if entry.mount_point != dir || !is_ours(&entry) {
            let why = format!("it lies on {} ({})", entry.mount_point.display(), entry.fs_type);
            return Err(Error::NotOurs { path: dir.to_owned(), why });
        }
        Ok(Self { fd, entry })
    }

    /// A directory below it, as it is on the server now. Whoever can write there may have put symbolic links in the way, or
    /// mounts: neither is followed.
    ///
    /// # Errors
    /// [`Error::NoDirectory`] when there is none.
    pub fn below(self, path: &Path) -> Result<Self> {
        let mut fd = self.fd;
        for name in path {
            revalidate(fd.as_fd(), name);
            fd = open_directory(fd.as_fd(), name).map_err(|errno| match errno {
                Errno::ENOENT => Error::NoDirectory { path: path.to_owned(), why: "it does not exist" },
                Errno::ENOTDIR | Errno::ELOOP => {
                    Error::NoDirectory { path: path.to_owned(), why: "a part of it is a file or a symbolic link" }
                }
                Errno::EXDEV => Error::NoDirectory { path: path.to_owned(), why: "it leads out of the file system" },
                other => Error::call("open", path, other),
            })?;
        }
        Ok(Self { fd, ..self })
    }

    /// A name of it for as long as it is held.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Binds it on `target`, a directory.
    pub fn bind(&self, target: &Path, read_only: bool) -> Result<()> {
        let none = None::<&str>;
        nix::mount::mount(Some(&self.path()), target, none, MsFlags::MS_BIND, none)
            .map_err(|errno| Error::call("bind a volume on", target, errno))?;
        if !read_only {
            return Ok(());
        }
        let mut flags =
            MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        // What is not named here is taken away.
        flags.set(MsFlags::MS_NOEXEC, self.entry.options.split(',').any(|option| option == "noexec"));
        nix::mount::mount(none, target, none, flags, none).map_err(|errno| {
            // A bind that is not read-only as asked must not stay.
            let _gone = umount(target, true);
            Error::call("make read-only", target, errno)
        })
    }
}

fn open_mount(dir: &Path) -> Result<(OwnedFd, MountEntry)> {
    let fd = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)
        .map_err(|error| Error::io("open", dir, &error))?;
    let fdinfo = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()));
    let text = std::fs::read_to_string(&fdinfo).map_err(|error| Error::io("read", &fdinfo, &error))?;
    let id: Option<u64> =
        text.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    let entry = mountinfo::read()?.into_iter().find(|entry| Some(entry.id) == id);
    let entry = entry.ok_or_else(|| Error::NotOurs {
        path: dir.to_owned(),
        why: "its mount is not listed in mountinfo".to_owned(),
    })?;
    Ok((fd.into(), entry))
}

/// Has the kernel ask the server what has this name now, however long it may remember that: what was deleted and made again
/// elsewhere is another directory. It asks before it makes a name; and none is made, since no directory gets a second one.
fn revalidate(dir: BorrowedFd<'_>, name: &OsStr) {
    let _refused = linkat(dir, "", dir, name, AtFlags::AT_EMPTY_PATH);
}

fn open_directory(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    openat2(dir, name, how)
}

/// Ends the FUSE connection of the mount at `dir` by force: every waiting request gets an error, and every user of the
/// mount sees ENOTCONN. The last resort for a mount whose server hangs. The mount may or may not stay.
pub fn abort(dir: &Path) -> Result<()> {
    let Some(entry) = root_of(dir)? else { return Ok(()) };
    let path = PathBuf::from(format!("/sys/fs/fuse/connections/{}/abort", entry.device.1));
    match std::fs::write(&path, "1") {
        Ok(()) => Ok(()),
        // Without fusectl mounted there, a forced unmount does the same, even when it then says that the mount is busy.
        Err(_no_fusectl) => match nix::mount::umount2(dir, MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EBUSY | Errno::EINVAL) => Ok(()),
            Err(errno) => Err(Error::call("abort", dir, errno)),
        },
    }
}

/// Sets or clears the immutable flag (chattr(1) `+i`) of a directory, so that nothing can be written into it while
/// nothing is mounted on it. File systems without the flag answer an error.
pub fn set_immutable(dir: &Path, immutable: bool) -> Result<()> {
    let failed = |errno| Error::call("set the immutable flag of", dir, errno);
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)
        .map_err(|error| Error::io("open", dir, &error))?;
    let mut flags: libc::c_long = 0;
    ioctl::get_flags(&file, &mut flags).map_err(failed)?;
    let immutable_flag: libc::c_long = 0x10;
    flags = if immutable { flags | immutable_flag } else { flags & !immutable_flag };
    ioctl::set_flags(&file, &flags).map_err(failed)
}

mod ioctl {
    //! FS_IOC_GETFLAGS and FS_IOC_SETFLAGS (ioctl_iflags(2)).
    use std::fs::File;
    use std::os::fd::AsRawFd;

    mod raw {
        nix::ioctl_read!(get, b'f', 1, libc::c_long);
        nix::ioctl_write_ptr!(set, b'f', 2, libc::c_long);
    }

    #[expect(unsafe_code, reason = "an ioctl has no safe form")]
    pub(super) fn get_flags(file: &File, flags: &mut libc::c_long) -> nix::Result<i32> {
        // SAFETY: the descriptor is open, and the kernel writes at most a long to a valid place.
        unsafe { raw::get(file.as_raw_fd(), flags) }
    }

    #[expect(unsafe_code, reason = "an ioctl has no safe form")]
    pub(super) fn set_flags(file: &File, flags: &libc::c_long) -> nix::Result<()> {
        // SAFETY: the descriptor is open, and the kernel reads at most a long from a valid place.
        unsafe { raw::set(file.as_raw_fd(), flags) }.map(|_zero| ())
    }
}

/// Bytes and inodes of the file system at `path`, as statvfs(3) has them. Asks the server: may hang.
pub fn usage(path: &Path) -> Result<Statvfs> {
    nix::sys::statvfs::statvfs(path).map_err(|errno| Error::call("ask for the usage of", path, errno))
}

#[cfg(test)]
mod tests;
