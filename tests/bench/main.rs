//! Measures: the same work by this client and by the Go client, side by side in one run. Not a test: it asserts nothing.
//!
//! Every row is one kind of operation; each client works on a fresh volume of its own. `README.md` says how to repeat it.

mod data;
mod metadata;
mod table;

use std::time::{Duration, Instant};

use stead_tests::{Client, Engine, Mount, TempVolume, pause, tools};

use table::Table;

/// How much work. `BENCH_FILES` and `BENCH_MIB` scale it.
#[derive(Clone, Copy)]
struct Scale {
    /// Files per thread.
    files: u64,
    /// Size of the large file.
    mib: u64,
}

fn main() {
    let scale = Scale { files: tools::number("BENCH_FILES", 1000), mib: tools::number("BENCH_MIB", 512) };
    println!("{} files per thread, large file of {} MiB, blocks in a local directory\n", scale.files, scale.mib);
    for engine in Engine::ALL {
        let mut table = Table::new(&format!("{engine:?}"));
        for client in [Client::Go, Client::Stead] {
            measure(engine, client, scale, &mut table);
        }
        table.print();
    }
}

fn measure(engine: Engine, client: Client, scale: Scale, table: &mut Table) {
    let volume = TempVolume::format(engine, client, &[]);
    let begun = Instant::now();
    let mount = Mount::start(client, &volume, "bench", &[]);
    table.add("mount until it serves", "ms", client, begun.elapsed().as_secs_f64() * 1000.0);
    pause(Duration::from_secs(1));
    table.add("resident memory, idle", "MiB", client, resident(&mount));
    if let Some(redis) = &volume.redis {
        metadata::round_trips(&mount, redis, client, table);
    }
    for threads in [1, 4] {
        metadata::operations(&mount, threads, scale.files, client, table);
    }
    data::sequential(&volume, mount, scale.mib, client, table);
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
