//! What was written to a file and is not committed: a list of slices in the order they were begun.
//!
//! A write goes into an open slice of its chunk if it continues or overlaps what is there and no younger slice lies in
//! its way; otherwise it begins a new one. Slices are sealed when they are full, when there are too many, when they have
//! waited long enough, or when somebody wants the file flushed. Sealed slices are uploaded, several at a time, and
//! committed in the order of the list: so a younger write wins over an older one, and a file never grows around data
//! that is not there yet (format.md §2.5, "Write commit").
//!
//! This list and the pages under its writers are all that a killed mount would lose.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use stead_base::{Errno, SliceId, Timestamp};
use stead_chunk::{ChunkStore, PAGE_SIZE, SliceWriter};
use stead_meta::records::{Attr, CHUNK_SIZE};
use tokio::time::Instant;

use crate::errno::{Result, fail};
use crate::handles::Mark;

/// The data of a slice. Whoever holds the list's lock may lock an open one at any time; a sealed one belongs to whoever
/// uploads it.
pub(crate) type SliceData = Arc<tokio::sync::Mutex<SliceWriter>>;

/// Uncommitted data of a file.
#[derive(Default)]
pub(crate) struct FileWriter {
    state: Mutex<State>,
    /// Held by whoever uploads and commits.
    pub(crate) committing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// In the order they were begun; nothing open stands before something sealed.
    slices: VecDeque<PendingSlice>,
    last_sequence: u64,
    /// End of the furthest slice in the file; 0 = none.
    length: u64,
    /// When the file was last written to, or what somebody set since.
    mtime: Timestamp,
    failures: Failures,
    /// Handles with uncommitted data, and the latest slice that any of it may be in.
    dirty: Vec<(Mark, u64)>,
}

/// Failed write-backs, counted, so that each handle hears of each once (as errseq_t does it in the kernel).
#[derive(Default)]
struct Failures {
    count: u64,
    last: Option<Errno>,
    /// Somebody was told of the last one.
    reported: bool,
}

struct PendingSlice {
    sequence: u64,
    /// The chunk.
    index: u32,
    /// Position in the chunk.
    pos: u32,
    len: u32,
    /// Bytes of a full block.
    block_size: u32,
    begun: Instant,
    touched: Instant,
    data: SliceData,
    sealed: bool,
    attempts: u32,
    /// Its record was given to the engine, of which no answer may have come back.
    given: bool,
    retry_at: Option<Instant>,
}

/// A sealed slice to be uploaded and committed.
pub(crate) struct Job {
    pub(crate) sequence: u64,
    pub(crate) index: u32,
    pub(crate) pos: u32,
    pub(crate) data: SliceData,
    /// Its record was given to the engine before: it may be there already.
    pub(crate) again: bool,
}

/// What a write leaves to be done in the background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Todo {
    /// A slice is sealed: commit.
    pub(crate) commit: bool,
    /// A slice has full blocks but no id.
    pub(crate) name: bool,
}

/// Uncommitted bytes of a range of a file.
pub(crate) enum Overlay {
    /// (position in the file, bytes), the oldest first.
    Ready(Vec<(u64, Bytes)>),
    /// Some of it is being uploaded, or has left memory: flush, and read what is committed.
    Busy,
}

impl PendingSlice {
    fn end(&self) -> u32 {
        self.pos + self.len
    }

    fn file_range(&self) -> Range<u64> {
        let start = u64::from(self.index) * CHUNK_SIZE + u64::from(self.pos);
        start..start + u64::from(self.len)
    }

    /// Bytes that only an upload of an unfinished block would free.
    fn idle_bytes(&self) -> u64 {
        let rest = u64::from(self.len % self.block_size);
        if self.sealed { 0 } else { rest.next_multiple_of(PAGE_SIZE as u64) }
    }

