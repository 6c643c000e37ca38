//! One node service per state directory: two would each take the other's mounts for its own.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::error::{Error, Result};

const FILE: &str = "lock";
/// An earlier service lets its calls end before it does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Held for as long as the service may use the directory; the kernel lets go of it with the process. Programs that are
/// started do not inherit it.
#[derive(Debug)]
pub(crate) struct Sole {
    _locked: File,
}

impl Sole {
    /// Makes the directory if it is missing, and waits for an earlier service to end, for `limit` at most.
    ///
    /// # Errors
    /// Another service stays, or a directory that cannot be written.
    pub(crate) async fn in_directory(path: &Path, limit: Duration) -> Result<Self> {
        let failed = |why: String| Error::State { path: path.to_owned(), why };
        let file = open(path).map_err(|error| failed(error.to_string()))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _locked: file }),
                Err(TryLockError::Error(error)) => return Err(failed(format!("{FILE}: {error}"))),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= limit => return Err(failed(IN_USE.to_owned())),
                Err(TryLockError::WouldBlock) if told => {}
                Err(TryLockError::WouldBlock) => {
                    warn!(state_dir = %path.display(), ?limit, "another node service uses it; waiting for its end");
                    told = true;
                }
            }
            sleep(PAUSE).await;
        }
    }
}

const IN_USE: &str = "another node service uses this directory: give each its own (--state-dir; node.stateDirectory in \
                      the chart)";

fn open(path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).create(path)?;
    // Who may open it could lock it.
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[tokio::test]
    async fn a_second_service_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a place");
        let state = dir.path().join("state");
        let first = Sole::in_directory(&state, Duration::ZERO).await.expect("free");
        let refused = Sole::in_directory(&state, PAUSE).await.expect_err("in use").to_string();
        for named in [state.to_str().expect("text"), "--state-dir", "node.stateDirectory"] {
            assert!(refused.contains(named), "{refused}");
        }
        let second = state.clone();
        let waiting = tokio::spawn(async move { Sole::in_directory(&second, PATIENCE).await });
        sleep(PAUSE * 2).await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.expect("no panic").expect("free again");
    }

    #[tokio::test]
    async fn programs_that_were_started_do_not_hold_it() {
        let dir = tempfile::tempdir().expect("a place");
        let first = Sole::in_directory(dir.path(), Duration::ZERO).await.expect("free");
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep(1)");
        drop(first);
        // Other tests start programs at the same moment, which have it for as long as that takes.
        let again = Sole::in_directory(dir.path(), Duration::from_secs(10)).await;
        child.kill().expect("still there");
        child.wait().expect("ended");
        again.expect("free");
    }
}
