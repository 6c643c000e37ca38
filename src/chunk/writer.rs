//! One slice being written.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use stead_base::SliceId;

use crate::block::BlockId;
use crate::config::MAX_SLICE;
use crate::pages::PAGE_SIZE;
use crate::store::ChunkStore;
use crate::upload::{Pages, Upload};
use crate::{Error, Result};

/// A slice of up to 64 MiB, collected in pages and uploaded block by block.
///
/// Blocks are given to the store from the front: once [`SliceWriter::upload_full_blocks`] has begun with a block it can be
/// read back, not written. Parts that were never written are zeros. Dropping a writer lets the uploads that were begun run
/// to their end; [`SliceWriter::discard`] takes them back.
#[derive(Debug)]
pub struct SliceWriter {
    store: Arc<ChunkStore>,
    id: Option<SliceId>,
    len: u32,
    blocks: Vec<Block>,
    /// How many blocks at the front have been given to the store.
    sent: usize,
    /// `finish` was called: the last block's length, and so its name, is settled.
    finished: bool,
}

#[derive(Debug)]
enum Block {
    Open(Pages),
    Sent(Upload),
}

impl SliceWriter {
    pub(crate) fn new(store: Arc<ChunkStore>) -> Self {
        Self { store, id: None, len: 0, blocks: Vec::new(), sent: 0, finished: false }
    }

    /// Copies `data` into pages. Never waits and does no I/O; the caller has asked the budget.
    /// Errors: [`Error::TooLong`], [`Error::Sealed`]; nothing is written then.
    pub fn write(&mut self, off: u32, data: &[u8]) -> Result<()> {
        let end = u32::try_from(data.len()).ok().and_then(|len| off.checked_add(len));
        let Some(end) = end.filter(|&end| end <= MAX_SLICE) else {
            return Err(Error::TooLong { off, len: data.len() });
        };
        if !self.can_write(off) {
            return Err(Error::Sealed { off });
        }
        if data.is_empty() {
            return Ok(());
        }
        let (mut at, mut rest) = (off as usize, data);
        while !rest.is_empty() {
            let in_page = at % PAGE_SIZE;
            let (part, more) = rest.split_at(rest.len().min(PAGE_SIZE - in_page));
            self.page(at)[in_page..in_page + part.len()].copy_from_slice(part);
            (at, rest) = (at + part.len(), more);
        }
        self.len = self.len.max(end);
        Ok(())
    }

    /// Bytes up to the end of what was written furthest.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a write at `off` can go into this slice.
    pub fn can_write(&self, off: u32) -> bool {
        !self.finished && off < MAX_SLICE && off as usize / self.block_size() >= self.sent
    }

    /// The id, once it is set.
    pub fn id(&self) -> Option<SliceId> {
        self.id
    }

    /// Names the slice; has to happen before anything can be uploaded, and once.
    pub fn set_id(&mut self, id: SliceId) {
        self.id.get_or_insert(id);
    }

    /// Begins to upload the blocks that are written to their end, in the background. Does nothing while there is no id.
    /// May be called from any thread.
    pub fn upload_full_blocks(&mut self) {
        while self.id.is_some() && (self.sent + 1) * self.block_size() <= self.len as usize {
            self.send_next();
        }
    }

    /// Uploads what is left, tries again what has failed, and waits for all: afterwards the slice is in the store, and its
    /// size is the result. From the first call on nothing can be written. After an error, or when the wait was given up,
    /// the data is still here and `finish` can be called again.
    pub async fn finish(&mut self) -> Result<u32> {
        if self.id.is_none() {
            return Err(Error::NoId);
        }
        self.finished = true;
        self.retry_failed();
        while self.sent * self.block_size() < self.len as usize {
            self.send_next();
        }
        self.sent_blocks_arrive().await?;
        Ok(self.len)
    }

