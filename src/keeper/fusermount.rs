//! Mounting without privileges through the set-uid helper fusermount3(1), for `stead mount` by an ordinary user.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::error::{Error, Result};
use crate::launch::place;
use crate::mount::MountSpec;

const HELPER: &str = "fusermount3";
/// The helper finds its socket under this number.
const COMM_FD: i32 = 3;

/// Lets fusermount3 open `/dev/fuse` and mount it on `dir`; returns the descriptor. Blocks until it has.
///
/// `allow_other` needs `user_allow_other` in /etc/fuse.conf.
pub fn mount_unprivileged(dir: &Path, spec: &MountSpec) -> Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| Error::socket(&error))?;
    let mut command = Command::new(HELPER);
    command
        .args(["-o", &options(spec), "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", COMM_FD.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    hand_over(&mut command, theirs.as_raw_fd());
    let child = command.spawn().map_err(|error| helper(format!("cannot start: {error}")))?;
    drop(theirs);
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(|error| helper(error.to_string()))?;
    match received {
        Some(fd) if output.status.success() => Ok(fd),
        _ => Err(helper(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Unmounts what [`mount_unprivileged`] mounted.
pub fn umount_unprivileged(dir: &Path, lazy: bool) -> Result<()> {
    let flags = if lazy { "-uz" } else { "-u" };
    let output = Command::new(HELPER)
        .args([flags, "--"])
        .arg(dir)
        .output()
        .map_err(|error| helper(format!("cannot start: {error}")))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(helper(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn options(spec: &MountSpec) -> String {
    // The helper separates options by commas; a backslash keeps one inside a value.
    let source = spec.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut options = format!("fsname={source},subtype=juicefs,nosuid,nodev");
    let chosen = [
        (spec.default_permissions, "default_permissions"),
        (spec.allow_other, "allow_other"),
        (spec.read_only, "ro"),
        (spec.no_exec, "noexec"),
        (spec.no_atime, "noatime"),
    ];
    for (_, name) in chosen.into_iter().filter(|(wanted, _)| *wanted) {
        options.push(',');
        options.push_str(name);
    }
    if spec.max_read > 0 {
        options.push_str(&format!(",max_read={}", spec.max_read));
    }
    options
}

#[expect(unsafe_code, reason = "what happens between fork and exec has no safe form")]
fn hand_over(command: &mut Command, socket: i32) {
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || place(socket, COMM_FD));
    }
}

/// The descriptor that the helper sends; `None` when it ended without one.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!([i32; 1]);
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let rights = received.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    rights.map(crate::channel::own)
}

fn helper(why: String) -> Error {
    Error::Fusermount { why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount;

    #[test]
    fn the_helper_mounts_and_unmounts() {
        let dir = tempfile::tempdir().expect("a place");
        let fd = mount_unprivileged(dir.path(), &MountSpec::volume("a,b", true, 0)).expect("fusermount3 is installed");
        let entry = mount::root_of(dir.path()).expect("readable").expect("mounted");
        assert_eq!(entry.source, "JuiceFS:a,b");
        assert!(entry.read_only());
        umount_unprivileged(dir.path(), false).expect("ours");
        assert!(!mount::is_mounted(dir.path()).expect("readable"));
        drop(fd);
    }

    #[test]
    fn what_the_helper_says_is_passed_on() {
        let error = mount_unprivileged(Path::new("/nowhere/at/all"), &MountSpec::volume("x", false, 0));
        assert!(error.expect_err("no such directory").to_string().contains("/nowhere/at/all"));
    }
}
