//! A set of numbers that lie close together: a bit each.

use std::collections::HashMap;

const WORDS: usize = 1024;
const BITS: u64 = 64 * WORDS as u64;

/// A set of inode or slice numbers. Costs 8 KiB for every 65,536 numbers that have one in it.
#[derive(Debug, Default)]
pub(super) struct Bits(HashMap<u64, Box<[u64; WORDS]>>);

impl Bits {
    /// True when the number was not in the set.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let words = self.0.entry(number / BITS).or_insert_with(|| Box::new([0; WORDS]));
        let within = number % BITS;
        let word = &mut words[usize::try_from(within / 64).expect("below the number of words")];
        let bit = 1 << (within % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once() {
        let mut bits = Bits::default();
        for number in [0, 1, 63, 64, BITS - 1, BITS, u64::MAX] {
            assert!(bits.insert(number), "{number}");
            assert!(!bits.insert(number), "{number}");
        }
    }
}
