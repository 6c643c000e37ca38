//! Newtypes for the numbers of the stored format, so that an inode is never taken for a slice.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An inode number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of every volume.
    pub const ROOT: Self = Self(1);
    /// The root of the trash; hourly directories are `TRASH + n`, n = 1, 2, …
    pub const TRASH: Self = Self(0x7FFF_FFFF_1000_0000);
    /// The first number of virtual files such as `.config`; they exist in no metadata engine.
    pub const FIRST_INTERNAL: Self = Self(0x7FFF_FFFF_0000_0000);

    /// The trash root, an hourly directory, or anything numbered like one.
    pub const fn is_trash(self) -> bool {
        self.0 >= Self::TRASH.0
    }

    /// A virtual file, neither stored nor in the trash.
    pub const fn is_internal(self) -> bool {
        self.0 >= Self::FIRST_INTERNAL.0 && self.0 < Self::TRASH.0
    }
}

/// The identifier of a slice: one contiguous, immutable write inside a chunk. 0 stands for zeros.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceId(pub u64);

impl SliceId {
    /// A hole: reads as zeros and has no blocks.
    pub const HOLE: Self = Self(0);

    /// Whether this stands for zeros.
    pub const fn is_hole(self) -> bool {
        self.0 == 0
    }
}

/// The number of a client session. 0 means "no session" (tools, read-only mounts).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl SessionId {
    /// A client without a session.
    pub const NONE: Self = Self(0);
}

macro_rules! decimal {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    )*};
}
decimal!(Ino, SliceId, SessionId);
