//! Sizes and durations as people write them in options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A value that could not be read: names what was written and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct ParseError {
    /// What was written.
    pub value: String,
    /// What would be right, with an example.
    pub expected: &'static str,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads `4096`, `64K`, `1.5G`, `10MiB`: powers of 1024, and a bare number counts `unit` bytes each
    /// (the options of the Go client have a unit of their own: KiB for block sizes, MiB for cache sizes).
    pub fn parse_with_unit(text: &str, unit: u64) -> Result<Self, ParseError> {
        let bad = || ParseError { value: text.to_owned(), expected: "a size such as 4096, 64K, 300M, 1.5G or 10GiB" };
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(digits);
        let scale = match suffix.trim().to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
            "" if suffix.trim().is_empty() => unit,
            "" if suffix.trim().eq_ignore_ascii_case("b") => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1 << 30,
            "T" => 1 << 40,
            "P" => 1 << 50,
            "E" => 1 << 60,
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(bad);
        }
        let fraction: f64 = number.parse().map_err(|_not_a_number| bad())?;
        #[expect(clippy::cast_precision_loss, reason = "a fraction of a unit is approximate by nature")]
        let bytes = fraction * scale as f64;
        if !bytes.is_finite() || bytes >= 2f64.powi(63) {
            return Err(bad());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in 0 .. 2^63")]
        Ok(Self(bytes as u64))
    }
}

impl FromStr for ByteSize {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse_with_unit(text, 1)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() / 10).min(6);
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let value = self.0 as f64 / 2f64.powi(10 * i32::try_from(power).expect("at most 6"));
        write!(f, "{value:.1} {}", UNITS[power as usize - 1])
    }
}

/// Reads a duration: bare numbers are seconds (fractions allowed), or `100ms`, `5s`, `3m`, `2h`, `1d`.
pub fn parse_duration(text: &str) -> Result<Duration, ParseError> {
    let bad = || ParseError { value: text.to_owned(), expected: "a duration such as 1.5, 100ms, 5s, 3m, 2h or 1d" };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, suffix) = trimmed.split_at(digits);
    let scale = match suffix.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_not_a_number| bad())?;
    Duration::try_from_secs_f64(number * scale).map_err(|_out_of_range| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("4096", 4096), ("64K", 65536), ("1.5G", 3 << 29), ("10MiB", 10 << 20), ("7b", 7)] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(ByteSize::parse_with_unit("300", 1 << 20), Ok(ByteSize(300 << 20)));
        for text in ["", "K", "-1", "1X", "1e400", "99999999999999999999"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_with_one_digit() {
        assert_eq!(ByteSize(1023).to_string(), "1023 B");
        assert_eq!(ByteSize(3 << 29).to_string(), "1.5 GiB");
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_duration("soon").is_err());
    }
}