    /// Writes into the open slice; `pos` is the position in the chunk.
    fn write(&mut self, pos: u32, part: &[u8], todo: &mut Todo) -> stead_chunk::Result<()> {
        let mut data = self.data.try_lock().expect("only the holder of the list locks an open slice");
        data.write(pos - self.pos, part)?;
        self.len = data.len();
        self.touched = Instant::now();
        if data.id().is_some() {
            data.upload_full_blocks();
        } else {
            todo.name |= self.len >= self.block_size;
        }
        Ok(())
    }
}

impl FileWriter {
    /// Takes `data` into slices. The caller has made room in the budget.
    pub(crate) fn write(
        &self,
        chunks: &Arc<ChunkStore>,
        offset: u64,
        data: &[u8],
        now: Timestamp,
        max_open: usize,
        mark: &Mark,
    ) -> Result<Todo> {
        let mut state = self.state.lock();
        let (mut todo, mut offset, mut rest) = (Todo::default(), offset, data);
        while !rest.is_empty() {
            let pos = u32::try_from(offset % CHUNK_SIZE).expect("a position in a chunk is below 2^26");
            let room = usize::try_from(CHUNK_SIZE - u64::from(pos)).expect("a chunk fits into memory");
            let (part, more) = rest.split_at(rest.len().min(room));
            let index = u32::try_from(offset / CHUNK_SIZE).map_err(|_too_far| Errno::EFBIG)?;
            state.write_part(chunks, index, pos, part, &mut todo).map_err(fail)?;
            state.mark(mark);
            offset += part.len() as u64;
            rest = more;
        }
        state.length = state.length.max(offset);
        state.mtime = now;
        if state.slices.iter().filter(|slice| !slice.sealed).count() > max_open {
            todo.commit |= state.seal_oldest();
        }
        Ok(todo)
    }

