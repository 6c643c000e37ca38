//! What goes on without being asked: committing what has waited, making room, trying again what failed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use stead_base::SliceId;
use stead_meta::store::Change;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use crate::Vfs;
use crate::handles::FileHandle;
use crate::inode::OpenInode;
use crate::writer::Todo;

/// How often old slices are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How often to look again while writers wait for room that uploads under way will make.
const RELIEF: Duration = Duration::from_millis(50);

/// Starts the background tasks. They end when the mount is drained or dropped.
pub(crate) fn start(vfs: &Arc<Vfs>) {
    let stop = vfs.tasks.stopping();
    vfs.tasks.spawn("write-back", {
        let (vfs, stop) = (Arc::downgrade(vfs), stop.clone());
        async move { stop.run_until_cancelled_owned(write_back(vfs)).await.unwrap_or(()) }
    });
    vfs.tasks.spawn("revalidate", {
        let (vfs, stop) = (Arc::downgrade(vfs), stop.clone());
        async move { stop.run_until_cancelled_owned(revalidate(vfs)).await.unwrap_or(()) }
    });
    if vfs.meta.hears_flush_requests() {
        vfs.tasks.spawn("requests to write back", {
            let (vfs, stop) = (Arc::downgrade(vfs), stop.clone());
            async move { stop.run_until_cancelled_owned(write_back_for_others(vfs)).await.unwrap_or(()) }
        });
    }
    let (sender, changes) = unbounded_channel();
    // Fails only when the task has ended with the mount.
    let told = vfs.meta.on_change(Arc::new(move |change| drop(sender.send(change))));
    if told {
        vfs.tasks.spawn("changes", {
            let (vfs, stop) = (Arc::downgrade(vfs), stop.clone());
            async move { stop.run_until_cancelled_owned(pass_on(vfs, changes)).await.unwrap_or(()) }
        });
    }
    vfs.tasks.spawn("relief", {
        let (vfs, budget) = (Arc::downgrade(vfs), Arc::clone(vfs.chunks.budget()));
        async move {
            let work = async move {
                loop {
                    budget.pressure().await;
                    let Some(vfs) = vfs.upgrade() else { break };
                    vfs.relieve().await;
                    drop(vfs);
                    sleep(RELIEF).await;
                }
            };
            stop.run_until_cancelled_owned(work).await.unwrap_or(());
        }
    });
}

async fn write_back(vfs: Weak<Vfs>) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(vfs) = vfs.upgrade() else { break };
        for inode in vfs.inodes.dirty() {
            if inode.writer.seal_old(vfs.config.flush_idle, vfs.config.flush_age) {
                vfs.commit_later(&inode);
            }
            vfs.inodes.tidy(inode.ino);
        }
    }
}

/// Writes everything back when somebody wants to see it, such as for a snapshot.
async fn write_back_for_others(vfs: Weak<Vfs>) {
    while let Some(meta) = vfs.upgrade().map(|vfs| Arc::clone(&vfs.meta)) {
        let request = meta.flush_requested().await;
        let Some(vfs) = vfs.upgrade() else { break };
        let answered = match vfs.flush_all().await {
            Ok(()) => meta.flushed(request).await.map_err(|error| error.to_string()),
            Err(errno) => Err(errno.name().to_owned()),
        };
        if let Err(error) = answered {
            warn!(error, "others wait for what cannot be written back");
            sleep(TICK).await;
        }
    }
}

async fn revalidate(vfs: Weak<Vfs>) {
    while let Some(period) = vfs.upgrade().map(|vfs| vfs.config.attr_cache.max(TICK)) {
        sleep(period).await;
        let Some(vfs) = vfs.upgrade() else { break };
        vfs.revalidate().await;
    }
}

/// Passes on to the kernel what other clients change.
async fn pass_on(vfs: Weak<Vfs>, mut changes: UnboundedReceiver<Change>) {
    while let Some(change) = changes.recv().await {
        let Some(vfs) = vfs.upgrade() else { break };
        match change {
            Change::Inode(ino) => vfs.inode_changed(ino).await,
            Change::Entry(parent, name) => vfs.entry_changed(parent, name.as_bytes()),
            Change::Everything => vfs.everything_changed().await,
        }
    }
}

impl Vfs {
    /// Takes data into the buffers of a file and starts what follows from that. There is room in the budget.
    pub(crate) fn write_file(&self, file: &FileHandle, offset: u64, data: &[u8]) -> crate::Result<()> {
        let inode = &file.inode;
        let (now, max_open) = (self.clock.now(), self.config.max_open_slices);
        let Todo { commit, name } = inode.writer.write(&self.chunks, offset, data, now, max_open, &file.mark)?;
        if name {
            self.name_slice(inode);
        }
        if commit {
            self.commit_later(inode);
        }
        Ok(())
    }

    /// Uploads and commits what is sealed, in the background. Failures are noted in the file.
    fn commit_later(&self, inode: &Arc<OpenInode>) {
        let (Some(vfs), inode) = (self.me.upgrade(), Arc::clone(inode)) else {
            return;
        };
        self.tasks.spawn("commit", async move {
            if let Err(errno) = vfs.commit(&inode, u64::MAX).await {
                debug!(ino = %inode.ino, errno = errno.name(), "commit in the background");
            }
            vfs.inodes.tidy(inode.ino);
        });
    }

    /// Gets an id for a slice whose first blocks could be uploading.
    fn name_slice(&self, inode: &Arc<OpenInode>) {
        let (meta, inode) = (Arc::clone(&self.meta), Arc::clone(inode));
        self.tasks.spawn("name slice", async move {
            // Without an id now, the slice gets one when it is committed, and the error is met and told there.
            let mut id: Option<SliceId> = meta.new_slice().await.ok();
            while let Some(name) = id.take() {
                if inode.writer.name_next(name) {
                    id = meta.new_slice().await.ok();
                }
            }
        });
    }

    /// Somebody waits for room: seals buffers that no upload under way would free.
    async fn relieve(&self) {
        let dirty = self.inodes.dirty();
        let idle: u64 = dirty.iter().map(|inode| inode.writer.idle_bytes()).sum();
        if idle >= self.chunks.budget().limit() / 4
            && let Err(errno) = self.flush_all().await
        {
            debug!(errno = errno.name(), "flushing to make room");
        }
    }
}
