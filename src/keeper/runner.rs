//! A resident process without privilege that starts workers for a node service which runs elsewhere.
//!
//! Whoever connects and says [`Message::Start`] gets a worker at the other end of that connection. So a runner sees no
//! configuration and no descriptor of a mount.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stead_base::Errno;
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
    let listener = tokio::select! {
        listener = listen(socket) => listener?,
        () = &mut stop => return Ok(()),
    };
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
                match start(&launch, channel, peer).await {
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

/// Listens as soon as that is possible: the node service, which may start at the same time, makes the directory.
async fn listen(socket: &Path) -> Result<Listener> {
    let end = Instant::now() + PREPARED;
    loop {
        match Listener::bind(socket) {
            Err(Error::Call { errno: Errno::ENOENT | Errno::EACCES, .. }) if Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
            }
            bound => return bound,
        }
    }
}

async fn start(launch: &WorkerLaunch, channel: Channel, peer: Peer) -> Result<(i32, tokio::process::Child)> {
    if peer.uid != 0 && peer.uid != nix::unistd::geteuid().as_raw() {
        return Err(Error::Protocol { why: format!("user {} may not start workers", peer.uid) });
    }
    let (message, mut fds) = channel.recv().await?;
    let (Message::Start, Some(log)) = (&message, fds.pop()) else {
        return Err(Error::Protocol { why: format!("a start with a log was expected, not {}", message.kind()) });
    };
    let theirs = channel.as_fd().try_clone_to_owned().map_err(|error| Error::socket(&error))?;
    let child = launch::start_on(launch, File::from(log), theirs)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(-1);
    let process = Process::open(pid)?;
    channel.send(&Message::Started, &[process.as_fd().as_raw_fd()]).await?;
    Ok((pid, child))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for the program: answers what comes first, then waits for its end.
    const SCRIPT: &str = "#!/bin/sh\n\
        trap 'exit 0' TERM\n\
        echo \"worker $(id -u)\"\n\
        while ! dd bs=131072 count=1 <&3 2>/dev/null | grep -q drain; do sleep 0.02; done\n\
        printf '{\"type\":\"drained\"}' >&3\n";

    #[tokio::test]
    async fn whoever_connects_gets_a_worker_at_the_other_end() {
        let dir = tempfile::tempdir_in("/tmp").expect("a place");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open.clone()).expect("ours");
        let (exe, socket, log) =
            (dir.path().join("worker"), dir.path().join("run/runner.sock"), dir.path().join("log"));
        std::fs::write(&exe, SCRIPT).expect("new");
        std::fs::set_permissions(&exe, open).expect("ours");
        let launch = WorkerLaunch { exe, uid: 65534, gid: 65534 };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runner = tokio::spawn({
            let socket = socket.clone();
            async move { run(&socket, launch, async { drop(stopped.await) }).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::fs::create_dir(dir.path().join("run")).expect("the runner waits for it");
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let channel = Channel::connect(&socket).expect("it listens");
        let file = File::create(&log).expect("new");
        channel.send(&Message::Start, &[file.as_raw_fd()]).await.expect("sent");
        let (message, mut fds) = channel.recv().await.expect("answered");
        assert_eq!((message, fds.len()), (Message::Started, 1));
        let process = Process::of(fds.remove(0)).expect("a process");
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
}
