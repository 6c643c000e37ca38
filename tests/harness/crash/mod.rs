//! A load that knows what it was promised, for a worker that is killed under it.
//!
//! Each writer keeps a ledger of what the file system acknowledged. A file counts when its fsync or close returned, a
//! name when mkdir, rename or unlink returned. After the crash the ledger is held against the next mount.

mod ledger;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Result, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FallocateFlags, copy_file_range, fallocate};

pub use ledger::Ledger;
use ledger::{Acknowledged, BLOCK, Blocks};

use crate::pattern::{self, mix};
use crate::process::run;
use crate::tools;

/// Blocks of a file that is written over in place: more small writes than a chunk may have slices before it is compacted.
const OVERWRITES: u64 = 160;
/// How long a clone of a few files may take while the engine dies and comes back.
const CLONE_LIMIT: Duration = Duration::from_secs(60);

/// Writes by `writers` threads below `root` until something fails or `stop` is set; gives each one's ledger.
pub fn write_until(root: &Path, writers: u64, seed: u64, stop: &AtomicBool) -> Vec<Ledger> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|n| {
                scope.spawn(move || {
                    let dir = root.join(format!("writer-{seed}-{n}"));
                    let ledger = Ledger { root: dir.clone(), ..Ledger::default() };
                    let mut writer = Writer { dir, seed: mix(seed ^ mix(n)), ledger };
                    // The error is the crash; what came before it counts.
                    let ended = writer.work(stop);
                    writer.ledger.ended = ended.err().map(|error| error.to_string());
                    writer.ledger
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a writer ends")).collect()
    })
}

struct Writer {
    dir: PathBuf,
    seed: u64,
    ledger: Ledger,
}

