//! Starting a worker: an unprivileged child with an empty environment and nothing but its control socket.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::channel::{self, Channel};
use crate::error::{Error, Result, errno_of};

/// The descriptor under which a worker finds its control socket.
pub const CONTROL_FD: RawFd = 3;

/// How workers are started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerLaunch {
    /// The program; called as `<exe> worker --control-fd 3`.
    pub exe: PathBuf,
    /// Arguments behind these: how it is to log.
    pub arguments: Vec<String>,
    /// The user a worker runs as.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

/// Starts a worker that writes its log to `log` and returns it with our end of its control socket.
///
/// The child leads a session of its own, so that signals to our group do not reach it; it survives our death, and
/// dropping the handle does not end it. When it cannot gain privileges (PR_SET_NO_NEW_PRIVS) is set before exec.
pub fn start(launch: &WorkerLaunch, log: File) -> Result<(Child, Channel)> {
    let (ours, theirs) = channel::pair()?;
    let child = start_on(launch, log, theirs)?;
    Ok((child, Channel::new(ours)?))
}

/// The same with a control socket that is there already, whose other end somebody else has.
pub fn start_on(launch: &WorkerLaunch, log: File, theirs: OwnedFd) -> Result<Child> {
    let failed = |error: std::io::Error| Error::Spawn { exe: launch.exe.clone(), errno: errno_of(&error) };
    let mut command = Command::new(&launch.exe);
    command
        .args(["worker", "--control-fd", &CONTROL_FD.to_string()])
        .args(&launch.arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .kill_on_drop(false);
    if nix::unistd::geteuid().is_root() {
        // Setting a uid as root also clears the supplementary groups.
        command.uid(launch.uid).gid(launch.gid);
    }
    restrict(command.as_std_mut(), theirs.as_raw_fd());
    let child = command.spawn().map_err(failed)?;
    drop(theirs);
    Ok(child)
}

#[expect(unsafe_code, reason = "what happens between fork and exec has no safe form")]
fn restrict(command: &mut std::process::Command, control: RawFd) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            nix::sys::prctl::set_no_new_privs()?;
            place(control, CONTROL_FD)
        });
    }
}

/// Puts the descriptor `from` under the number `to`, open across exec. For use between fork and exec.
#[expect(unsafe_code, reason = "nix has no dup2 onto a number")]
pub(crate) fn place(from: RawFd, to: RawFd) -> std::io::Result<()> {
    // SAFETY: both calls only touch the descriptor table of the child.
    let result = unsafe { if from == to { libc::fcntl(to, libc::F_SETFD, 0) } else { libc::dup2(from, to) } };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// A copy of a descriptor that is closed on exec, for the keeper.
pub fn keep(fd: &OwnedFd) -> Result<OwnedFd> {
    fd.try_clone().map_err(|error| Error::socket(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::Message;

    /// A stand-in for the program: answers a message and tells who it is.
    const SCRIPT: &str = "#!/bin/sh\n\
        test \"$*\" = 'worker --control-fd 3 --log-json' || exit 9\n\
        grep -E '^(Uid|Gid|Groups|NoNewPrivs|CapEff)' /proc/self/status\n\
        echo \"session $(ps -o sid= -p $$ | tr -d ' ') pid $$\"\n\
        echo \"env $(env | grep -cvE '^(PWD|SHLVL|_|OLDPWD)=')\"\n\
        printf '{\"type\":\"drained\"}' >&3\n";

    #[tokio::test]
    async fn a_worker_has_no_privileges_and_no_environment() {
        let dir = tempfile::tempdir_in("/tmp").expect("a place");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        let exe = dir.path().join("worker");
        std::fs::write(&exe, SCRIPT).expect("new");
        std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).expect("ours");
        let log = dir.path().join("log");
        let launch = WorkerLaunch { exe, arguments: vec!["--log-json".to_owned()], uid: 65534, gid: 65533 };
        let (mut child, channel) = start(&launch, File::create(&log).expect("new")).expect("started");
        assert_eq!(channel.recv().await.expect("answers").0, Message::Drained);
        assert!(child.wait().await.expect("waited for").success());
        let seen = std::fs::read_to_string(&log).expect("readable");
        let words: Vec<Vec<&str>> = seen.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["Uid:", "65534", "65534", "65534", "65534"], "{seen}");
        assert_eq!(words[1], ["Gid:", "65533", "65533", "65533", "65533"], "{seen}");
        assert_eq!(words[2], ["Groups:"], "{seen}");
        assert_eq!(words[3], ["CapEff:", "0000000000000000"], "{seen}");
        assert_eq!(words[4], ["NoNewPrivs:", "1"], "{seen}");
        assert_eq!(words[5][1], words[5][3], "leads its own session: {seen}");
        assert_eq!(words[6], ["env", "0"], "{seen}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let launch = WorkerLaunch { exe: "/nowhere/stead".into(), ..WorkerLaunch::default() };
        let error = start(&launch, tempfile::tempfile().expect("a file")).expect_err("no program");
        assert_eq!(error.to_string(), "cannot start /nowhere/stead: No such file or directory");
    }
}