    /// Waits for all uploads that were begun; the first error is the result.
    async fn sent_blocks_arrive(&mut self) -> Result<()> {
        let mut first_error = None;
        for block in &mut self.blocks {
            if let Block::Sent(upload) = block
                && let Err(error) = upload.wait(&self.store).await
            {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Uploads a slice that was finished once more, as the slice `id`, and is that one from then on. The blocks under the
    /// old id stay where they are.
    ///
    /// # Errors
    /// A block that has left memory and is neither in the caches nor in the store any more, see [`Error::is_not_found`]; a
    /// store that fails. This is still the old slice then.
    pub async fn upload_as(&mut self, id: SliceId) -> Result<()> {
        let mut copy = Self::new(Arc::clone(&self.store));
        copy.set_id(id);
        match self.copy_to(&mut copy).await {
            Ok(()) => {
                *self = copy;
                Ok(())
            }
            Err(error) => {
                // What is left behind has a name that nobody knows; gc finds it.
                let _ = copy.discard().await;
                Err(error)
            }
        }
    }

    /// Block by block, as nobody has asked the budget for a second copy of the whole.
    async fn copy_to(&self, copy: &mut Self) -> Result<()> {
        let block_size = self.store.naming.block_size;
        let mut off = 0;
        while off < self.len {
            let part = block_size.min(self.len - off);
            copy.write(off, &self.read_back(off, part).await?)?;
            copy.upload_full_blocks();
            copy.sent_blocks_arrive().await?;
            off += part;
        }
        copy.finish().await?;
        Ok(())
    }

    /// Takes the slice back: waits for the uploads that were begun and removes what they brought into the store.
    pub async fn discard(mut self) -> Result<()> {
        let mut uploaded = Vec::new();
        for block in &mut self.blocks {
            // An upload that failed may have stored its block all the same.
            if let Block::Sent(upload) = block {
                let _ = upload.wait(&self.store).await;
                uploaded.push(upload.block);
            }
        }
        self.store.remove_blocks(&uploaded).await
    }

    /// Fills `out` with what was written at `off`, if all of it is still in memory; zeros behind the end.
    /// `false`: some of it is only in the store, ask [`SliceWriter::read_back`].
    pub fn read(&self, off: u32, out: &mut [u8]) -> bool {
        let mut done = 0;
        while done < out.len() {
            let at = off as usize + done;
            let in_page = at % PAGE_SIZE;
            let part = (PAGE_SIZE - in_page).min(out.len() - done);
            if !self.copy_page(at, in_page, &mut out[done..done + part]) {
                return false;
            }
            done += part;
        }
        true
    }

    /// Reads `off ..+ len`, from memory or, where the blocks have left it, from the caches and the store.
    pub async fn read_back(&self, off: u32, len: u32) -> Result<Bytes> {
        let mut all = BytesMut::zeroed(len as usize);
        let (mut done, block_size) = (0, self.store.naming.block_size);
        while done < len {
            let at = off.saturating_add(done);
            let part = (block_size - at % block_size).min(len - done);
            let out = &mut all[done as usize..(done + part) as usize];
            if !self.read(at, out) {
                self.fetch_back(at, out).await?;
            }
            done += part;
        }
        Ok(all.freeze())
    }

    /// Bytes of memory that this slice holds.
    pub fn memory(&self) -> u64 {
        let pages = |pages: &Pages| pages.iter().flatten().count();
        let held = self.blocks.iter().map(|block| match block {
            Block::Open(open) => pages(open),
            Block::Sent(upload) => upload.pages().map_or(0, |held| pages(&held)),
        });
        (held.sum::<usize>() * PAGE_SIZE) as u64
    }

    fn block_size(&self) -> usize {
        self.store.naming.block_size as usize
    }

    /// The page under `at`, in a block that has not been sent.
    fn page(&mut self, at: usize) -> &mut [u8] {
        let block_size = self.block_size();
        let (index, page) = (at / block_size, at % block_size / PAGE_SIZE);
        while self.blocks.len() <= index {
            self.blocks.push(Block::Open(Vec::new()));
        }
        let Block::Open(pages) = &mut self.blocks[index] else {
            unreachable!("can_write has refused offsets inside the {} blocks that were sent", self.sent)
        };
        if pages.len() <= page {
            pages.resize_with(page + 1, || None);
        }
        pages[page].get_or_insert_with(|| self.store.pages.take())
    }

    /// Gives the first block that is still open to the store.
    fn send_next(&mut self) {
        let (Some(id), index) = (self.id, self.sent) else { return };
        let block = self.store.naming.block(id, self.len, u32::try_from(index).unwrap_or(u32::MAX));
        let pages = match self.blocks.get_mut(index) {
            Some(Block::Open(pages)) => Arc::new(std::mem::take(pages)),
            _ => Arc::default(),
        };
        let upload = Block::Sent(Upload::start(&self.store, block, pages));
        match self.blocks.get_mut(index) {
            Some(place) => *place = upload,
            None => self.blocks.push(upload),
        }
        self.sent += 1;
    }

    fn retry_failed(&mut self) {
        for block in &mut self.blocks {
            if let Block::Sent(upload) = block
                && upload.has_failed()
                && let Some(pages) = upload.pages()
            {
                *upload = Upload::start(&self.store, upload.block, pages);
            }
        }
    }

    fn copy_page(&self, at: usize, in_page: usize, out: &mut [u8]) -> bool {
        let page = at % self.block_size() / PAGE_SIZE;
        let copy = |pages: &Pages, out: &mut [u8]| match pages.get(page).and_then(Option::as_ref) {
            Some(page) => out.copy_from_slice(&page[in_page..in_page + out.len()]),
            None => out.fill(0),
        };
        match self.blocks.get(at / self.block_size()) {
            None => out.fill(0),
            Some(Block::Open(pages)) => copy(pages, out),
            Some(Block::Sent(upload)) => match upload.pages() {
                Some(pages) => copy(&pages, out),
                None => return false,
            },
        }
        true
    }

    /// Fills `out`, which lies inside one block that is in the store; zeros behind the block's end.
    async fn fetch_back(&self, at: u32, out: &mut [u8]) -> Result<()> {
        let block_size = self.store.naming.block_size;
        let Some(Block::Sent(Upload { block, .. })) = self.blocks.get((at / block_size) as usize) else {
            return Ok(());
        };
        let start = (at % block_size).min(block.len);
        let end = block.len.min(start.saturating_add(u32::try_from(out.len()).unwrap_or(u32::MAX)));
        let want: Range<u32> = start..end;
        let block: BlockId = *block;
        let data = self.store.piece(block, want).await?;
        let (filled, behind) = out.split_at_mut(data.len());
        filled.copy_from_slice(&data);
        behind.fill(0);
        Ok(())
    }
}
