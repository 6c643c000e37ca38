//! Which cache directory a block belongs to: the ring of the Go client (format §5.5), so that both find the same files.
//!
//! 100 points per directory, the murmur3 hash of `{n}{directory id}`; a key belongs to the first point at or behind its hash.

const REPLICAS: u32 = 100;

/// A ring over directory numbers 0, 1, …
#[derive(Debug)]
pub(crate) struct Ring {
    /// Sorted by hash.
    points: Vec<(u32, usize)>,
}

impl Ring {
    pub(crate) fn new<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut points: Vec<_> = ids
            .into_iter()
            .enumerate()
            .flat_map(|(dir, id)| (0..REPLICAS).map(move |n| (murmur3(format!("{n}{id}").as_bytes()), dir)))
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// The number of the directory of `key`; 0 when the ring is empty.
    pub(crate) fn find(&self, key: &str) -> usize {
        let hash = murmur3(key.as_bytes());
        let next = self.points.partition_point(|&(point, _)| point < hash);
        let point = self.points.get(next).or_else(|| self.points.first());
        point.map_or(0, |&(_, dir)| dir)
    }
}

/// `MurmurHash3_x86_32` with seed 0.
fn murmur3(data: &[u8]) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xCC9E_2D51).rotate_left(15).wrapping_mul(0x1B87_3593);
    let words = data.chunks_exact(4);
    let tail = words.remainder().iter().rev().fold(0, |k, &b| k << 8 | u32::from(b));
    let mut hash = 0_u32;
    for word in words {
        let k = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        hash = (hash ^ scramble(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xE654_6B64);
    }
    hash ^= scramble(tail);
    #[expect(clippy::cast_possible_truncation, reason = "the hash takes the length modulo 2^32")]
    let length = data.len() as u32;
    hash ^= length;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ hash >> 13).wrapping_mul(0xC2B2_AE35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_gives_the_published_values() {
        for (text, hash) in [
            ("", 0),
            ("hello", 0x248B_FA47),
            ("hello, world", 0x149B_BB7F),
            ("The quick brown fox jumps over the lazy dog", 0x2E4F_F723),
        ] {
            assert_eq!(murmur3(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn keys_spread_over_directories_and_stay_when_one_is_added() {
        let ids = ["5ebdc8aa-8fa1-453c-9c5b-015418d33ad5", "b", "c"];
        let (three, two) = (Ring::new(ids), Ring::new(ids[..2].iter().copied()));
        let mut counts = [0; 3];
        for id in 0..3000 {
            let key = format!("chunks/0/{}/{id}_0_4194304", id / 1000);
            let dir = three.find(&key);
            counts[dir] += 1;
            if dir < 2 {
                assert_eq!(two.find(&key), dir);
            }
        }
        assert!(counts.iter().all(|&n| n > 500), "{counts:?}");
    }
}
