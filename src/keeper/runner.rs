//! A process without privilege that starts workers for a node service which runs elsewhere: as many as are asked for, or one
//! in a pod of its own.
//!
//! Whoever connects and says [`Message::Start`] gets a worker at the other end of that connection. So a runner sees no
//! configuration and no descriptor of a mount.

use std::fs::File;
use std::future::Future;
use std::io::{PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stead_base::Errno;
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::channel::{Channel, Listener, Message, Peer};
use crate::error::{Error, Result};
use crate::launch::{self, WorkerLaunch};
use crate::process::Process;

/// How long the directory of the socket may be missing, or another user's.
const PREPARED: Duration = Duration::from_secs(60);
/// How often to look.
const LOOK: Duration = Duration::from_millis(200);

/// Starts workers for root, and for the user that it runs as itself, until `stop` is done. Then its workers are asked to
/// hand over, and it ends when they have.
pub async fn run(socket: &Path, launch: WorkerLaunch, stop: impl Future<Output = ()>) -> Result<()> {
    let mut stop = std::pin::pin!(stop);
    let Some(listener) = listen(socket, &mut stop).await? else { return Ok(()) };
    info!(socket = %socket.display(), "starting workers");
    let (mut workers, mut pids) = (JoinSet::new(), Vec::new());
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = workers.join_next() => {
                let Ok(ended) = ended else { continue };
                pids.retain(|pid| *pid != ended);
            }
            accepted = listener.accept() => {
                let (channel, peer) = accepted?;
                match start_for(&launch, &channel, peer).await {
                    Ok((pid, mut child)) => {
                        pids.push(pid);
                        workers.spawn(async move {
                            match child.wait().await {
                                Ok(status) => info!(pid, %status, "worker has ended"),
                                Err(error) => warn!(pid, %error, "worker is lost"),
                            }
                            pid
                        });
                    }
                    Err(error) => warn!(%error, "no worker was started"),
                }
            }
        }
    }
    drop(listener);
    for pid in pids {
        // It may have ended this moment.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    while workers.join_next().await.is_some() {}
    Ok(())
}

