//! A resident process without privilege that starts workers for a node service which runs elsewhere.
//!
//! Whoever connects and says [`Message::Start`] gets a worker at the other end of that connection. So a runner sees no
//! configuration and no descriptor of a mount.

use std::fs::File;
use std::future::Future;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::channel::{Channel, Listener, Message, Peer};
use crate::error::{Error, Result};
use crate::launch::{self, WorkerLaunch};
use crate::process::Process;

/// Starts workers for root, and for the user that it runs as itself, until `stop` is done. Then its workers are asked to
/// hand over, and it ends when they have.
pub async fn run(socket: &Path, launch: WorkerLaunch, stop: impl Future<Output = ()>) -> Result<()> {
    let listener = Listener::bind(socket)?;
    info!(socket = %socket.display(), "starting workers");
    let mut stop = std::pin::pin!(stop);
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
