//! Measures: the same work by this client and by the Go client, side by side in one run. Not a test: it asserts nothing.
//!
//! Every row is one kind of operation; each client works on a fresh volume of its own. `README.md` says how to repeat it.

mod data;
mod disk;
mod metadata;
mod table;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use stead_tests::proxy::SlowLink;
use stead_tests::volume::Setup;
use stead_tests::{Client, Engine, Mount, TempVolume, pause, tools};

use disk::FreshDisk;
use table::Table;

/// Round trip between client and Redis in the second part.
const LATENCY: Duration = Duration::from_millis(2);

/// What a client has to do once after its start is done by then.
const STARTED: Duration = Duration::from_secs(1);

/// How much work. `BENCH_FILES`, `BENCH_MIB` and `BENCH_ROUNDS` scale it; `BENCH_PARTS` names some of the tables
/// (`redis`, `sqlite`, `far`).
#[derive(Clone, Copy)]
struct Scale {
    /// Files per thread.
    files: u64,
    /// Size of the large file.
    mib: u64,
    /// How often everything is repeated; a figure is the median.
    rounds: u64,
}

fn main() {
    let scale = Scale {
        files: tools::number("BENCH_FILES", 1000),
        mib: tools::number("BENCH_MIB", 512),
        rounds: tools::number("BENCH_ROUNDS", 3),
    };
    let Scale { files, mib, rounds } = scale;
    println!("{files} files per thread, large file of {mib} MiB, blocks in a local directory, medians of {rounds}\n");
    println!("A thread on another processor is woken and answers within {:.0} µs\n", answer_time().as_secs_f64() * 1e6);
    let (written, read) = data::disk(mib);
    println!("The disk itself: {written:.0} MB/s written and synced, {read:.0} MB/s read\n");
    let parts = tools::variable("BENCH_PARTS").unwrap_or_else(|| "redis,sqlite,far".to_owned());
    let wanted = |part: &str| parts.split(',').any(|named| named == part);
    for engine in Engine::ALL.into_iter().filter(|engine| wanted(&format!("{engine:?}").to_lowercase())) {
        let mut table = Table::new(&format!("{engine:?}"));
        (0..rounds).for_each(|round| measure(engine, round, scale, &mut table));
        table.print();
    }
    if !wanted("far") {
        return;
    }
    let mut table = Table::new(&format!("Redis, {} ms away", LATENCY.as_millis()));
    (0..rounds).for_each(|round| measure_far_away(round, scale, &mut table));
    table.print();
}

/// A client at work on a volume of its own.
struct Side {
    client: Client,
    volume: TempVolume,
    mount: Mount,
}

impl Side {
    fn start(engine: Engine, client: Client, place: Option<PathBuf>, table: &mut Table) -> Self {
        let volume = TempVolume::format_with(engine, Setup { place, ..Setup::default() }, client, &[]);
        let begun = Instant::now();
        let mount = Mount::start(client, &volume, "bench", &[]);
        table.add("mount until it serves", "ms", client, begun.elapsed().as_secs_f64() * 1000.0);
        Self { client, volume, mount }
    }
}

/// Who begins takes turns, too.
fn clients(round: u64) -> [Client; 2] {
    if round.is_multiple_of(2) { [Client::Go, Client::Stead] } else { [Client::Stead, Client::Go] }
}

/// Lets what the last step left to do end, so that the next one does not pay for it.
fn settle() {
    nix::unistd::sync();
    pause(Duration::from_millis(300));
}

/// Both clients are mounted all the time, and each step is done by one right after the other: so what the machine does
/// meanwhile meets both.
fn measure(engine: Engine, round: u64, scale: Scale, table: &mut Table) {
    for threads in [1, 4] {
        let disk = FreshDisk::make();
        let sides = clients(round).map(|client| Side::start(engine, client, Some(disk.path()), table));
        pause(STARTED);
        metadata::operations(&sides, threads, scale.files, table);
        for side in sides {
            table.add("resident memory, after the small files", "MiB", side.client, resident(&side.mount));
            side.mount.unmount();
        }
    }
    let sides = clients(round).map(|client| Side::start(engine, client, None, table));
    pause(STARTED);
    for side in &sides {
        table.add("resident memory, idle", "MiB", side.client, resident(&side.mount));
    }
    for side in &sides {
        if let Some(redis) = &side.volume.redis {
            metadata::round_trips(&side.mount, redis, side.client, table);
        }
    }
    data::sequential(sides, scale.mib, table);
}

/// What counts there is the number of round trips.
fn measure_far_away(round: u64, scale: Scale, table: &mut Table) {
    let disk = FreshDisk::make();
    let mut links = Vec::new();
    let sides = clients(round).map(|client| {
        let setup = Setup { place: Some(disk.path()), ..Setup::default() };
        let mut volume = TempVolume::format_with(Engine::Redis, setup, client, &[]);
        let redis = volume.redis.as_ref().expect("the engine is Redis");
        let link = SlowLink::start(redis.address(), LATENCY / 2);
        volume.url = format!("redis://{}/1", link.address());
        links.push(link);
        let mount = Mount::start(client, &volume, "far", &[]);
        Side { client, volume, mount }
    });
    pause(STARTED);
    metadata::operations(&sides, 1, scale.files / 4, table);
    sides.into_iter().for_each(|side| side.mount.unmount());
}

/// What every request to a mount costs at least while processors are idle in between: that its process is woken, and
/// that it wakes whoever asked.
fn answer_time() -> Duration {
    const ROUNDS: u32 = 2000;
    let (mut asked, mut ask) = std::io::pipe().expect("a pipe");
    let (mut answered, mut answer) = std::io::pipe().expect("a pipe");
    let pin = |processor| {
        let mut set = CpuSet::new();
        // With one processor there is nothing to tell apart.
        let _same = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(1);
            let mut byte = [0];
            (0..ROUNDS).for_each(|_| {
                asked.read_exact(&mut byte).expect("read");
                answer.write_all(&byte).expect("written");
            });
        });
        let asker = scope.spawn(move || {
            pin(0);
            let begun = Instant::now();
            (0..ROUNDS).for_each(|_| {
                ask.write_all(&[1]).expect("written");
                answered.read_exact(&mut [0]).expect("read");
            });
            begun.elapsed() / ROUNDS
        });
        asker.join().expect("the asker ends")
    })
}

/// Processor time in microseconds that all processes that serve a mount have used so far.
fn processor_time(mount: &Mount) -> f64 {
    // proc_pid_stat(5): after the program's name in parentheses, the 12th and 13th field, in hundredths of a second.
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_name, fields)| fields).unwrap_or_default();
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
    };
    mount.process_ids().into_iter().map(of).sum::<f64>() * 10_000.0
}

/// Memory of all processes that serve a mount.
fn resident(mount: &Mount) -> f64 {
    let of = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default()
    };
    mount.process_ids().into_iter().map(of).sum::<f64>() / 1024.0
}
