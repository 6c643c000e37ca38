//! INIT: what the kernel and we agree on, once per mount.

use std::io;

use serde::{Deserialize, Serialize};
use stead_vfs::Vfs;
use tracing::debug;

use crate::abi::{self, InitExtIn, InitIn, InitOut, init};
use crate::session::FuseConfig;

/// What is asked of the kernel. What it does not know is left out.
///
/// `EXPLICIT_INVAL_DATA` and not `AUTO_INVAL_DATA`: with the latter the kernel drops a file's pages whenever its time of
/// change is another, also after its own writes. We know whose change it was ([`stead_vfs::KernelCache`]).
///
/// Not asked for, and why:
/// * `WRITEBACK_CACHE`: the kernel would keep written data and its own idea of length and times, of which other clients
///   learn nothing, and a full volume would be told at close at best. Our own buffers do the collecting.
/// * `HANDLE_KILLPRIV`: with it, clearing set-id bits on a write or chown would be ours to do, although only the kernel
///   knows the caller's capabilities. It does so by itself through SETATTR, at the cost of a GETATTR where such bits are set.
/// * `SPLICE_*`: data comes from and goes to memory; a pipe in between is one more copy or page move for each request.
/// * `ATOMIC_O_TRUNC`: the kernel would have a file truncated before it has looked whether that program is running
///   (ETXTBSY), and drop its pages under it. Without, a truncating open costs one SETATTR more.
/// * `ASYNC_DIO`, unless the mount asks for it: the kernel then sends the parts of a direct read or write at the same time,
///   but waits for them in a way that no signal ends. A process that reads from a dead store could not even be killed.
/// * ENOSYS for OPEN and OPENDIR: handles carry what an open file needs.
const WANTED: u64 = init::ASYNC_READ
    | init::BIG_WRITES
    | init::EXPLICIT_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::DIRECT_IO_ALLOW_MMAP
    | init::HAS_RESEND;

/// What is asked for where the volume serves it and the mount wants it.
pub(crate) fn wanted_for(vfs: &Vfs, config: &FuseConfig) -> u64 {
    let when = |served, flags| if served { flags } else { 0 };
    // With ACLs the umask counts only where a directory has no default list, which the kernel does not know.
    when(vfs.enable_acl(), init::POSIX_ACL | init::DONT_MASK)
        | when(vfs.enable_locks(), init::POSIX_LOCKS | init::FLOCK_LOCKS)
        | when(vfs.config().enable_ioctl, init::HAS_IOCTL_DIR)
        | when(config.async_dio, init::ASYNC_DIO)
}

/// Linux 5.4; older ones lack much of what is relied on.
const OLDEST_MINOR: u32 = 31;
/// The unit of `max_pages`.
const PAGE: u32 = 4096;
/// Writes of kernels that agree on no number of pages.
const OLD_MAX_WRITE: u32 = 32 * PAGE;

/// What was agreed on. Whoever serves a session after us needs it, since INIT happens once per mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiated {
    /// Protocol 7.minor.
    pub minor: u32,
    /// Capabilities, as `FUSE_INIT` flags: the bits of `flags2` are the upper half.
    pub flags: u64,
    /// Bytes that the kernel reads ahead.
    pub max_readahead: u32,
    /// Largest WRITE in bytes.
    pub max_write: u32,
    /// Requests in the background before the kernel holds back.
    pub max_background: u16,
}

impl Negotiated {
    /// The answer to what the kernel offers; `more_wanted` are capabilities beyond [`WANTED`].
    ///
    /// # Errors
    /// The kernel is too old.
    pub(crate) fn new(offer: &InitIn, more: &InitExtIn, more_wanted: u64, config: &FuseConfig) -> io::Result<Self> {
        let wanted = WANTED | more_wanted;
        if offer.major < abi::KERNEL_VERSION || offer.minor < OLDEST_MINOR {
            let (major, minor) = (offer.major, offer.minor);
            let why =
                format!("the kernel speaks FUSE {major}.{minor}; at least 7.{OLDEST_MINOR} (Linux 5.4) is needed");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let extended = u64::from(offer.flags) & init::INIT_EXT;
        let upper = if extended == 0 { 0 } else { u64::from(more.flags2) << 32 };
        let offered = u64::from(offer.flags) | upper;
        debug!(
            minor = offer.minor,
            offered = format!("{offered:#x}"),
            missing = format!("{:#x}", wanted & !offered),
            "INIT"
        );
        let flags = wanted & offered;
        let bound = if flags & init::MAX_PAGES == 0 { OLD_MAX_WRITE } else { FuseConfig::LARGEST_WRITE };
        Ok(Self {
            minor: offer.minor.min(abi::KERNEL_MINOR_VERSION),
            flags: flags | extended,
            max_readahead: config.max_readahead.min(offer.max_readahead),
            max_write: config.max_write.clamp(PAGE, bound),
            max_background: config.max_background.max(1),
        })
    }

    pub(crate) fn reply(&self) -> InitOut {
        let half = |flags: u64| u32::try_from(flags & u64::from(u32::MAX)).expect("the lower half fits");
        InitOut {
            major: abi::KERNEL_VERSION,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags: half(self.flags),
            max_background: self.max_background,
            // Where the kernel begins to slow down whoever writes back pages.
            congestion_threshold: self.max_background / 4 * 3,
            max_write: self.max_write,
            time_gran: 1,
            max_pages: u16::try_from(self.max_write.div_ceil(PAGE)).unwrap_or(u16::MAX),
            flags2: half(self.flags >> 32),
            ..InitOut::default()
        }
    }

    /// Whether a capability was agreed on.
    #[cfg(test)]
    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(flags: u64) -> (InitIn, InitExtIn) {
        let half = |flags: u64| u32::try_from(flags & 0xFFFF_FFFF).unwrap();
        let init = InitIn { major: 7, minor: 45, max_readahead: 128 << 10, flags: half(flags) };
        (init, InitExtIn { flags2: half(flags >> 32), ..InitExtIn::default() })
    }

    #[test]
    fn what_the_kernel_does_not_offer_is_not_answered() {
        let (init, more) = offer(init::ASYNC_READ | 1 << 16);
        let agreed = Negotiated::new(&init, &more, 0, &FuseConfig::default()).unwrap();
        assert_eq!(agreed.flags, init::ASYNC_READ);
        assert_eq!((agreed.max_readahead, agreed.max_write), (128 << 10, 128 << 10));
        let (init, more) = offer(u64::MAX);
        let config = FuseConfig { max_write: 9 << 20, ..FuseConfig::default() };
        let agreed = Negotiated::new(&init, &more, 0, &config).unwrap();
        assert!(agreed.has(init::HAS_RESEND) && agreed.has(init::INIT_EXT));
        assert_eq!((agreed.reply().max_write, agreed.reply().max_pages), (1 << 20, 256));
    }

    #[test]
    fn a_kernel_that_is_too_old_is_named() {
        let old = InitIn { major: 7, minor: 23, ..InitIn::default() };
        let refused = Negotiated::new(&old, &InitExtIn::default(), 0, &FuseConfig::default()).unwrap_err();
        assert!(refused.to_string().contains("7.23"), "{refused}");
    }

    #[test]
    fn it_survives_being_kept() {
        let (init, more) = offer(u64::MAX);
        let agreed = Negotiated::new(&init, &more, 0, &FuseConfig::default()).unwrap();
        let kept = serde_json::to_string(&agreed).unwrap();
        assert_eq!(serde_json::from_str::<Negotiated>(&kept).unwrap(), agreed);
    }
}
