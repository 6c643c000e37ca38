//! Versions of clients and how they compare (format.md §1.1).

use std::cmp::Ordering;
use std::str::FromStr;

use stead_base::ParseError;

/// `major[.minor[.patch]][-pre][+build]`; the build is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    pre: String,
}

impl FromStr for Version {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError { value: text.to_owned(), expected: "a version such as 1.4.0 or 1.4.0-beta1" };
        let version = text.split_once('+').map_or(text, |(version, _build)| version);
        let (release, pre) = version.split_once('-').unwrap_or((version, ""));
        let parts: Vec<_> = release.split('.').collect();
        if parts.len() > 3 {
            return Err(wrong());
        }
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(parts) {
            *number = part.parse().map_err(|_not_a_number| wrong())?;
        }
        Ok(Self { numbers, pre: pre.to_owned() })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        // A release is newer than any of its pre-releases.
        let rank = |version: &Self| version.pre.is_empty();
        self.numbers.cmp(&other.numbers).then(rank(self).cmp(&rank(other))).then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
