//! The slices that the metadata names, and the blocks that lie in the object store, held against each other.
//!
//! The metadata is scanned before the objects are listed. So a block that is missing although its slice was named belongs
//! to a slice that has gone meanwhile, or is lost; and a block that nobody named, and that is older than the scan, was not
//! just being written. Memory holds some bytes for each slice, not for each block.

use std::collections::HashMap;

use stead_base::{SliceId, Timestamp};
use stead_chunk::{BlockId, Naming, parse_name};
use stead_meta::Meta;
use stead_meta::format::Format;
use stead_meta::ops::SliceUse;
use stead_object::{ObjectInfo, ObjectStore};

use crate::error::Result;
use crate::progress::Meter;

/// Objects that are listed at once.
const PAGE: usize = 1000;
/// Where blocks lie below the volume's prefix.
const CHUNKS: &str = "chunks/";

/// Why a slice is kept; the first one counts more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// A chunk of a file.
    File,
    /// Replaced by a compaction, kept as long as the trash.
    Delayed,
    /// About to be removed.
    Pending,
}

/// A slice that the metadata names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub(crate) size: u32,
    pub(crate) kept: Use,
    /// Blocks that were met among the objects.
    pub(crate) met: u16,
}

/// All of them, and whether the metadata could be read completely.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    pub(crate) named: HashMap<SliceId, Named>,
    /// Records that do not decode: what they name is not known.
    pub(crate) corrupt: Vec<String>,
}

/// How blocks of a volume are named.
pub(crate) fn naming(format: &Format) -> Naming {
    Naming { block_size: format.block_bytes(), hash_prefix: format.hash_prefix }
}

/// Reads which slices there are.
pub(crate) async fn slices(meta: &Meta, meter: &dyn Meter) -> Result<Slices> {
    let mut named: HashMap<SliceId, Named> = HashMap::new();
    let corrupt = meta
        .each_slice(&mut |id, size, used| {
            meter.add(1);
            let kept = match used {
                SliceUse::Chunk(..) => Use::File,
                SliceUse::Delayed => Use::Delayed,
                SliceUse::Pending => Use::Pending,
            };
            let slice = named.entry(id).or_insert(Named { size, kept, met: 0 });
            slice.kept = slice.kept.min(kept);
            slice.size = slice.size.max(size);
        })
        .await?;
    Ok(Slices { named, corrupt: corrupt.iter().map(ToString::to_string).collect() })
}

/// An object below `chunks/`.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) object: ObjectInfo,
    /// What its name says, if it is the name of a block.
    pub(crate) block: Option<BlockId>,
}

impl Found {
    /// Whether it was written after a time.
    pub(crate) fn is_younger(&self, than: Timestamp) -> bool {
        self.object.modified > than
    }
}

/// Lists the blocks in pages, each handed to `visit`.
pub(crate) async fn each_page(
    objects: &dyn ObjectStore,
    naming: Naming,
    mut visit: impl AsyncFnMut(Vec<Found>) -> Result<()>,
) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = objects.list(CHUNKS, &after, PAGE).await?;
        let last = page.len() < PAGE;
        if let Some(object) = page.last() {
            after.clone_from(&object.key);
        }
        let found = page.into_iter().filter(|object| object.size > 0 || !object.key.ends_with('/'));
        let found = found.map(|object| {
            let name = object.key.rsplit('/').next().and_then(parse_name);
            Found { block: name.filter(|block| naming.key(*block) == object.key), object }
        });
        visit(found.collect()).await?;
        if last {
            return Ok(());
        }
    }
}

impl Named {
    /// Whether a block belongs to the slice.
    pub(crate) fn has(&self, naming: Naming, block: BlockId) -> bool {
        u64::from(block.index) * u64::from(naming.block_size) < u64::from(self.size)
            && naming.block(block.slice, self.size, block.index) == block
    }
}
