//! From buffers to durable: uploads sealed slices and commits their records.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, stream};
use stead_base::{Errno, SliceId, failpoint};
use stead_meta::records::Slice;
use tracing::{error, info, warn};

use crate::Vfs;
use crate::compact::has_many_records;
use crate::errno::{Result, ToErrno, fail};
use crate::inode::OpenInode;
use crate::writer::Job;

/// Slices of one file that are uploaded at the same time.
const PARALLEL: usize = 16;
/// A slice that could not be written back so often is given up. Each time, the layers below have retried by themselves.
pub(crate) const MAX_ATTEMPTS: u32 = 10;

/// Why a slice was not committed.
pub(crate) enum Failure {
    /// It stays for another try.
    Later(Errno),
    /// It can never be.
    Never(Errno),
}

impl Vfs {
    /// Uploads and commits everything that was written to the file before the call.
    pub(crate) async fn flush_file(&self, inode: &OpenInode) -> Result<()> {
        match inode.writer.seal_all() {
            Some(through) => {
                failpoint::hit("vfs.flush.sealed");
                self.commit(inode, through).await
            }
            None => Ok(()),
        }
    }

    /// Commits sealed slices up to the given number, and those that are sealed in the meantime.
    /// Stops at a slice that has to be tried again; goes on behind one that never can be committed.
    pub(crate) async fn commit(&self, inode: &OpenInode, through: u64) -> Result<()> {
        let (mut lost, mut crowded) = (Ok(()), BTreeSet::new());
        while inode.writer.waits(through) {
            let _turn = inode.writer.committing.lock().await;
            let jobs = inode.writer.jobs(PARALLEL);
            if jobs.is_empty() {
                break;
            }
            let mut uploads = stream::iter(jobs).map(|job| self.upload(job)).buffered(PARALLEL);
            while let Some((job, uploaded)) = uploads.next().await {
                let committed = match uploaded {
                    Ok((id, size)) => self.commit_slice(inode, &job, id, size).await,
                    Err(failure) => Err(failure),
                };
                match committed {
                    Ok(()) => {
                        self.recent.inode(inode.ino);
                        inode.writer.remove(job.sequence);
                        if has_many_records(self.meta.known_records(inode.ino, job.index)) {
                            crowded.insert(job.index);
                        }
                    }
                    Err(failure) => match self.not_committed(inode, job, failure).await {
                        Failure::Later(errno) => return Err(errno),
                        Failure::Never(errno) => lost = lost.and(Err(errno)),
                    },
                }
            }
        }
        for index in crowded {
            self.compact_written(inode.ino, index).await;
        }
        lost
    }

    async fn upload(&self, job: Job) -> (Job, Result<(SliceId, u32), Failure>) {
        let mut data = job.data.lock().await;
        let uploaded = async {
            let id = match data.id() {
                Some(id) => id,
                None => self.meta.new_slice().await.map_err(|error| Failure::Later(fail(error)))?,
            };
            data.set_id(id);
            let size = data.finish().await.map_err(|error| Failure::Later(fail(error)))?;
            Ok((id, size))
        };
        let result = uploaded.await;
        drop(data);
        (job, result)
    }

    async fn commit_slice(&self, inode: &OpenInode, job: &Job, id: SliceId, size: u32) -> Result<(), Failure> {
        let id = if job.again { self.name_anew(inode, job, id).await? } else { Some(id) };
        let _change = inode.change.lock().await;
        let Some(id) = id else {
            let attr = self.meta.getattr(inode.ino).await;
            inode.forget_view(job.index);
            inode.changed(attr.map_err(|error| Failure::Later(fail(error)))?);
            return Ok(());
        };
        let slice = Slice { pos: job.pos, id, size, off: 0, len: size };
        inode.writer.give(job.sequence);
        failpoint::hit("vfs.flush.before-record");
        let written = self.meta.write_slice(inode.ino, job.index, slice, inode.writer.mtime()).await;
        failpoint::hit("vfs.flush.after-record");
        // Before the answer is known to anybody, and even if it is an error: a lost answer may hide a commit.
        inode.forget_view(job.index);
        match written {
            Ok(outcome) => {
                self.changed(inode, outcome.before, outcome.attr).await;
                Ok(())
            }
            Err(error) if error.is_fault() => Err(Failure::Later(fail(error))),
            Err(error) => Err(Failure::Never(match error.errno() {
                // What a process sees that writes to a file which is gone (format.md §7.6).
                Errno::ENOENT | Errno::EPERM | Errno::EINVAL => Errno::EBADF,
                errno => errno,
            })),
        }
    }

    /// What to commit a slice as whose record was given to the engine before; `None`: that record got through.
    ///
    /// A record that is not there did not arrive, or was compacted by another client, which has removed the blocks then or
    /// will do so. So the old id must not be named again: the data becomes another slice.
    async fn name_anew(&self, inode: &OpenInode, job: &Job, id: SliceId) -> Result<Option<SliceId>, Failure> {
        if self.is_committed(inode, job, id).await? {
            return Ok(None);
        }
        let new = self.meta.new_slice().await.map_err(|error| Failure::Later(fail(error)))?;
        match job.data.lock().await.upload_as(new).await {
            Ok(()) => {
                info!(ino = %inode.ino, chunk = job.index, pos = job.pos, %id, %new, "an unanswered slice was uploaded anew");
                Ok(Some(new))
            }
            // Nobody removes blocks of a slice without a record: there was one, and its bytes are in another slice now.
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Failure::Later(fail(error))),
        }
    }

    /// Whether the record of a slice is among those of its chunk.
    async fn is_committed(&self, inode: &OpenInode, job: &Job, id: SliceId) -> Result<bool, Failure> {
        let records = self.meta.chunk(inode.ino, job.index).await;
        let records = records.map_err(|error| Failure::Later(fail(error)))?;
        Ok(records.iter().any(|record| record.id == id))
    }

    /// Notes the failure; data that can never be committed is given up.
    pub(crate) async fn not_committed(&self, inode: &OpenInode, job: Job, failure: Failure) -> Failure {
        let ino = inode.ino;
        let (Failure::Later(errno) | Failure::Never(errno)) = failure;
        let attempts = inode.writer.failed(job.sequence, errno);
        if matches!(failure, Failure::Later(_)) && attempts < MAX_ATTEMPTS {
            warn!(%ino, chunk = job.index, pos = job.pos, attempts, errno = errno.name(), "write-back will be tried again");
            return failure;
        }
        error!(
            %ino, chunk = job.index, pos = job.pos, attempts, errno = errno.name(),
            "data of a file is lost: it could not be written back"
        );
        inode.writer.give_up(job.sequence);
        // After other failures its record may have arrived all the same; what nobody refers to is for gc to find.
        if matches!(failure, Failure::Never(_)) {
            discard(job).await;
        }
        Failure::Never(errno)
    }

    /// Commits everything there is. Returns the first failure, after trying all files.
    pub async fn flush_all(&self) -> Result<()> {
        let dirty = stream::iter(self.inodes.dirty());
        let flushed: Vec<_> = dirty
            .map(|inode| async move {
                let flushed = self.flush_file(&inode).await;
                self.inodes.tidy(inode.ino);
                flushed
            })
            .buffer_unordered(64)
            .collect()
            .await;
        flushed.into_iter().collect()
    }
}

/// Removes what an abandoned slice brought into the store.
async fn discard(job: Job) {
    if let Some(data) = Arc::into_inner(job.data)
        && let Err(error) = data.into_inner().discard().await
    {
        warn!(%error, "blocks of an abandoned slice are left behind");
    }
}
