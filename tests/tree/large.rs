//! One directory with a great many entries: listed in bounded time and memory, also while it changes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{RawDir, SeekFrom, seek};
use serde_json::{Value, json};
use stead_tests::process::must;
use stead_tests::{Client, Engine, Mount, Redis, TempVolume, tools};

const LIMIT: Duration = Duration::from_secs(600);
/// Entries that are added and removed during a listing, each.
const CHANGES: usize = 500;
/// What an entry may cost an open directory, the table that finds repeated names included, and a mount besides, in bytes.
const ENTRY: u64 = 100;
const BESIDES: u64 = 32 << 20;

/// `STEAD_TEST_ENTRIES` of them; a million is worth a look.
fn entries() -> usize {
    usize::try_from(tools::number("STEAD_TEST_ENTRIES", 200_000)).expect("it fits")
}

#[test]
fn a_large_directory_on_redis() {
    let redis = Redis::start();
    large(Engine::Redis, &redis.url(2));
}

#[test]
fn a_large_directory_on_sqlite() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    large(Engine::Sqlite, &format!("sqlite3://{}", dir.path().join("large.db").display()));
}

fn large(engine: Engine, url: &str) {
    let entries = entries();
    let source = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let begun = Instant::now();
    let dump = generate(&source, entries);
    must(Command::new(tools::stead()).args(["load", url]).arg(&dump), LIMIT);
    fs::remove_file(dump).expect("removed");
    println!("figure: {engine:?}: {entries} entries loaded in {:.1} s", begun.elapsed().as_secs_f64());
    let volume = TempVolume::existing("tested", url);
    let mount = Mount::start(Client::Stead, &volume, "large", &[]);
    let dir = mount.path().join("large");
    listed_by_ls(engine, &mount, &dir, entries);
    listed_while_it_changes(engine, &mount, &dir, entries);
    mount.unmount();
}

fn name(number: usize) -> String {
    format!("an-entry-of-many-{number:07}")
}

/// A dump of the volume with a directory `large`: of the volume's own dump, with one more tree.
fn generate(volume: &TempVolume, entries: usize) -> PathBuf {
    const HERE: &str = "the entries";
    let mut dump: Value =
        serde_json::from_str(&must(Command::new(tools::stead()).args(["dump", &volume.url]), LIMIT)).expect("JSON");
    let attr = |inode: usize, kind: &str| json!({"inode": inode, "type": kind, "mode": 0o755, "nlink": 1, "length": 0});
    dump["FSTree"]["entries"] = json!({"large": {"attr": attr(2, "directory"), "entries": HERE}});
    let text = dump.to_string();
    let (before, after) = text.split_once(&format!("\"{HERE}\"")).expect("it is there");
    let path = volume.path().join("large.json");
    let mut file = BufWriter::new(File::create(&path).expect("made"));
    write!(file, "{before}{{").expect("written");
    for number in 0..entries {
        let comma = if number > 0 { "," } else { "" };
        write!(file, "{comma}\n\"{}\":{{\"attr\":{}}}", name(number), attr(number + 3, "regular")).expect("written");
    }
    write!(file, "}}{after}").expect("written");
    file.flush().expect("written");
    path
}

fn listed_by_ls(engine: Engine, mount: &Mount, dir: &Path, entries: usize) {
    let (before, begun) = (resident(mount, "VmRSS"), Instant::now());
    let counted = must(Command::new("sh").args(["-c", "ls -U \"$0\" | wc -l"]).arg(dir), LIMIT);
    let took = begun.elapsed();
    assert_eq!(counted.trim(), entries.to_string());
    let grown = resident(mount, "VmHWM").saturating_sub(before);
    println!("figure: {engine:?}: ls -U of {entries}: {:.1} s, at most {} MB more", took.as_secs_f64(), grown >> 20);
    let per_second = entries as f64 / took.as_secs_f64();
    assert!(per_second > 20_000.0, "{per_second:.0} entries per second");
    assert!(grown < entries as u64 * ENTRY + BESIDES, "a listing took {grown} bytes");
}

fn listed_while_it_changes(engine: Engine, mount: &Mount, dir: &Path, entries: usize) {
    let open = File::open(dir).expect("opened");
    let early = list(&open, 0, entries / 10);
    let (removed, added): (Vec<_>, Vec<_>) =
        (0..CHANGES).map(|n| (name(n * (entries / CHANGES)), format!("added-{n}"))).unzip();
    for (old, new) in removed.iter().zip(&added) {
        fs::remove_file(dir.join(old)).expect("removed");
        File::create(dir.join(new)).expect("made");
    }
    let begun = Instant::now();
    let rest = list(&open, early.last().expect("something").next, usize::MAX);
    println!(
        "figure: {engine:?}: the other {} entries in {:.1} s; the mount has {} MB with the directory open",
        rest.len(),
        begun.elapsed().as_secs_f64(),
        resident(mount, "VmRSS") >> 20,
    );
    let mut times: HashMap<&str, u32> = HashMap::with_capacity(entries);
    early.iter().chain(&rest).for_each(|seen| *times.entry(&seen.name).or_default() += 1);
    for number in 0..entries {
        let name = name(number);
        let seen = times.get(name.as_str()).copied().unwrap_or_default();
        assert!(seen == 1 || seen == 0 && removed.contains(&name), "{name} was shown {seen} times");
    }
    assert!(added.iter().all(|name| times.get(name.as_str()).copied().unwrap_or_default() <= 1), "shown twice");

    for place in [0, 7, early.len() / 2, early.len() - 2] {
        let again = list(&open, early[place].next, 1);
        let expected = &early[place + 1..];
        // One that is gone by now is left out.
        let found = expected.iter().find(|seen| !removed.contains(&seen.name)).expect("not all are gone");
        let first = again.iter().find(|seen| !removed.contains(&seen.name)).expect("something");
        assert_eq!(first.name, found.name, "behind place {place}");
    }
    let fresh = list(&open, 0, usize::MAX);
    assert_eq!(fresh.len(), entries, "as many were added as removed");
    assert!(fresh.iter().all(|seen| !removed.contains(&seen.name)), "what is gone is shown after a rewind");
}

/// An entry as getdents(2) shows it.
struct Seen {
    name: String,
    /// Where lseek(2) goes on behind it: what telldir(3) says.
    next: u64,
}

/// At least `enough` entries from a place on, if there are so many; without `.` and `..`.
fn list(dir: &File, from: u64, enough: usize) -> Vec<Seen> {
    seek(dir, SeekFrom::Start(from)).expect("a place that was told");
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let (mut entries, mut seen) = (RawDir::new(dir, &mut buffer), Vec::new());
    while let Some(entry) = entries.next() {
        let entry = entry.expect("listed");
        let name = entry.file_name().to_str().expect("a test's name").to_owned();
        if name != "." && name != ".." {
            seen.push(Seen { name, next: entry.next_entry_cookie() });
        }
        if seen.len() >= enough {
            break;
        }
    }
    seen
}

/// A figure of the serving process' memory (proc(5)), in bytes.
fn resident(mount: &Mount, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.process_ids()[0])).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
