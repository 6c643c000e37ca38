//! Which blocks a slice has, and what their objects are called (format §5.1).

use std::ops::Range;

use stead_base::SliceId;

/// One block of a slice. Together with the volume's naming it determines the object, and its content never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The slice.
    pub slice: SliceId,
    /// Which block of it, from 0.
    pub index: u32,
    /// Plain bytes, at most the block size.
    pub len: u32,
}

/// How blocks are cut and named.
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    /// Bytes of a full block.
    pub block_size: u32,
    /// Whether names begin with a hash.
    pub hash_prefix: bool,
}

impl Naming {
    /// The key below the volume's prefix, and the path below `raw/` in a cache directory.
    pub fn key(self, block: BlockId) -> String {
        let BlockId { slice: SliceId(id), index, len } = block;
        let millions = id / 1_000_000;
        if self.hash_prefix {
            format!("chunks/{:02X}/{millions}/{id}_{index}_{len}", id % 256)
        } else {
            format!("chunks/{millions}/{}/{id}_{index}_{len}", id / 1000)
        }
    }

    /// Block `index` of a slice of `size` bytes, which must reach that far.
    pub fn block(self, slice: SliceId, size: u32, index: u32) -> BlockId {
        let start = u64::from(index) * u64::from(self.block_size);
        let rest = u64::from(size).saturating_sub(start);
        let len = u32::try_from(rest).unwrap_or(u32::MAX).min(self.block_size);
        BlockId { slice, index, len }
    }

    /// The blocks under `off ..+ len` of a slice, each with the bytes wanted of it.
    pub fn pieces(self, slice: SliceId, size: u32, off: u32, len: u32) -> impl Iterator<Item = (BlockId, Range<u32>)> {
        let end = off.saturating_add(len).min(size);
        let indexes = if off < end { off / self.block_size..end.div_ceil(self.block_size) } else { 0..0 };
        indexes.map(move |index| {
            let start = index * self.block_size;
            let block = self.block(slice, size, index);
            (block, off.max(start) - start..end.min(start + block.len) - start)
        })
    }

    /// Every block of a slice.
    pub fn blocks(self, slice: SliceId, size: u32) -> impl Iterator<Item = BlockId> {
        (0..size.div_ceil(self.block_size)).map(move |index| self.block(slice, size, index))
    }
}

/// Reads the last component of a key, `{id}_{index}_{len}`.
pub fn parse_name(name: &str) -> Option<BlockId> {
    let mut parts = name.split('_');
    let mut next = || parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
    let (id, index, len) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    parts.next().is_none().then_some(BlockId { slice: SliceId(id), index, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Naming = Naming { block_size: 4 << 20, hash_prefix: false };

    #[test]
    fn names_are_those_of_the_format() {
        let key = |id, size, index| PLAIN.key(PLAIN.block(SliceId(id), size, index));
        assert_eq!(key(5, 100_000, 0), "chunks/0/0/5_0_100000");
        assert_eq!(key(1, 12, 0), "chunks/0/0/1_0_12");
        assert_eq!(key(12_345_678, (4 << 20) + 1, 0), "chunks/12/12345/12345678_0_4194304");
        assert_eq!(key(12_345_678, (4 << 20) + 1, 1), "chunks/12/12345/12345678_1_1");
        let hashed = Naming { hash_prefix: true, ..PLAIN };
        assert_eq!(hashed.key(hashed.block(SliceId(2_000_255), 7, 0)), "chunks/7F/2/2000255_0_7");
    }

    #[test]
    fn pieces_cover_a_range_exactly() {
        let bs = PLAIN.block_size;
        let pieces: Vec<_> = PLAIN.pieces(SliceId(1), 2 * bs + 10, bs - 1, bs + 5).collect();
        let wanted: Vec<_> = pieces.iter().map(|(b, r)| (b.index, b.len, r.clone())).collect();
        assert_eq!(wanted, [(0, bs, bs - 1..bs), (1, bs, 0..bs), (2, 10, 0..4)]);
        assert_eq!(PLAIN.pieces(SliceId(1), 10, 10, 5).count(), 0);
        assert_eq!(PLAIN.blocks(SliceId(1), 0).count(), 0);
    }

    #[test]
    fn only_block_names_are_read() {
        let block = PLAIN.block(SliceId(5), 100_000, 0);
        assert_eq!(parse_name("5_0_100000"), Some(block));
        for bad in ["5_0", "5_0_1.tmp", "5_0_1_2", "a_0_1", "-5_0_1", "5_0_99999999999", "__", ""] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
