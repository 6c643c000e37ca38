//! How fast a mounted directory is: large files and small files, written, read and looked at by several threads.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::progress::{Meter, Progress, Unit};

/// Where the files lie below the directory that is measured.
const PLACE: &str = "__stead_benchmark_";

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory, mounted or not.
    pub directory: PathBuf,
    /// Bytes of one write or read of a large file.
    pub block: usize,
    /// Bytes of the large file of each thread; 0 = none.
    pub big: u64,
    /// Bytes of each small file.
    pub small: usize,
    /// Small files of each thread; 0 = none.
    pub count: u32,
    /// Threads.
    pub threads: u32,
}

/// What came out for one kind of work.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Measured {
    /// What was done.
    pub item: &'static str,
    /// How much of it in a second.
    pub value: f64,
    /// MiB/s or files/s.
    pub unit: &'static str,
    /// Seconds for one file, as a thread sees it.
    pub cost: f64,
}

/// Measures; what was written is removed again.
///
/// # Errors
/// A directory that cannot be written, or a file that reads differently than it was written.
pub fn run(options: &Options, progress: &dyn Progress) -> Result<Vec<Measured>> {
    let place = options.directory.join(format!("{PLACE}{}", std::process::id()));
    let failed = |error| Error::Io { what: place.display().to_string(), error };
    fs::create_dir(&place).map_err(failed)?;
    let measured = measure(options, &place, progress);
    let removed = fs::remove_dir_all(&place).map_err(failed);
    let measured = measured?;
    removed.map(|()| measured)
}

fn measure(options: &Options, place: &Path, progress: &dyn Progress) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    if options.big > 0 {
        let total = options.big * u64::from(options.threads);
        let big = |thread: u32| place.join(format!("big.{thread}"));
        let mib = total as f64 / f64::from(1 << 20);
        let mut phase = |item, work: &(dyn Fn(u32, &dyn Meter) -> std::io::Result<()> + Sync)| {
            let meter = progress.part(item, Unit::Bytes, Some(total));
            let took = together(options.threads, |thread| work(thread, &*meter))?;
            measured.push(outcome(item, mib, "MiB/s", took, 1));
            Ok::<_, Error>(())
        };
        phase("Write big file", &|thread, meter| write(&big(thread), options.big, options.block, meter))?;
        phase("Read big file", &|thread, meter| read(&big(thread), options.big, options.block, meter))?;
    }
    if options.count > 0 {
        let total = u64::from(options.count) * u64::from(options.threads);
        let small = |thread: u32, number: u32| place.join(format!("small.{thread}.{number}"));
        let size = options.small as u64;
        let mut phase = |item, work: &(dyn Fn(&Path) -> std::io::Result<()> + Sync)| {
            let meter = progress.part(item, Unit::Items, Some(total));
            let took = together(options.threads, |thread| {
                (0..options.count).try_for_each(|number| {
                    work(&small(thread, number))?;
                    meter.add(1);
                    Ok(())
                })
            })?;
            measured.push(outcome(item, total as f64, "files/s", took, options.count));
            Ok::<_, Error>(())
        };
        phase("Write small file", &|path| write(path, size, options.small, &crate::Quiet))?;
        phase("Read small file", &|path| read(path, size, options.small, &crate::Quiet))?;
        phase("Stat file", &|path| fs::metadata(path).map(drop))?;
    }
    Ok(measured)
}

fn outcome(item: &'static str, amount: f64, unit: &'static str, took: Duration, files: u32) -> Measured {
    let seconds = took.as_secs_f64().max(1e-9);
    Measured { item, value: amount / seconds, unit, cost: seconds / f64::from(files) }
}

/// Runs `work` on all threads; the time until the last one is done.
fn together(threads: u32, work: impl Fn(u32) -> std::io::Result<()> + Sync) -> Result<Duration> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn({
                    let work = &work;
                    move || work(thread)
                })
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
    })
    .map_err(|error| Error::Io { what: "benchmark".to_owned(), error })?;
    Ok(began.elapsed())
}

/// The byte at an offset: no two neighbouring blocks are alike, and nothing compresses to nothing.
fn fill(buffer: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in buffer.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

fn write(path: &Path, size: u64, block: usize, meter: &dyn Meter) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let mut buffer = vec![0; block];
    fill(&mut buffer, size);
    let mut left = size;
    while left > 0 {
        let now = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&buffer[..now])?;
        left -= now as u64;
        meter.add(now as u64);
    }
    file.sync_all()
}

fn read(path: &Path, size: u64, block: usize, meter: &dyn Meter) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    // What the kernel has kept would be measured otherwise.
    posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut expected = vec![0; block];
    fill(&mut expected, size);
    let (mut buffer, mut left) = (vec![0; block], size);
    while left > 0 {
        let now = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..now])?;
        if buffer[..now] != expected[..now] {
            return Err(std::io::Error::other(format!("{} reads differently than it was written", path.display())));
        }
        left -= now as u64;
        meter.add(now as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().to_owned();
        let options = Options { directory, block: 4096, big: 100_000, small: 1000, count: 3, threads: 2 };
        let measured = run(&options, &crate::Quiet).unwrap();
        let items: Vec<&str> = measured.iter().map(|one| one.item).collect();
        assert_eq!(items, ["Write big file", "Read big file", "Write small file", "Read small file", "Stat file"]);
        assert!(measured.iter().all(|one| one.value > 0.0 && one.cost > 0.0), "{measured:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_byte_is_no_good_result() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, 5000, 4096, &crate::Quiet).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[4500] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = read(&path, 5000, 4096, &crate::Quiet).unwrap_err().to_string();
        assert!(error.contains("reads differently"), "{error}");
    }
}
