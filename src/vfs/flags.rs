//! Inode flags as chattr(1) and lsattr(1) set and show them (ioctl_iflags(2), format.md §7.4).

use std::fmt::Write as _;

use bytes::Bytes;
use stead_base::{Errno, Ino};
use stead_meta::ops::{Caller, SetAttr};
use stead_meta::records::flags;

use crate::Vfs;
use crate::errno::{Result, fail};
use crate::namespace::refuse_virtual;
use crate::operation::Op;

// linux/fs.h; the numbers encode the size of the argument, which is 4 or 8 bytes for either form of the first two.
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
const FS_IOC_GETFLAGS_32: u32 = 0x8004_6601;
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
const FS_IOC_SETFLAGS_32: u32 = 0x4004_6602;
const FS_IOC_FSGETXATTR: u32 = 0x801C_581F;
/// `struct fsxattr`
const FSXATTR_SIZE: usize = 28;

/// (bit for ioctl_iflags(2), stored bit)
const IFLAGS: [(u64, u8); 3] = [(0x1, flags::SKIP_TRASH), (0x10, flags::IMMUTABLE), (0x20, flags::APPEND)];
/// (bit of `fsx_xflags`, stored bit)
const XFLAGS: [(u64, u8); 2] = [(0x8, flags::IMMUTABLE), (0x10, flags::APPEND)];
/// Stored bits that chattr(1) has no say in.
const OTHERS: u8 = !(flags::SKIP_TRASH | flags::IMMUTABLE | flags::APPEND);

fn shown(stored: u8, table: &[(u64, u8)]) -> u64 {
    table.iter().filter(|(_bit, flag)| stored & flag != 0).map(|(bit, _flag)| bit).sum()
}

/// The stored bits for what chattr(1) asks for; `None` if there is one that cannot be stored.
fn stored(asked: u64) -> Option<u8> {
    let known = shown(u8::MAX, &IFLAGS);
    let bits = IFLAGS.iter().filter(|(bit, _flag)| asked & bit != 0).map(|(_bit, flag)| flag);
    (asked & !known == 0).then(|| bits.sum())
}

fn number(input: &[u8]) -> Result<u64> {
    match *input {
        [a, b, c, d] => Ok(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Ok(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => Err(Errno::EINVAL),
    }
}

/// A number in the form of the caller's argument.
fn number_of(value: u64, size: usize) -> Result<Bytes> {
    match (size, u32::try_from(value)) {
        (4, Ok(value)) => Ok(Bytes::copy_from_slice(&value.to_ne_bytes())),
        (8, _) => Ok(Bytes::copy_from_slice(&value.to_ne_bytes())),
        _ => Err(Errno::EINVAL),
    }
}

impl Vfs {
    /// ioctl(2): `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS` and `FS_IOC_FSGETXATTR`, if they are enabled. `input` is the
    /// argument that is read, `out_size` the length of the one that is filled.
    ///
    /// ENOTTY for other commands, ENOTSUP for flags that cannot be stored, EINVAL for arguments of another size.
    pub async fn ioctl(&self, caller: &Caller, ino: Ino, command: u32, input: &[u8], out_size: usize) -> Result<Bytes> {
        let work = async {
            if !self.config.enable_ioctl {
                return Err(Errno::ENOTTY);
            }
            match command {
                FS_IOC_GETFLAGS | FS_IOC_GETFLAGS_32 => number_of(shown(self.flags_of(ino).await?, &IFLAGS), out_size),
                FS_IOC_SETFLAGS | FS_IOC_SETFLAGS_32 => {
                    let asked = stored(number(input)?).ok_or(Errno::ENOTSUP)?;
                    self.set_flags(caller, ino, asked).await?;
                    Ok(Bytes::new())
                }
                FS_IOC_FSGETXATTR if out_size == FSXATTR_SIZE => {
                    let mut filled = number_of(shown(self.flags_of(ino).await?, &XFLAGS), 4)?.to_vec();
                    filled.resize(FSXATTR_SIZE, 0);
                    Ok(filled.into())
                }
                FS_IOC_FSGETXATTR => Err(Errno::EINVAL),
                _ => Err(Errno::ENOTTY),
            }
        };
        self.observed(Op::Ioctl, caller, work, |out, _| {
            let _ = write!(out, "({ino},0x{command:X},{input:?},{out_size})");
        })
        .await
    }

    async fn flags_of(&self, ino: Ino) -> Result<u8> {
        refuse_virtual(ino)?;
        Ok(self.meta.getattr(ino).await.map_err(fail)?.flags)
    }

    /// Only the administrator may: an immutable file that its owner could thaw would be none.
    async fn set_flags(&self, caller: &Caller, ino: Ino, asked: u8) -> Result<()> {
        let flags = self.flags_of(ino).await? & OTHERS | asked;
        self.setattr(caller, ino, SetAttr { flags: Some(flags), ..SetAttr::default() }, None).await?;
        Ok(())
    }
}