    /// Where in the file data waits to be committed.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        self.state.lock().slices.iter().map(PendingSlice::file_range).collect()
    }

    /// Whether anything waits to be committed.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.state.lock().slices.is_empty()
    }

    /// End of the uncommitted data in the file; 0 = none.
    pub(crate) fn length(&self) -> u64 {
        self.state.lock().length
    }

    /// Length and time of change that `attr` will have once everything is committed; `None` = nothing waits.
    pub(crate) fn pending_change(&self) -> Option<(u64, Timestamp)> {
        let state = self.state.lock();
        (!state.slices.is_empty()).then_some((state.length, state.mtime))
    }

    /// Somebody set the time of change; what is committed later must not undo that.
    pub(crate) fn set_mtime(&self, mtime: Timestamp) {
        self.state.lock().mtime = mtime;
    }

    /// The time to commit with.
    pub(crate) fn mtime(&self) -> Timestamp {
        self.state.lock().mtime
    }

    /// Seals everything there is now. Returns the number up to which slices must be committed; `None` = none waits.
    pub(crate) fn seal_all(&self) -> Option<u64> {
        let mut state = self.state.lock();
        for slice in &mut state.slices {
            slice.sealed = true;
            slice.retry_at = None;
        }
        state.slices.back().map(|slice| slice.sequence)
    }

    /// Seals what was not touched for `idle` or is older than `age`. Returns whether something is to be committed.
    pub(crate) fn seal_old(&self, idle: Duration, age: Duration) -> bool {
        let mut state = self.state.lock();
        let old = |slice: &PendingSlice| slice.touched.elapsed() >= idle || slice.begun.elapsed() >= age;
        if let Some(last) = state.slices.iter().rposition(|slice| !slice.sealed && old(slice)) {
            state.seal_through(last);
        }
        state.next_job().is_some()
    }

    /// Bytes that stay in memory until somebody seals the slices.
    pub(crate) fn idle_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.slices.iter().map(PendingSlice::idle_bytes).sum()
    }

    /// Sealed slices from the front of the list, `limit` at most. Failed ones wait for their time.
    pub(crate) fn jobs(&self, limit: usize) -> Vec<Job> {
        let state = self.state.lock();
        if state.next_job().is_none() {
            return Vec::new();
        }
        let sealed = state.slices.iter().take_while(|slice| slice.sealed).take(limit);
        sealed
            .map(|slice| Job {
                sequence: slice.sequence,
                index: slice.index,
                pos: slice.pos,
                data: Arc::clone(&slice.data),
                again: slice.given,
            })
            .collect()
    }

    /// Whether a slice up to number `through` still waits.
    pub(crate) fn waits(&self, through: u64) -> bool {
        self.state.lock().slices.front().is_some_and(|slice| slice.sequence <= through)
    }

    /// The slice is committed.
    pub(crate) fn remove(&self, sequence: u64) {
        let mut state = self.state.lock();
        state.take_out(sequence);
        for clean in state.no_longer_dirty() {
            clean.set(false);
        }
    }

    /// The slice can never be committed. Whoever wrote it stays marked until it was [`FileWriter::told`].
    pub(crate) fn give_up(&self, sequence: u64) {
        let mut state = self.state.lock();
        state.take_out(sequence);
        state.no_longer_dirty();
    }

    /// A handle is closed; its mark will be another's.
    pub(crate) fn closed(&self, mark: &Mark) {
        self.state.lock().dirty.retain(|(dirty, _)| !dirty.is_for(mark));
    }

    /// The user of a handle has heard that data is lost.
    pub(crate) fn told(&self, mark: &Mark) {
        let state = self.state.lock();
        if !state.dirty.iter().any(|(dirty, _)| dirty.is_for(mark)) {
            mark.set(false);
        }
    }

    /// The record of a slice is about to be given to the engine. Whoever waits for the answer may give up.
    pub(crate) fn give(&self, sequence: u64) {
        let mut state = self.state.lock();
        if let Some(slice) = state.slices.iter_mut().find(|slice| slice.sequence == sequence) {
            slice.given = true;
        }
    }

    /// Notes that a slice could not be written back; every handle will hear of it. Returns how often that happened to
    /// the slice by now.
    pub(crate) fn failed(&self, sequence: u64, errno: Errno) -> u32 {
        let mut state = self.state.lock();
        state.failures.count += 1;
        state.failures.last = Some(errno);
        state.failures.reported = false;
        let slice = state.slices.iter_mut().find(|slice| slice.sequence == sequence);
        slice.map_or(0, |slice| {
            slice.attempts += 1;
            slice.retry_at = Some(Instant::now() + Duration::from_secs(1 << slice.attempts.min(6)));
            slice.attempts
        })
    }

    /// Reports the last failure, unless `seen` says that it was reported there before.
    pub(crate) fn report_failure(&self, seen: &AtomicU64) -> Result<()> {
        let failures = &mut self.state.lock().failures;
        match failures.last {
            Some(errno) if seen.swap(failures.count, Ordering::Relaxed) < failures.count => {
                failures.reported = true;
                Err(errno)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What a new handle counts as seen: everything, but for a last failure that nobody was told of.
    pub(crate) fn failures_for_new_handle(&self) -> u64 {
        let failures = &self.state.lock().failures;
        failures.count - u64::from(failures.last.is_some() && !failures.reported)
    }

    /// Gives `id` to a slice that could be uploading but has none. `false`: nobody wanted it.
    pub(crate) fn name_next(&self, id: SliceId) -> bool {
        let state = self.state.lock();
        let nameless = state.slices.iter().filter(|slice| !slice.sealed).find_map(|slice| {
            let data = slice.data.try_lock().ok()?;
            (data.id().is_none() && slice.len >= slice.block_size).then_some(data)
        });
        let Some(mut data) = nameless else { return false };
        data.set_id(id);
        data.upload_full_blocks();
        true
    }

    /// Uncommitted bytes in `range` of the file.
    pub(crate) fn overlay(&self, range: Range<u64>) -> Overlay {
        let state = self.state.lock();
        let mut parts = Vec::new();
        for slice in &state.slices {
            let whole = slice.file_range();
            let (start, end) = (whole.start.max(range.start), whole.end.min(range.end));
            if start >= end {
                continue;
            }
            let (Ok(off), Ok(len)) = (u32::try_from(start - whole.start), usize::try_from(end - start)) else {
                return Overlay::Busy;
            };
            let mut bytes = vec![0; len];
            match slice.data.try_lock() {
                Ok(data) if data.read(off, &mut bytes) => parts.push((start, bytes.into())),
                Ok(_) | Err(_) => return Overlay::Busy,
            }
        }
        Overlay::Ready(parts)
    }
}

impl State {
    /// Notes that data of a handle may be in any slice that there is now.
    fn mark(&mut self, mark: &Mark) {
        match self.dirty.iter_mut().find(|(dirty, _)| dirty.is_for(mark)) {
            Some((_, last)) => *last = self.last_sequence,
            None => {
                mark.set(true);
                self.dirty.push((mark.clone(), self.last_sequence));
            }
        }
    }

    fn take_out(&mut self, sequence: u64) {
        self.slices.retain(|slice| slice.sequence != sequence);
        let ends = self.slices.iter().map(|slice| slice.file_range().end);
        self.length = ends.max().unwrap_or(0);
    }

    /// Takes out the handles whose data is in no slice any more.
    fn no_longer_dirty(&mut self) -> Vec<Mark> {
        let first = self.slices.front().map_or(u64::MAX, |slice| slice.sequence);
        self.dirty.extract_if(.., |(_, last)| *last < first).map(|(mark, _)| mark).collect()
    }

    fn write_part(
        &mut self,
        chunks: &Arc<ChunkStore>,
        index: u32,
        pos: u32,
        part: &[u8],
        todo: &mut Todo,
    ) -> stead_chunk::Result<()> {
        let at = self.place(index, pos, part.len()).unwrap_or_else(|| {
            self.last_sequence += 1;
            let now = Instant::now();
            self.slices.push_back(PendingSlice {
                sequence: self.last_sequence,
                index,
                pos,
                len: 0,
                block_size: chunks.block_size(),
                begun: now,
                touched: now,
                data: Arc::new(tokio::sync::Mutex::new(chunks.writer())),
                sealed: false,
                attempts: 0,
                given: false,
                retry_at: None,
            });
            self.slices.len() - 1
        });
        let slice = &mut self.slices[at];
        slice.write(pos, part, todo)?;
        if u64::from(slice.end()) == CHUNK_SIZE {
            self.seal_through(at);
            todo.commit = true;
        }
        Ok(())
    }

    /// The open slice that `len` bytes at `pos` of the chunk go into.
    fn place(&self, index: u32, pos: u32, len: usize) -> Option<usize> {
        for (at, slice) in self.slices.iter().enumerate().rev().filter(|(_, slice)| slice.index == index) {
            let continues = !slice.sealed && (slice.pos..=slice.end()).contains(&pos);
            if continues && slice.data.try_lock().is_ok_and(|data| data.can_write(pos - slice.pos)) {
                return Some(at);
            }
            let overlaps =
                u64::from(pos) < u64::from(slice.end()) && u64::from(slice.pos) < u64::from(pos) + len as u64;
            if overlaps {
                return None;
            }
        }
        None
    }

    /// Seals up to the given place: what is older must not be committed later.
    fn seal_through(&mut self, last: usize) {
        for slice in self.slices.iter_mut().take(last + 1) {
            slice.sealed = true;
        }
    }

    fn seal_oldest(&mut self) -> bool {
        let oldest = self.slices.iter_mut().find(|slice| !slice.sealed);
        oldest.is_some_and(|slice| {
            slice.sealed = true;
            true
        })
    }

    /// The slice at the front, if it is sealed and not waiting after a failure.
    fn next_job(&self) -> Option<&PendingSlice> {
        let ready = |slice: &&PendingSlice| slice.sealed && slice.retry_at.is_none_or(|time| time <= Instant::now());
        self.slices.front().filter(ready)
    }
}

/// What `attr` will be with a pending change (length, time).
pub(crate) fn lay_over(attr: &mut Attr, pending: Option<(u64, Timestamp)>) {
    if let Some((length, mtime)) = pending {
        attr.length = attr.length.max(length);
        attr.mtime = mtime;
        attr.ctime = attr.ctime.max(mtime);
    }
}
