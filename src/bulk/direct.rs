//! Files past the page cache (open(2), `O_DIRECT`).
//!
//! Some file systems cannot do it, or only with other multiples than ours; then everything goes through the page cache as
//! usual, and the only difference is in speed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, pread};

/// Addresses, positions and lengths have to be multiples of this. Disks ask for 512 or 4096 (statx(2),
/// `stx_dio_mem_align`).
pub const ALIGNMENT: usize = 4096;

/// For less than this the page cache is faster: it lets the disk do several things at a time.
pub const LARGE: usize = 1 << 20;

/// Writes `data` at the end of a file that was opened for writing and that nobody else has open. What is large and lies at
/// an address that is a multiple of [`ALIGNMENT`] goes straight to the disk (not necessarily out of the disk's own cache,
/// which takes an fsync), but for the last bytes.
///
/// # Errors
/// Those of write(2). The file has any part of the data then.
pub fn write(mut file: &File, data: &[u8]) -> io::Result<()> {
    let tail = data.len() % ALIGNMENT;
    let can_be_direct = data.len() >= LARGE && data.as_ptr().addr().is_multiple_of(ALIGNMENT);
    let mut rest = data;
    if can_be_direct && set_direct(file, true).is_ok() {
        while rest.len() > tail {
            match file.write(&rest[..rest.len() - tail]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if cannot(Errno::from_io_error(&error)) => break,
                Err(error) => return Err(error),
            }
        }
        set_direct(file, false)?;
    }
    file.write_all(rest)
}

/// Reads from the start of a file until `buffer` is full or the file ends: past the page cache if that can be done, unless it
/// is in there already. Returns how much was read. The address and length of `buffer` should be multiples of [`ALIGNMENT`];
/// `file` is used by nobody else.
///
/// # Errors
/// Those of pread(2).
pub fn read(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut direct = !is_cached(file, buffer.len()) && set_direct(file, true).is_ok();
    let mut done = 0;
    while done < buffer.len() {
        match pread(file, &mut buffer[done..], done as u64) {
            Ok(0) => break,
            Ok(read) => {
                done += read;
                // The end of the file lies inside a sector: what may follow is no whole one.
                if direct && !done.is_multiple_of(ALIGNMENT) {
                    set_direct(file, false)?;
                    direct = false;
                }
            }
            Err(Errno::INTR) => {}
            Err(error) if direct && cannot(Some(error)) => {
                set_direct(file, false)?;
                direct = false;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// Whether a file system has found only now that it cannot do it, or not with our multiples.
fn cannot(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno::INVAL | Errno::OPNOTSUPP))
}

fn set_direct(file: &File, direct: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    fcntl_setfl(file, flags)
}

/// Whether the page cache has at least half of the first `len` bytes of a file: then it is faster than a disk. Also when
/// nobody can tell: before Linux 6.5, and where cachestat(2) is forbidden.
#[expect(unsafe_code, reason = "none of our libraries has cachestat(2)")]
fn is_cached(file: &File, len: usize) -> bool {
    const CACHESTAT: libc::c_long = 451;
    let range = [0_u64, len as u64];
    // Pages that are cached, dirty, being written, evicted, evicted lately.
    let mut found = [0_u64; 5];
    // SAFETY: the call reads two u64 and fills five, which is what they are; the descriptor is open as long as `file` is
    // borrowed.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut found, 0_u32) };
    let page = rustix::param::page_size() as u64;
    result != 0 || 2 * found[0] * page >= range[1]
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Read as _;

    use bytes::Bytes;

    use super::*;
    use crate::filled;

    /// Any bytes, none like its neighbours, at an address that is a multiple.
    fn some(len: usize) -> Bytes {
        let fill = |data: &mut [u8]| {
            data.iter_mut().zip((0..=250).cycle()).for_each(|(byte, n)| *byte = n);
            Ok::<(), Infallible>(())
        };
        filled(len.max(LARGE), fill).unwrap().slice(..len)
    }

    #[test]
    fn what_was_written_is_read_whatever_its_length_and_place() {
        for len in [0, 1, ALIGNMENT, LARGE - 1, LARGE, LARGE + 1, LARGE + ALIGNMENT, 3 * LARGE + 517] {
            let data = some(len + 1);
            for start in [0, 1] {
                let written = &data[start..start + len];
                let mut file = tempfile::NamedTempFile::new().unwrap();
                write(file.as_file(), written).unwrap();
                let mut plain = Vec::new();
                file.reopen().unwrap().read_to_end(&mut plain).unwrap();
                assert!(plain == written, "{len} bytes from {start}");
                file.write_all(b"more").unwrap();
                let all = [written, b"more"].concat();
                for room in [ALIGNMENT, LARGE, (len + 4).next_multiple_of(ALIGNMENT), 4 * LARGE] {
                    let found = |buffer: &mut [u8]| {
                        read(&file.reopen().unwrap(), buffer).map(|found| {
                            assert!(
                                buffer[..found] == all[..room.min(len + 4)],
                                "{len} bytes from {start} into {room}"
                            );
                        })
                    };
                    filled(room, found).unwrap();
                }
            }
        }
    }

    #[test]
    fn what_is_in_the_page_cache_is_known() {
        let mut file = tempfile::tempfile().unwrap();
        if is_cached(&file, 1 << 20) {
            // The kernel cannot tell, or does not say.
            return;
        }
        file.write_all(&some(1 << 20)).unwrap();
        assert!(is_cached(&file, 1 << 20) && !is_cached(&file, 4 << 20));
    }
}
