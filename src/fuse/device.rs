//! The connection to the kernel: `/dev/fuse` after it was mounted. One read(2) is one request, one writev(2) one answer.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use stead_base::Errno;
use tracing::{debug, warn};
use zerocopy::IntoBytes as _;

use crate::abi::OutHeader;
use crate::reply::Answer;
use crate::vigil::Vigil;

/// The descriptor.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    /// Told of each request and answer.
    pub(crate) vigil: Vigil,
    /// Nothing is answered any more.
    silent: AtomicBool,
}

/// What there was to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A request of so many bytes.
    Request(usize),
    /// None at present.
    Nothing,
    /// There will be none any more: the file system was unmounted.
    Unmounted,
}

impl Device {
    /// Makes the descriptor, wherever else it is open, one that does not wait.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(Self { file: fd.into(), vigil: Vigil::default(), silent: AtomicBool::new(false) })
    }

    /// From here on nothing is answered: what is open is for another process.
    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::Release);
    }

    /// Puts a request into `buffer`, if there is one.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            let error = match (&self.file).read(buffer) {
                Ok(0) => return Ok(Received::Unmounted),
                Ok(size) => {
                    self.vigil.asked();
                    return Ok(Received::Request(size));
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno) {
                Some(Errno::ENODEV) => return Ok(Received::Unmounted),
                Some(Errno::EAGAIN) => return Ok(Received::Nothing),
                // ENOENT: whoever asked was interrupted before the request was read.
                Some(Errno::ENOENT | Errno::EINTR) => {}
                _ => return Err(error),
            }
        }
    }

    /// Waits on this thread for a request and puts it into `buffer`; how long it is. `None`: the file system was unmounted.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.try_receive(buffer)? {
                Received::Request(size) => return Ok(Some(size)),
                Received::Unmounted => return Ok(None),
                Received::Nothing => match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                },
            }
        }
    }

    /// Answers the request `unique`.
    pub(crate) fn reply(&self, unique: u64, answer: &Answer) {
        if self.silent.load(Ordering::Acquire) {
            return;
        }
        let (error, body) = match answer {
            Ok(body) => (0, body.as_bytes()),
            Err(errno) => (-errno.0, &[][..]),
        };
        match self.send(unique, error, &[body]) {
            Ok(()) => {}
            // Nobody waits for it any more, or nothing is mounted any more.
            Err(error) if matches!(error.raw_os_error().map(Errno), Some(Errno::ENOENT | Errno::ENODEV)) => {
                debug!(unique, %error, "an answer that nobody waits for");
            }
            Err(error) => warn!(unique, %error, "the kernel took no answer"),
        }
    }

    /// One message: an answer, or with `unique` 0 a notice whose code is `error`.
    pub(crate) fn send(&self, unique: u64, error: i32, parts: &[&[u8]]) -> io::Result<()> {
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).map_err(io::Error::other)?;
        let header = OutHeader { len, error, unique };
        let mut slices = [IoSlice::new(&[]); 4];
        slices[0] = IoSlice::new(header.as_bytes());
        let mut count = 1;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            slices[count] = IoSlice::new(part);
            count += 1;
        }
        // The kernel takes a message whole or not at all.
        let sent = (&self.file).write_vectored(&slices[..count]).map(|_whole| ());
        self.vigil.answered();
        sent
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
