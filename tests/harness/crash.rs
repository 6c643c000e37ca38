//! A load that knows what it was promised, for a worker that is killed under it.
//!
//! Each writer keeps a ledger of what the file system acknowledged. A file counts when its fsync or close returned, a
//! name when mkdir, rename or unlink returned. After the crash the ledger is held against the next mount.

use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::pattern::{self, mix};

/// A file that was acknowledged: content by seed and size.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    path: PathBuf,
    seed: u64,
    size: u64,
}

/// What one writer was promised.
#[derive(Debug, Default)]
pub struct Ledger {
    files: Vec<Acknowledged>,
    dirs: Vec<PathBuf>,
    gone: Vec<PathBuf>,
}

/// Writes by `writers` threads below `root` until something fails or `stop` is set; gives each one's ledger.
pub fn write_until(root: &Path, writers: u64, seed: u64, stop: &AtomicBool) -> Vec<Ledger> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|n| {
                scope.spawn(move || {
                    let mut ledger = Ledger::default();
                    let dir = root.join(format!("writer-{seed}-{n}"));
                    // The error is the crash; what came before it counts.
                    let _crash = write_files(&dir, mix(seed ^ mix(n)), stop, &mut ledger);
                    ledger
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer ends")).collect()
    })
}

fn write_files(dir: &Path, seed: u64, stop: &AtomicBool, ledger: &mut Ledger) -> Result<()> {
    fs::create_dir(dir)?;
    ledger.dirs.push(dir.to_owned());
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let file = Acknowledged {
            path: dir.join(format!("file-{number}")),
            seed: mix(seed + number),
            size: size_of(seed + number),
        };
        match number % 8 {
            0 => write_renamed(dir, file, ledger)?,
            1 => write_in_new_directory(dir, number, &file, ledger)?,
            2 => write_and_unlink(&file, ledger)?,
            3 => write_growing(file, ledger)?,
            _ => write_closed(file, ledger)?,
        }
    }
    Ok(())
}

/// Mostly small, sometimes some blocks.
fn size_of(number: u64) -> u64 {
    let random = mix(number);
    if random.is_multiple_of(16) { random % (9 << 20) } else { random % 200_000 }
}

fn write_closed(file: Acknowledged, ledger: &mut Ledger) -> Result<()> {
    close_checked(write_open(&file)?)?;
    ledger.files.push(file);
    Ok(())
}

fn write_renamed(dir: &Path, mut file: Acknowledged, ledger: &mut Ledger) -> Result<()> {
    close_checked(write_open(&file)?)?;
    let target = dir.join(format!("{}-renamed", file.path.file_name().expect("a name").display()));
    fs::rename(&file.path, &target)?;
    ledger.gone.push(std::mem::replace(&mut file.path, target));
    ledger.files.push(file);
    Ok(())
}

fn write_in_new_directory(dir: &Path, number: u64, file: &Acknowledged, ledger: &mut Ledger) -> Result<()> {
    let below = dir.join(format!("dir-{number}"));
    fs::create_dir(&below)?;
    ledger.dirs.push(below.clone());
    write_closed(Acknowledged { path: below.join("inner"), ..file.clone() }, ledger)
}

fn write_and_unlink(file: &Acknowledged, ledger: &mut Ledger) -> Result<()> {
    close_checked(write_open(file)?)?;
    fs::remove_file(&file.path)?;
    ledger.gone.push(file.path.clone());
    Ok(())
}

/// Each fsync acknowledges what has been written so far; the file stays open and grows on. Content after the last
/// acknowledged byte may or may not be there, so the file is cut to that size before it is checked.
fn write_growing(file: Acknowledged, ledger: &mut Ledger) -> Result<()> {
    let mut open = File::create_new(&file.path)?;
    let index = ledger.files.len();
    ledger.files.push(Acknowledged { size: 0, ..file.clone() });
    for step in 1..=5_u64 {
        let part = 40_000;
        let mut buffer = vec![0; 40_000];
        pattern::fill(file.seed, (step - 1) * part, &mut buffer);
        std::io::Write::write_all(&mut open, &buffer)?;
        open.sync_all()?;
        ledger.files[index].size = step * part;
    }
    close_checked(open)
}

fn write_open(file: &Acknowledged) -> Result<File> {
    let mut open = File::create_new(&file.path)?;
    pattern::write(&mut open, file.seed, file.size, 32 << 10)?;
    Ok(open)
}

/// `close(2)` with its error, which dropping a `File` hides.
fn close_checked(file: File) -> Result<()> {
    nix::unistd::close(file).map_err(Into::into)
}

impl Ledger {
    /// How many files were acknowledged.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// What is not as it was acknowledged.
    pub fn faults(&self) -> Vec<String> {
        let missing = self.dirs.iter().filter(|dir| !dir.is_dir()).map(|dir| format!("{}: lost", dir.display()));
        let risen = self.gone.iter().filter(|path| path.exists()).map(|path| format!("{}: is back", path.display()));
        let wrong = self.files.iter().filter_map(Acknowledged::fault);
        missing.chain(risen).chain(wrong).collect()
    }
}

impl Acknowledged {
    fn fault(&self) -> Option<String> {
        let longer = fs::metadata(&self.path).is_ok_and(|meta| meta.len() > self.size);
        if longer {
            let cut = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(self.size));
            if let Err(error) = cut {
                return Some(format!("{}: {error}", self.path.display()));
            }
        }
        pattern::check(&self.path, self.seed, self.size)
    }
}
