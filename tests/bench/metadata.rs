//! Operations on many small files, and what they cost on the engine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use stead_tests::{Client, Mount, Redis};

use crate::table::Table;
use crate::{Side, processor_time, settle};

/// Commands that carry no request of the file system: connections, loading of scripts, this program's own questions.
const NOT_COUNTED: [&str; 9] = ["info", "config", "client", "hello", "ping", "script", "auth", "select", "quit"];
const COUNTED: u64 = 200;

type Step = fn(&Path, u64) -> std::io::Result<()>;

/// Runs each kind of operation `files` times in each of `threads` threads, each thread in a directory of its own.
pub(crate) fn operations(sides: &[Side], threads: u64, files: u64, table: &mut Table) {
    let dirs_of = |side: &Side| -> Vec<PathBuf> {
        let root = side.mount.path().join(format!("threads-{threads}"));
        (0..threads).map(|n| root.join(n.to_string())).collect()
    };
    for side in sides {
        dirs_of(side).iter().for_each(|dir| fs::create_dir_all(dir).expect("made"));
    }
    let steps: [(&str, Step); 8] = [
        ("mkdir", |dir, n| fs::create_dir(dir.join(format!("dir-{n}")))),
        ("create", |dir, n| File::create_new(dir.join(format!("empty-{n}"))).map(drop)),
        ("create + write 4K + close", |dir, n| File::create_new(dir.join(format!("file-{n}")))?.write_all(&[1; 4096])),
        ("stat", |dir, n| fs::metadata(dir.join(format!("file-{n}"))).map(drop)),
        ("open + read 4K + close", read_small),
        ("rename", |dir, n| fs::rename(dir.join(format!("file-{n}")), dir.join(format!("renamed-{n}")))),
        ("unlink", |dir, n| fs::remove_file(dir.join(format!("renamed-{n}")))),
        ("rmdir", |dir, n| fs::remove_dir(dir.join(format!("dir-{n}")))),
    ];
    let before: Vec<f64> = sides.iter().map(|side| processor_time(&side.mount)).collect();
    for (name, step) in steps {
        if name == "rmdir" {
            sides.iter().for_each(|side| list(&dirs_of(side), side.client, table));
        }
        for side in sides {
            settle();
            if name == "stat" {
                drop_kernel_caches();
            }
            let dirs = dirs_of(side);
            let begun = Instant::now();
            thread::scope(|scope| {
                for dir in &dirs {
                    let all = || (0..files).try_for_each(|n| step(dir, n));
                    scope.spawn(move || all().unwrap_or_else(|error| panic!("{name}: {error}")));
                }
            });
            table.add(&label(name, threads), "1/s", side.client, rate(files * threads, begun));
        }
    }
    for (side, before) in sides.iter().zip(before) {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
        let operations = (steps.len() as u64 * files * threads) as f64;
        let each = (processor_time(&side.mount) - before) / operations;
        table.add(&label("processor time of the client per operation", threads), "µs", side.client, each);
    }
}

fn label(name: &str, threads: u64) -> String {
    format!("{name}, {threads} thread{}", if threads == 1 { "" } else { "s" })
}

fn list(dirs: &[PathBuf], client: Client, table: &mut Table) {
    settle();
    drop_kernel_caches();
    let begun = Instant::now();
    let entries: u64 = thread::scope(|scope| {
        let threads: Vec<_> = dirs.iter().map(|dir| scope.spawn(|| list_with_attributes(dir))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a lister ends")).sum()
    });
    table.add(&label("readdir + stat of each", dirs.len() as u64), "entries/s", client, rate(entries, begun));
}

fn list_with_attributes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry"));
    entries.fold(0, |count, entry| count + u64::from(entry.metadata().expect("attributes").is_dir()))
}

fn read_small(dir: &Path, n: u64) -> std::io::Result<()> {
    File::open(dir.join(format!("file-{n}")))?.read_exact(&mut [0; 4096])
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: u64, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Page cache, entries and inodes of the kernel.
pub(crate) fn drop_kernel_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("only root can drop the kernel's caches");
}

/// What an operation costs on Redis, from the server's own statistics: how often it read something from a connection
/// (`total_reads_processed`; a pipelined batch is one read, so with one operation at a time this is the number of round
/// trips), and which commands it ran, those inside scripts and transactions included (`commandstats`).
pub(crate) fn round_trips(mount: &Mount, redis: &Redis, client: Client, table: &mut Table) {
    let dir = mount.path().join("counted");
    fs::create_dir(&dir).expect("made");
    let steps: [(&str, Step); 4] = [
        ("create + close", |dir, n| File::create_new(dir.join(n.to_string())).map(drop)),
        ("mkdir", |dir, n| fs::create_dir(dir.join(format!("dir-{n}")))),
        ("rename", |dir, n| fs::rename(dir.join(n.to_string()), dir.join(format!("renamed-{n}")))),
        ("unlink", |dir, n| fs::remove_file(dir.join(format!("renamed-{n}")))),
    ];
    for (name, step) in steps {
        let before = Served::ask(redis);
        (0..COUNTED).for_each(|n| step(&dir, n).expect("done"));
        let after = Served::ask(redis);
        table.add(&format!("round trips to Redis per {name}"), "", client, per_operation(after.reads - before.reads));
        eprintln!("{client:?}, Redis commands per {name}: {}", after.since(&before));
    }
}

/// What a server has done so far.
struct Served {
    reads: u64,
    commands: BTreeMap<String, u64>,
}

impl Served {
    fn ask(redis: &Redis) -> Self {
        let stats = redis.ask("INFO stats");
        let reads = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:")?.trim().parse().ok());
        let stats = redis.ask("INFO commandstats");
        let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        let counts = lines.filter_map(|(name, rest)| Some((name.to_owned(), rest.split(',').next()?.parse().ok()?)));
        let own = |name: &str| NOT_COUNTED.contains(&name.split('|').next().unwrap_or(name));
        Self { reads: reads.expect("Redis 6.2 or newer"), commands: counts.filter(|(name, _)| !own(name)).collect() }
    }

    /// Each command's calls per operation since an earlier answer; what the background does now and then is left out.
    fn since(&self, before: &Self) -> String {
        let calls = |(name, now): (&String, &u64)| {
            let each = per_operation(now - before.commands.get(name).copied().unwrap_or_default());
            (each > 0.05).then(|| format!("{name} {each:.1}"))
        };
        self.commands.iter().filter_map(calls).collect::<Vec<_>>().join(", ")
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn per_operation(count: u64) -> f64 {
    count as f64 / COUNTED as f64
}
