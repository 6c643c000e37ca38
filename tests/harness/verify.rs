//! What a pod does all the time, checked: writes with fsync, random reads, names that come and go.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::pattern::{self, mix};
use crate::process::pause;

const BLOCK: usize = 16 << 10;
const BLOCKS: u64 = 64;
/// Between two operations of a thread, so that others have the processors too.
const PAUSE: Duration = Duration::from_millis(1);

/// What came of a load.
#[derive(Debug, Default)]
pub struct Report {
    /// How many were done.
    pub operations: u64,
    /// What went wrong.
    pub faults: Vec<String>,
    /// Writes that were told to be lost.
    pub lost: u64,
    /// The longest that one operation took.
    pub longest: Duration,
}

impl Report {
    fn timed<T>(&mut self, what: &str, work: impl FnOnce() -> io::Result<T>) -> Option<T> {
        let began = Instant::now();
        let result = work();
        self.longest = self.longest.max(began.elapsed());
        self.operations += 1;
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults.push(format!("{what}: {error}"));
                None
            }
        }
    }

    fn with(mut self, other: Self) -> Self {
        self.operations += other.operations;
        self.faults.extend(other.faults);
        self.lost += other.lost;
        self.longest = self.longest.max(other.longest);
        self
    }
}

/// Threads that work until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Report>>,
}

impl Load {
    /// Starts it in a new directory.
    pub fn start(root: &Path, name: &str) -> Self {
        let dir = root.join(name);
        fs::create_dir(&dir).expect("a new directory");
        let stop = Arc::new(AtomicBool::new(false));
        let kinds: [fn(&Path, &AtomicBool) -> Report; 3] = [write, read, churn];
        let threads = kinds.into_iter().map(|work| {
            let (dir, stop) = (dir.clone(), Arc::clone(&stop));
            std::thread::spawn(move || work(&dir, &stop))
        });
        Self { stop: Arc::clone(&stop), threads: threads.collect() }
    }

    /// Stops it.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let reports = self.threads.into_iter().map(|thread| thread.join().expect("a load ends"));
        reports.fold(Report::default(), Report::with)
    }
}

fn working(stop: &AtomicBool, report: &Report) -> bool {
    // One fault is enough to know.
    !stop.load(Ordering::Relaxed) && report.faults.len() < 5
}

/// What a block may hold.
#[derive(Clone, Debug, Default)]
struct Block {
    /// What was made durable last; `None` is zeros.
    durable: Option<u64>,
    /// What was written since, and told to be lost.
    perhaps: Vec<u64>,
}

impl Block {
    fn may_be(&self, found: &[u8]) -> bool {
        let is = |seed: &u64| found == pattern::bytes(*seed, BLOCK);
        self.durable.as_ref().map_or_else(|| found.iter().all(|&byte| byte == 0), is) || self.perhaps.iter().any(is)
    }
}

/// Writes blocks, each made durable, and checks all of them at the end. A block whose loss was told may be either.
fn write(dir: &Path, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let path = dir.join("written");
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a new file");
    file.set_len(BLOCKS * BLOCK as u64).and_then(|()| file.sync_all()).expect("all blocks are zeros");
    let mut blocks = vec![Block::default(); usize::try_from(BLOCKS).expect("few")];
    let mut step = 0;
    while working(stop, &report) {
        step += 1;
        let seed = mix(step);
        let number = seed % BLOCKS;
        let began = Instant::now();
        let written = file.write_all_at(&pattern::bytes(seed, BLOCK), number * BLOCK as u64);
        // Also after a write that was refused: it says what is lost, once.
        let durable = written.and(file.sync_data());
        report.longest = report.longest.max(began.elapsed());
        report.operations += 2;
        let block = &mut blocks[usize::try_from(number).expect("few")];
        match durable {
            Ok(()) => *block = Block { durable: Some(seed), perhaps: Vec::new() },
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
                block.perhaps.push(seed);
                report.lost += 1;
            }
            Err(error) => report.faults.push(format!("write and fsync: {error}")),
        }
        pause(PAUSE);
    }
    report.faults.extend(wrong_blocks(&file, &blocks));
    report
}

fn wrong_blocks(file: &File, blocks: &[Block]) -> Vec<String> {
    let mut found = vec![0; BLOCK];
    let mut wrong = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        match file.read_exact_at(&mut found, (number * BLOCK) as u64) {
            Ok(()) if block.may_be(&found) => {}
            Ok(()) => wrong.push(format!("block {number} is not what was made durable: {block:?}")),
            Err(error) => wrong.push(format!("block {number}: {error}")),
        }
    }
    wrong
}

/// Reads at random places of a file that does not change.
fn read(dir: &Path, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let path = dir.join("read");
    let size = BLOCKS * BLOCK as u64;
    let made = File::create_new(&path).and_then(|mut file| {
        pattern::write(&mut file, 7, size, BLOCK)?;
        file.sync_all()
    });
    made.expect("a new file");
    let file = File::open(&path).expect("there");
    let (mut found, mut wanted) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut step = 0;
    while working(stop, &report) {
        step += 1;
        let offset = mix(step) % BLOCKS * BLOCK as u64;
        // Otherwise the kernel alone would answer.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
        if report.timed("read", || file.read_exact_at(&mut found, offset)).is_some() {
            pattern::fill(7, offset, &mut wanted);
            if found != wanted {
                report.faults.push(format!("wrong bytes at {offset}"));
            }
        }
        pause(PAUSE);
    }
    report
}

/// Makes, moves, links and removes names. Each is there afterwards, or is not.
fn churn(dir: &Path, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let mut step = 0;
    while working(stop, &report) {
        step += 1;
        let name = |what: &str| -> PathBuf { dir.join(format!("{what}-{step}")) };
        report.timed("mkdir", || fs::create_dir(name("dir")));
        report.timed("create", || File::create_new(name("file")).map(drop));
        report.timed("link", || fs::hard_link(name("file"), name("link")));
        report.timed("rename", || fs::rename(name("file"), name("dir").join("moved")));
        report.timed("symlink", || std::os::unix::fs::symlink("anywhere", name("symlink")));
        report.timed("unlink", || fs::remove_file(name("link")));
        report.timed("unlink a symbolic link", || fs::remove_file(name("symlink")));
        report.timed("list", || {
            let names: Vec<_> = fs::read_dir(name("dir"))?.collect::<io::Result<_>>()?;
            if names.len() == 1 { Ok(()) } else { Err(io::Error::other(format!("{names:?}"))) }
        });
        report.timed("unlink what was moved", || fs::remove_file(name("dir").join("moved")));
        report.timed("rmdir", || fs::remove_dir(name("dir")));
        pause(PAUSE);
    }
    report
}
