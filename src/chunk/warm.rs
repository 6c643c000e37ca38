//! The caches on request: filled, emptied, looked into.

use std::sync::Arc;

use stead_base::SliceId;

use crate::{ChunkStore, Result};

/// How often a block is brought that was dropped, since too much waited for the disk.
const TRIES: usize = 2;
/// What memory is called among the places of cached blocks.
const MEMORY: &str = "memory";

impl ChunkStore {
    /// Brings the blocks under `off ..+ len` of a slice into the caches.
    ///
    /// # Errors
    /// A block that cannot be read.
    pub async fn warm(self: &Arc<Self>, id: SliceId, size: u32, off: u32, len: u32) -> Result<()> {
        for (block, _) in self.naming.pieces(id, size, off, len) {
            for _try in 0..TRIES {
                if self.disk.place(block).is_some() {
                    break;
                }
                // The whole block: parts of blocks are not kept on disk.
                self.read(id, size, block.index * self.naming.block_size, block.len).await?;
                if self.disk.is_off() {
                    break;
                }
                self.disk.flush().await;
            }
        }
        Ok(())
    }

    /// Takes the blocks under `off ..+ len` of a slice out of the caches.
    pub fn evict(&self, id: SliceId, size: u32, off: u32, len: u32) {
        for (block, _) in self.naming.pieces(id, size, off, len) {
            self.memory.remove(block);
            self.disk.remove(block);
        }
    }

    /// Where the bytes `off ..+ len` of a slice are cached: a cache directory, memory, or nowhere; with their number.
    pub fn cached(&self, id: SliceId, size: u32, off: u32, len: u32) -> Vec<(Option<String>, u64)> {
        let place = |block| match self.disk.place(block) {
            Some(directory) => Some(format!("{}/", directory.display())),
            None => self.memory.contains(block).then(|| MEMORY.to_owned()),
        };
        let pieces = self.naming.pieces(id, size, off, len);
        pieces.map(|(block, want)| (place(block), u64::from(want.end - want.start))).collect()
    }
}
