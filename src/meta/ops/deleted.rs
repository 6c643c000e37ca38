//! The data of deleted files: chunk lists go with their slice references, slices that nobody refers to go with their
//! blocks (format.md §2.6, §2.10). Each step can be repeated, so a death in between loses nothing but time.

use std::collections::BTreeMap;

use stead_base::{Ino, SliceId};
use tracing::warn;

use crate::error::Result;
use crate::records::{CHUNK_SIZE, Key, Record, Slice, Write};
use crate::store::Txn;

use super::Meta;

/// A file that was cut has chunk lists beyond its end: so many more are looked for.
const CHUNKS_BEYOND: u32 = 16;

impl Meta {
    /// Removes the data of a file that has just been deleted. What is not done when the client ends is left to the
    /// hourly job of any client.
    pub(super) fn delete_in_background(&self, ino: Ino, length: u64) {
        let Some(me) = self.me.upgrade() else { return };
        if self.options.max_deletes == 0 || self.remover.read().is_none() {
            return;
        }
        let stopping = self.tasks.stopping();
        self.tasks.spawn("delete", async move {
            let work = async {
                let _turn = me.deletes.acquire().await;
                me.delete_data(ino, length).await
            };
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                done = work => if let Err(error) = done {
                    warn!(%ino, %error, "cannot remove the data of a deleted file yet");
                },
            }
        });
    }

    /// Removes all data of a deleted file; its mark goes last.
    pub(super) async fn delete_data(&self, ino: Ino, length: u64) -> Result<()> {
        let end = u32::try_from(length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        let range = 0..end.saturating_add(CHUNKS_BEYOND);
        for index in self.store.list_chunks(ino, range).await? {
            self.delete_chunk(ino, index).await?;
        }
        self.transact(move |txn| {
            txn.write(Write::DelDeleted(ino, length));
            Ok(())
        })
        .await
    }

    async fn delete_chunk(&self, ino: Ino, index: u32) -> Result<()> {
        let body = move |txn: &mut Txn<'_>| {
            let slices = txn.slices(ino, index)?.unwrap_or_default();
            txn.write(Write::DelChunk(ino, index));
            let used = references(&slices);
            release_references(txn, &used);
            Ok(used.into_keys().collect::<Vec<_>>())
        };
        let dropped = self.transact(body).await?;
        self.remove_unreferenced(&dropped).await
    }

    /// Removes those of `slices` that have no reference left.
    pub(super) async fn remove_unreferenced(&self, slices: &[(SliceId, u32)]) -> Result<()> {
        let keys: Vec<Key> = slices.iter().map(|(id, size)| Key::SliceRef(*id, *size)).collect();
        let refs = self.store.read(&keys).await?;
        for ((id, size), refs) in slices.iter().zip(refs) {
            if matches!(refs, Some(Record::Number(count)) if count <= 0) {
                self.remove_slice(*id, *size).await?;
            }
        }
        Ok(())
    }

    /// Removes the blocks of a slice, then what is known of it. A failure leaves it "pending delete".
    pub(super) async fn remove_slice(&self, id: SliceId, size: u32) -> Result<()> {
        let Some(remover) = self.remover.read().clone() else {
            return Ok(());
        };
        if let Err(why) = remover.remove_slice(id, size).await {
            warn!(slice = %id, size, why, "cannot remove the blocks of a slice yet");
            return Ok(());
        }
        self.transact(move |txn| {
            txn.write(Write::ForgetSlice(id, size));
            Ok(())
        })
        .await
    }
}

/// How often each slice is used.
fn references(slices: &[Slice]) -> BTreeMap<(SliceId, u32), i64> {
    let mut used = BTreeMap::new();
    for slice in slices.iter().filter(|slice| !slice.id.is_hole()) {
        *used.entry((slice.id, slice.size)).or_default() += 1;
    }
    used
}

fn release_references(txn: &mut Txn<'_>, used: &BTreeMap<(SliceId, u32), i64>) {
    for ((id, size), count) in used {
        txn.write(Write::AddSliceRef(*id, *size, -count));
    }
}

/// Takes one reference of each of `slices` away.
pub(super) fn release_each(txn: &mut Txn<'_>, slices: &[(SliceId, u32)]) {
    for (id, size) in slices.iter().filter(|(id, _size)| !id.is_hole()) {
        txn.write(Write::AddSliceRef(*id, *size, -1));
    }
}
