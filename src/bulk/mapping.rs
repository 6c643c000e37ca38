//! Memory that is mapped piece by piece: what nobody uses any more is the system's again, but for a few mappings that are
//! kept for the next ones, since each 4 KiB of a new one cost a page fault.
//!
//! From the heap, such pieces stay with the process when they are freed in another order than they were taken.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memmap2::MmapMut;
use parking_lot::Mutex;

use crate::ALIGNMENT;

/// Bytes of mappings that each [`Spare`] keeps.
const KEPT: usize = 16 << 20;
/// Up to this the heap gives memory out and takes it back without leaving gaps that matter.
const SMALL: usize = 64 << 10;

/// `len` bytes, which `fill` is given to fill, and which have anything in them before. Up to 64 KiB are from the heap, more
/// from mappings that the whole process shares, at a multiple of [`ALIGNMENT`].
///
/// # Errors
/// Those of `fill`.
pub fn filled<E>(len: usize, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Bytes, E> {
    static SHARED: LazyLock<Arc<Spare>> = LazyLock::new(Arc::default);
    if len <= SMALL {
        let mut bytes = vec![0; len];
        fill(&mut bytes)?;
        return Ok(bytes.into());
    }
    let (mut bytes, _used) = SHARED.take(len);
    fill(&mut bytes)?;
    Ok(Bytes::from_owner(bytes))
}

/// A mapping that goes back to the spare ones when it is dropped.
pub struct Mapping {
    bytes: Option<MmapMut>,
    len: usize,
    spare: Arc<Spare>,
}

impl Mapping {
    fn bytes(&self) -> &[u8] {
        &self.bytes.as_ref().expect("it is taken when the mapping is dropped, and not before")[..self.len]
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes()
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.as_mut().expect("it is taken when the mapping is dropped, and not before")[..self.len]
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Mapping {
    /// Leaves out the data, which is the user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes.take() {
            self.spare.put(bytes);
        }
    }
}

/// Mappings that nobody uses, 16 MiB at most; the oldest go first.
#[derive(Debug, Default)]
pub struct Spare(Mutex<VecDeque<MmapMut>>);

impl Spare {
    /// `len` bytes, and whether they were used before; otherwise they are zeros.
    pub fn take(self: &Arc<Self>, len: usize) -> (Mapping, bool) {
        let size = len.next_multiple_of(ALIGNMENT);
        let kept = {
            let mut spare = self.0.lock();
            // The youngest: it may still be in a cache of the processor.
            spare.iter().rposition(|bytes| bytes.len() == size).and_then(|at| spare.remove(at))
        };
        let used = kept.is_some();
        let bytes = Some(kept.unwrap_or_else(|| map(size)));
        (Mapping { bytes, len, spare: Arc::clone(self) }, used)
    }

    fn put(&self, bytes: MmapMut) {
        let mut over = Vec::new();
        let mut spare = self.0.lock();
        spare.push_back(bytes);
        let mut kept: usize = spare.iter().map(|kept| kept.len()).sum();
        while kept > KEPT {
            let Some(oldest) = spare.pop_front() else { break };
            kept -= oldest.len();
            over.push(oldest);
        }
        // Unmapped without the lock.
        drop(spare);
    }
}

/// Zeroed memory of its own. Ends the process when there is none, as the heap does.
fn map(len: usize) -> MmapMut {
    MmapMut::map_anon(len)
        .unwrap_or_else(|_no_memory| handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_comes_again() {
        let spare = Arc::new(Spare::default());
        let (mut first, used) = spare.take(64 << 10);
        assert!(!used && first.iter().all(|byte| *byte == 0));
        first.fill(7);
        drop(first);
        assert!(!spare.take(4 << 20).1, "another length is another mapping");
        let (again, used) = spare.take(64 << 10);
        assert!(used && again.iter().all(|byte| *byte == 7));
        drop(again);
        assert!(spare.take((64 << 10) - 5).1, "a shorter one fits");
    }

    #[test]
    fn few_are_kept_and_the_youngest_of_them() {
        let spare = Arc::new(Spare::default());
        drop((0..1000).map(|_| spare.take(64 << 10)).collect::<Vec<_>>());
        assert_eq!(spare.0.lock().len(), KEPT / (64 << 10));
        drop((0..10).map(|_| spare.take(4 << 20)).collect::<Vec<_>>());
        assert!(spare.0.lock().iter().all(|kept| kept.len() == 4 << 20));
        assert_eq!(spare.0.lock().len(), 4);
        drop(spare.take(KEPT + 1));
        assert_eq!(spare.0.lock().len(), 0, "what is too large leaves nothing");
    }
}
