//! The body of a command, read from its front.

use stead_base::{Errno, Ino};

use crate::errno::Result;

/// What is left of a body; numbers are big-endian.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a>(pub(super) &'a [u8]);

impl<'a> Request<'a> {
    /// The next `length` bytes.
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_be_bytes)
    }

    /// A byte that older clients do not send.
    pub(super) fn u8_or(&mut self, missing: u8) -> u8 {
        self.u8().unwrap_or(missing)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn ino(&mut self) -> Result<Ino> {
        self.array().map(u64::from_be_bytes).map(Ino)
    }

    /// A name behind its length.
    pub(super) fn name(&mut self) -> Result<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(length.into())
    }
}