impl Writer {
    fn work(&mut self, stop: &AtomicBool) -> Result<()> {
        fs::create_dir(&self.dir)?;
        self.ledger.dirs.push(self.dir.clone());
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let path = self.dir.join(format!("file-{number}"));
            let file = Acknowledged::new(path, mix(self.seed + number), size_of(self.seed + number));
            // Each kind once early on, then at random, so that every path is met soon and in any order.
            let kind = if number <= KINDS { number - 1 } else { mix(number ^ self.seed) % KINDS };
            self.one(kind, number, file, stop)?;
        }
        Ok(())
    }

    fn one(&mut self, kind: u64, number: u64, file: Acknowledged, stop: &AtomicBool) -> Result<()> {
        match kind {
            0 => self.closed(file),
            1 => self.in_new_directory(number, &file),
            2 => self.unlinked(&file),
            3 => self.growing(file),
            4 => self.renamed(file),
            5 => self.replaced(file),
            6 => self.unlinked_while_open(&file),
            7 => self.truncated(file),
            8 => self.copied(&file),
            9 => self.linked(file),
            10 => self.overwritten(&file.path, number, stop),
            11 => self.cloned(&file),
            _ => self.emptied_directory(&file),
        }
    }

    fn closed(&mut self, file: Acknowledged) -> Result<()> {
        file.write_new()?;
        self.ledger.files.push(file);
        Ok(())
    }

    fn renamed(&mut self, mut file: Acknowledged) -> Result<()> {
        file.write_new()?;
        let target = renamed(&file.path);
        fs::rename(&file.path, &target)?;
        self.ledger.gone.push(std::mem::replace(&mut file.path, target));
        self.ledger.files.push(file);
        Ok(())
    }

    fn in_new_directory(&mut self, number: u64, file: &Acknowledged) -> Result<()> {
        let below = self.dir.join(format!("dir-{number}"));
        fs::create_dir(&below)?;
        self.ledger.dirs.push(below.clone());
        self.closed(Acknowledged { path: below.join("inner"), ..file.clone() })
    }

    fn emptied_directory(&mut self, file: &Acknowledged) -> Result<()> {
        fs::create_dir(&file.path)?;
        Acknowledged { path: file.path.join("inner"), ..file.clone() }.write_new()?;
        fs::remove_file(file.path.join("inner"))?;
        fs::remove_dir(&file.path)?;
        self.ledger.gone.push(file.path.clone());
        Ok(())
    }

    fn unlinked(&mut self, file: &Acknowledged) -> Result<()> {
        file.write_new()?;
        fs::remove_file(&file.path)?;
        self.ledger.gone.push(file.path.clone());
        Ok(())
    }

    /// An open file without a name keeps its content.
    fn unlinked_while_open(&mut self, file: &Acknowledged) -> Result<()> {
        let mut open = OpenOptions::new().read(true).write(true).create_new(true).open(&file.path)?;
        pattern::write(&mut open, file.seed, file.size, 32 << 10)?;
        open.sync_all()?;
        fs::remove_file(&file.path)?;
        self.ledger.gone.push(file.path.clone());
        let mut content = Vec::new();
        open.rewind()?;
        open.read_to_end(&mut content)?;
        let size = usize::try_from(file.size).expect("small");
        if content != pattern::bytes(file.seed, size) {
            self.ledger.wrong.push(format!("{}: other content when unlinked", file.path.display()));
        }
        close_checked(open)
    }

    /// A new file takes the name of an old one, as editors save: always one of the two has it.
    fn replaced(&mut self, old: Acknowledged) -> Result<()> {
        old.write_new()?;
        let new = Acknowledged::new(renamed(&old.path), mix(old.seed), old.size / 2 + 1);
        new.write_new()?;
        let instead = Acknowledged { path: old.path.clone(), ..new.clone() };
        let index = self.ledger.files.len();
        self.ledger.files.push(Acknowledged { or: Some((instead.seed, instead.size)), ..old });
        fs::rename(&new.path, &instead.path)?;
        self.ledger.files[index] = instead;
        Ok(())
    }

    /// Each fsync acknowledges what has been written so far; the file stays open and grows on. Content after the last
    /// acknowledged byte may or may not be there.
    fn growing(&mut self, file: Acknowledged) -> Result<()> {
        let mut open = File::create_new(&file.path)?;
        let index = self.ledger.files.len();
        self.ledger.files.push(Acknowledged { size: 0, may_be_longer: true, ..file.clone() });
        for step in 1..=5_u64 {
            let part = 40_000;
            let mut buffer = vec![0; 40_000];
            pattern::fill(file.seed, (step - 1) * part, &mut buffer);
            open.write_all(&buffer)?;
            open.sync_all()?;
            self.ledger.files[index].size = step * part;
        }
        close_checked(open)?;
        self.ledger.files[index].may_be_longer = false;
        Ok(())
    }

    fn truncated(&mut self, file: Acknowledged) -> Result<()> {
        file.write_new()?;
        let cut = file.size / 3;
        let index = self.ledger.files.len();
        self.ledger.files.push(Acknowledged { or: Some((file.seed, cut)), ..file.clone() });
        let open = OpenOptions::new().write(true).open(&file.path)?;
        open.set_len(cut)?;
        open.sync_all()?;
        self.ledger.files[index] = Acknowledged { size: cut, ..file };
        close_checked(open)
    }

    fn copied(&mut self, file: &Acknowledged) -> Result<()> {
        self.closed(file.clone())?;
        let (source, target) = (File::open(&file.path)?, File::create_new(renamed(&file.path))?);
        let mut left = usize::try_from(file.size).expect("small");
        while left > 0 {
            match copy_file_range(&source, None, &target, None, left)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                copied => left -= copied,
            }
        }
        target.sync_all()?;
        self.ledger.files.push(Acknowledged { path: renamed(&file.path), ..file.clone() });
        close_checked(target)
    }

    fn linked(&mut self, file: Acknowledged) -> Result<()> {
        file.write_new()?;
        let twin = renamed(&file.path);
        fs::hard_link(&file.path, &twin)?;
        self.ledger.files.push(Acknowledged { path: twin, ..file.clone() });
        self.ledger.files.push(file);
        Ok(())
    }

    /// A clone of a tree is there as a whole once the command has ended.
    fn cloned(&mut self, file: &Acknowledged) -> Result<()> {
        let (tree, twin) = (&file.path, renamed(&file.path));
        fs::create_dir_all(tree.join("below"))?;
        let inside = ["one", "below/two", "below/three"];
        for name in inside {
            self.closed(Acknowledged { path: tree.join(name), ..file.clone() })?;
        }
        let mut command = Command::new(tools::stead());
        let output = run(command.arg("clone").arg(tree).arg(&twin), CLONE_LIMIT);
        if output.code != Some(0) {
            return Err(io::Error::other(output.text()));
        }
        let cloned = inside.map(|name| Acknowledged { path: twin.join(name), ..file.clone() });
        self.ledger.files.extend(cloned);
        Ok(())
    }

    /// Many small writes into one chunk, some of them holes, each acknowledged by fdatasync.
    fn overwritten(&mut self, path: &Path, number: u64, stop: &AtomicBool) -> Result<()> {
        let open = OpenOptions::new().write(true).create_new(true).open(path)?;
        let index = self.ledger.blocks.len();
        self.ledger.blocks.push(Blocks::new(path.to_owned()));
        for step in 0..OVERWRITES {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let seed = mix(number ^ mix(self.seed ^ step));
            let block = seed % Blocks::COUNT;
            let content = if seed.is_multiple_of(16) { None } else { Some(seed) };
            self.ledger.blocks[index].pending = Some((block, content));
            write_block(&open, block, content)?;
            open.sync_data()?;
            self.ledger.blocks[index].acknowledge();
        }
        close_checked(open)
    }
}

const KINDS: u64 = 13;

fn write_block(file: &File, block: u64, seed: Option<u64>) -> Result<()> {
    let offset = block * BLOCK as u64;
    match seed {
        Some(seed) => file.write_all_at(&pattern::bytes(seed, BLOCK), offset),
        None => Ok(fallocate(file, FallocateFlags::ZERO_RANGE, offset, BLOCK as u64)?),
    }
}

fn renamed(path: &Path) -> PathBuf {
    path.with_file_name(format!("{}-renamed", path.file_name().expect("a name").display()))
}

/// Mostly small, sometimes some blocks.
fn size_of(number: u64) -> u64 {
    let random = mix(number);
    if random.is_multiple_of(16) { random % (9 << 20) } else { random % 200_000 }
}

impl Acknowledged {
    /// Writes the whole file and closes it.
    fn write_new(&self) -> Result<()> {
        let mut open = File::create_new(&self.path)?;
        pattern::write(&mut open, self.seed, self.size, 32 << 10)?;
        close_checked(open)
    }
}

/// `close(2)` with its error, which dropping a `File` hides.
fn close_checked(file: File) -> Result<()> {
    nix::unistd::close(file).map_err(Into::into)
}
