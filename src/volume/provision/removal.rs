//! Trees that are gone for everybody and still have to be removed, which takes as long as they are large.
//!
//! A rename below `/.stead/deleting` takes a tree out of sight at once. Its name there is all that has to be remembered:
//! whoever finds it, after a crash as well, removes it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stead_base::Ino;
use stead_meta::ops::{Caller, Meta};
use stead_meta::store::Cursor;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Volumes, directory};
use crate::configured::Named;
use crate::error::Result;
use crate::record::found;
use crate::secrets::VolumeSecrets;

const DELETING: &str = "/.stead/deleting";
/// Trees that are removed at the same time.
const AT_ONCE: usize = 4;
/// A deletion waits so long for the end of the removal, so that small volumes are gone with their data.
const PATIENCE: Duration = Duration::from_secs(5);
const PAGE: usize = 1000;

/// What this process removes, and where it has looked for what others left.
#[derive(Clone, Debug)]
pub(super) struct Removals {
    state: Arc<Mutex<State>>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// UUIDs of file systems, and buckets, that were looked through since this process began.
    searched: HashSet<String>,
    /// Trees that a task is about to remove: UUID of the file system, name.
    running: HashSet<(String, String)>,
}

impl Default for Removals {
    fn default() -> Self {
        Self { state: Arc::default(), turns: Arc::new(Semaphore::new(AT_ONCE)), patience: PATIENCE }
    }
}

/// One removal of a tree at a time.
pub(super) struct Claim {
    state: Arc<Mutex<State>>,
    tree: (String, String),
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.state.lock().running.remove(&self.tree);
    }
}

impl Removals {
    /// Removes what was put aside, in the background. `meta` belongs to the task, which drains it at its end.
    pub(super) fn start(&self, meta: Arc<Meta>, aside: Vec<String>) -> JoinHandle<()> {
        let me = self.clone();
        tokio::spawn(async move {
            for aside in aside {
                if let Err(error) = me.remove(&meta, &aside).await {
                    me.failed(&meta.format().uuid, &error);
                }
            }
            meta.drain().await;
        })
    }

    /// Waits a little.
    pub(super) async fn wait(&self, removal: JoinHandle<()>) {
        if tokio::time::timeout(self.patience, removal).await.is_err() {
            info!("the volume is gone, its data is removed in the background");
        }
    }

    async fn remove(&self, meta: &Meta, aside: &str) -> Result<()> {
        let Some(_claim) = self.claim(&meta.format().uuid, aside) else { return Ok(()) };
        let _turn = self.turns.acquire().await;
        let Some((deleting, _)) = found(meta.resolve_path(DELETING).await)? else { return Ok(()) };
        let others = meta.deleted_files().await?;
        directory::remove(meta, deleting, aside.as_bytes()).await?;
        directory::finish(meta, &aside, &others).await
    }

    pub(super) fn claim(&self, uuid: &str, aside: &str) -> Option<Claim> {
        let tree = (uuid.to_owned(), aside.to_owned());
        let claimed = self.state.lock().running.insert(tree.clone());
        claimed.then(|| Claim { state: Arc::clone(&self.state), tree })
    }

    /// The next call for the file system looks again.
    pub(super) fn failed(&self, place: &str, error: &crate::Error) {
        warn!(place, %error, "what was deleted cannot be removed yet");
        self.state.lock().searched.remove(place);
    }

    /// Whether nobody looked through the file system before.
    pub(super) fn is_new(&self, uuid: &str) -> bool {
        self.state.lock().searched.insert(uuid.to_owned())
    }
}

/// Takes a tree out of sight for good. Returns what it is called now; `None` if it is not there.
pub(super) async fn put_aside(meta: &Meta, parent: Ino, name: &[u8]) -> Result<Option<String>> {
    let Some((tree, _)) = found(meta.lookup(parent, name).await)? else { return Ok(None) };
    let deleting = meta.make_dirs(DELETING, 0o700, 0, 0).await?;
    // No other tree can have this name, be there as many volumes of one name after each other as there may.
    let aside = tree.to_string();
    let moved = meta.rename(&Caller::root(), parent, name, deleting, aside.as_bytes(), 0).await;
    Ok(found(moved)?.map(|_| aside))
}

impl Volumes {
    /// Removes what earlier controllers were told to delete and did not get done in these file systems. What cannot be
    /// removed is tried again with the next call for the file system.
    pub async fn resume_deletions(&self, of: &[Named]) {
        for place in of {
            self.resume_file_systems(&place.secrets).await;
            match self.shared(&place.secrets).await {
                Ok(Some(file_system)) if self.removals.is_new(&file_system.meta.format().uuid) => {
                    self.clear(&file_system.meta).await;
                }
                Ok(_) => {}
                Err(error) => warn!(name = place.name, %error, "cannot look for unfinished deletions"),
            }
        }
    }

    /// The same in the background for the file system that a call is about, with the first such call.
    pub(super) fn resume_once(&self, meta: &Meta, secrets: &VolumeSecrets) {
        let uuid = meta.format().uuid.clone();
        if !self.removals.is_new(&uuid) {
            return;
        }
        let (me, secrets) = (self.clone(), secrets.clone());
        tokio::spawn(async move {
            // The call drains its own.
            match me.shared(&secrets).await {
                Ok(Some(file_system)) => me.clear(&file_system.meta).await,
                Ok(None) => {}
                Err(error) => me.removals.failed(&uuid, &error),
            }
        });
    }

    async fn clear(&self, meta: &Meta) {
        if let Err(error) = self.clear_all(meta).await {
            self.removals.failed(&meta.format().uuid, &error);
        }
        meta.drain().await;
    }

    async fn clear_all(&self, meta: &Meta) -> Result<()> {
        for aside in waiting(meta).await? {
            self.removals.remove(meta, &aside).await?;
            info!(aside, "finished a deletion that was interrupted");
        }
        // Of trees that were gone already a death left the data, which nobody else may be there to remove.
        directory::finish(meta, &"interrupted deletions", &HashSet::new()).await
    }
}

async fn waiting(meta: &Meta) -> Result<Vec<String>> {
    let Some((deleting, _)) = found(meta.resolve_path(DELETING).await)? else { return Ok(Vec::new()) };
    let (mut names, mut from) = (Vec::new(), Cursor::default());
    loop {
        let page = meta.list(deleting, false, from, PAGE).await?;
        names.extend(page.items.iter().map(|item| item.name.to_string()));
        match page.next {
            Some(next) => from = next,
            None => return Ok(names),
        }
    }
}