/// Listens as soon as that is possible: the node service, which may start at the same time, makes the directory. `None`: not
/// until `stop` was done.
async fn listen(socket: &Path, mut stop: impl Future<Output = ()> + Unpin) -> Result<Option<Listener>> {
    let end = Instant::now() + PREPARED;
    loop {
        match Listener::bind(socket) {
            Err(Error::Call { errno: Errno::ENOENT | Errno::EACCES, .. }) if Instant::now() < end => {}
            bound => return bound.map(Some),
        }
        tokio::select! {
            () = &mut stop => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The end of a log may take so long to be written when its worker has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts one worker as [`run`] does, and ends when that has; how it ended. `stop` asks it to hand over. Its log also goes to
/// standard error, from where a pod's log comes.
pub async fn run_once(
    socket: &Path,
    launch: WorkerLaunch,
    stop: impl Future<Output = ()>,
) -> Result<Option<ExitStatus>> {
    let mut stop = std::pin::pin!(stop);
    let Some(listener) = listen(socket, &mut stop).await? else { return Ok(None) };
    info!(socket = %socket.display(), "starting one worker");
    let (pid, mut child, logged, channel) = loop {
        let (channel, peer) = tokio::select! {
            () = &mut stop => return Ok(None),
            accepted = listener.accept() => accepted?,
        };
        match start_teed(&launch, &channel, peer).await {
            Ok((pid, child, logged)) => break (pid, child, logged, copy_of(&channel)?),
            Err(error) => warn!(%error, "no worker was started"),
        }
    };
    drop(listener);
    let failed = |error: std::io::Error| Error::Protocol { why: format!("the worker is lost: {error}") };
    let status = tokio::select! {
        ended = child.wait() => ended.map_err(failed)?,
        () = &mut stop => {
            // It may have ended this moment.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
            child.wait().await.map_err(failed)?
        }
    };
    // Whoever sees the end of the connection finds the whole log.
    let _late = tokio::time::timeout(LAST_WORDS, logged).await;
    drop(channel);
    info!(pid, %status, "worker has ended");
    Ok(Some(status))
}

async fn start_teed(
    launch: &WorkerLaunch,
    channel: &Channel,
    peer: Peer,
) -> Result<(i32, Child, oneshot::Receiver<()>)> {
    let log = asked(channel, peer).await?;
    let (output, input) = std::io::pipe().map_err(|error| Error::socket(&error))?;
    let (pid, child) = start(launch, channel, File::from(OwnedFd::from(input))).await?;
    Ok((pid, child, tee(output, log)))
}

/// Writes what comes into a log and to standard error until it ends, which the answer tells.
fn tee(mut output: PipeReader, mut log: File) -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    let copy = move || {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(count @ 1..) = output.read(&mut bytes) {
            // A log that cannot be written must not stop its worker, nor the other one.
            let _lost = log.write_all(&bytes[..count]);
            let _lost = std::io::stderr().write_all(&bytes[..count]);
        }
        // Nobody may wait for it.
        let _unheard = ended.send(());
    };
    if let Err(error) = std::thread::Builder::new().name("log".to_owned()).spawn(copy) {
        warn!(%error, "the worker has no log");
    }
    end
}

async fn start_for(launch: &WorkerLaunch, channel: &Channel, peer: Peer) -> Result<(i32, Child)> {
    let log = asked(channel, peer).await?;
    start(launch, channel, log).await
}

/// Waits for a permitted start; the log that comes with it.
async fn asked(channel: &Channel, peer: Peer) -> Result<File> {
    if peer.uid != 0 && peer.uid != nix::unistd::geteuid().as_raw() {
        return Err(Error::Protocol { why: format!("user {} may not start workers", peer.uid) });
    }
    let (message, mut fds) = channel.recv().await?;
    match (&message, fds.pop()) {
        (Message::Start, Some(log)) => Ok(File::from(log)),
        _ => Err(Error::Protocol { why: format!("a start with a log was expected, not {}", message.kind()) }),
    }
}

async fn start(launch: &WorkerLaunch, channel: &Channel, log: File) -> Result<(i32, Child)> {
    let child = launch::start_on(launch, log, copy_of(channel)?)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(-1);
    let process = Process::open(pid)?;
    channel.send(&Message::Started, &[process.as_fd().as_raw_fd()]).await?;
    Ok((pid, child))
}

fn copy_of(channel: &Channel) -> Result<OwnedFd> {
    channel.as_fd().try_clone_to_owned().map_err(|error| Error::socket(&error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;

    /// A stand-in for the program: answers what comes first, then waits for its end.
    const SCRIPT: &str = "#!/bin/sh\n\
        trap 'exit 0' TERM\n\
        echo \"worker $(id -u)\"\n\
        while ! dd bs=131072 count=1 <&3 2>/dev/null | grep -q drain; do sleep 0.02; done\n\
        printf '{\"type\":\"drained\"}' >&3\n";

    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir_in("/tmp").expect("a place");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open.clone()).expect("ours");
        std::fs::write(dir.path().join("worker"), SCRIPT).expect("new");
        std::fs::set_permissions(dir.path().join("worker"), open).expect("ours");
        dir
    }

    async fn started(socket: &Path, log: &Path) -> (Channel, Process) {
        let listens = || std::fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket());
        let channel = loop {
            match listens().then(|| Channel::connect(socket)) {
                Some(Ok(channel)) => break channel,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let file = File::options().create(true).append(true).open(log).expect("a log");
        channel.send(&Message::Start, &[file.as_raw_fd()]).await.expect("sent");
        let (message, mut fds) = channel.recv().await.expect("answered");
        assert_eq!((message, fds.len()), (Message::Started, 1));
        (channel, Process::of(fds.remove(0)).expect("a process"))
    }

    #[tokio::test]
    async fn whoever_connects_gets_a_worker_at_the_other_end() {
        let dir = place();
        let (exe, socket, log) =
            (dir.path().join("worker"), dir.path().join("run/runner.sock"), dir.path().join("log"));
        let launch = WorkerLaunch { exe, uid: 65534, gid: 65534, ..WorkerLaunch::default() };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runner = tokio::spawn({
            let socket = socket.clone();
            async move { run(&socket, launch, async { drop(stopped.await) }).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::fs::create_dir(dir.path().join("run")).expect("the runner waits for it");
        let (channel, process) = started(&socket, &log).await;
        channel.send(&Message::Drain, &[]).await.expect("the worker listens");
        assert_eq!(channel.recv().await.expect("it answers").0, Message::Drained);
        tokio::time::timeout(Duration::from_secs(5), process.ended()).await.expect("ended");
        let uid = if nix::unistd::geteuid().is_root() { 65534 } else { nix::unistd::geteuid().as_raw() };
        assert_eq!(std::fs::read_to_string(&log).expect("readable"), format!("worker {uid}\n"));

        let wrong = Channel::connect(&socket).expect("it listens");
        wrong.send(&Message::Drain, &[]).await.expect("sent");
        assert!(matches!(wrong.recv().await, Err(Error::Closed)), "only a start starts a worker");
        drop(stop);
        runner.await.expect("ends").expect("well");
        assert!(Channel::connect(&socket).is_err());
    }

    /// Not a test but the runner of the next one, in a process of its own.
    #[tokio::test]
    #[ignore = "started by another test"]
    async fn the_runner_of_another_test() {
        let launch = WorkerLaunch { exe: "worker".into(), uid: 65534, gid: 65534, ..WorkerLaunch::default() };
        if let (Ok(exe), true) = (launch.exe.canonicalize(), nix::unistd::getpid().as_raw() == 1) {
            let ran = run_once(Path::new("runner.sock"), WorkerLaunch { exe, ..launch }, std::future::pending()).await;
            assert!(ran.expect("a worker").is_some_and(|status| status.success()));
        }
    }

    #[tokio::test]
    async fn a_worker_in_a_pid_namespace_of_its_own_is_held_from_outside() {
        let dir = place();
        let (socket, log) = (dir.path().join("runner.sock"), dir.path().join("log"));
        let mut pids = Vec::new();
        for end in [Signal::SIGTERM, Signal::SIGKILL] {
            let runner = tokio::process::Command::new("unshare")
                .args(["--pid", "--fork", "--mount-proc"])
                .arg(std::env::current_exe().expect("this program"))
                .args(["--ignored", "--exact", "runner::tests::the_runner_of_another_test", "--nocapture"])
                .current_dir(dir.path())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("tests need root");
            let (channel, process) = started(&socket, &log).await;
            let pid = process.pid().expect("seen from outside");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            let numbers = status.lines().find(|line| line.starts_with("NSpid:")).expect("a line of numbers");
            assert!(numbers.starts_with(&format!("NSpid:\t{pid}\t")), "it has another number inside: {numbers}");
            let lines = pids.len() + 1;
            while std::fs::read_to_string(&log).expect("readable").lines().count() < lines {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            process.signal(end);
            tokio::time::timeout(Duration::from_secs(5), process.ended())
                .await
                .expect("ended by a signal from outside");
            assert!(matches!(channel.recv().await, Err(Error::Closed)));
            let ended = tokio::time::timeout(Duration::from_secs(5), runner.wait_with_output()).await;
            let ended = ended.expect("a runner of one worker ends with it").expect("collected");
            assert_eq!(ended.status.success(), end == Signal::SIGTERM, "{ended:?}");
            assert!(String::from_utf8_lossy(&ended.stderr).contains("worker 65534\n"), "logged twice: {ended:?}");
            if let Some(status) = process.exit_status().await {
                assert_eq!(status.success(), end == Signal::SIGTERM, "{status}");
            }
            pids.push(pid);
        }
        assert_ne!(pids[0], pids[1], "two generations");
        assert_eq!(std::fs::read_to_string(&log).expect("readable"), "worker 65534\n".repeat(2));
    }
}
