//! How large a volume is to be.

use crate::error::{Error, Result};

/// Bytes: at least `required`, at most `limit`; 0 is "not said" (CSI, CapacityRange).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityRange {
    required: u64,
    limit: u64,
}

impl CapacityRange {
    /// Checks what a request says.
    ///
    /// # Errors
    /// [`Error::Capacity`] when no volume can be like that.
    pub fn new(required: i64, limit: i64) -> Result<Self> {
        let wrong = |why| Error::Capacity { required, limit, why };
        let bytes = |value| u64::try_from(value).map_err(|_negative| wrong("must not be negative"));
        let range = Self { required: bytes(required)?, limit: bytes(limit)? };
        if range.limit > 0 && range.required > range.limit {
            return Err(wrong("required is more than the limit"));
        }
        Ok(range)
    }

    /// The size of a new volume: what is required, else what is allowed; 0 = without limit.
    pub fn chosen(self) -> u64 {
        if self.required > 0 { self.required } else { self.limit }
    }

    /// Whether a volume of `capacity` bytes (0 = without limit) will do.
    pub fn fits(self, capacity: u64) -> bool {
        match capacity {
            0 => self.limit == 0,
            bytes => bytes >= self.required && (self.limit == 0 || bytes <= self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_capacities_are_refused() {
        for (required, limit) in [(-1, 0), (0, -1), (2, 1), (i64::MIN, 0)] {
            assert!(matches!(CapacityRange::new(required, limit), Err(Error::Capacity { .. })), "{required} {limit}");
        }
    }

    #[test]
    fn an_existing_volume_fits_within_the_range() {
        let range = CapacityRange::new(10, 20).expect("possible");
        assert_eq!(range.chosen(), 10);
        assert!(range.fits(10) && range.fits(20) && !range.fits(9) && !range.fits(21) && !range.fits(0));
        let any = CapacityRange::default();
        assert!(any.fits(0) && any.fits(5) && any.chosen() == 0);
        assert_eq!(CapacityRange::new(0, 7).expect("possible").chosen(), 7);
    }
}
