//! A load in a process of its own: writes, syncs and renames files below a directory until the file `stop` appears there,
//! then prints how many and the longest time of one, in milliseconds. Ends with an error at the first one that fails.
//!
//! `verify` is another one, for a pod.
//!
//! It has to be another process than the one that starts servers: a process that is forked from the load holds its open
//! files, closes them before it becomes the server, and waits with that for the very server.

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stead_tests::verify::Load;
use stead_tests::{pattern, pause};

/// Size of each file.
const SIZE: u64 = 30_000;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [dir] => write_many(Path::new(dir)),
        ["verify", dir, stop] => verify(Path::new(dir), Path::new(stop)),
        _ => {
            eprintln!("usage: stead-test-load DIR | stead-test-load verify DIR STOP-FILE");
            ExitCode::from(2)
        }
    }
}

/// A load that checks every answer, until the file `stop` appears.
fn verify(dir: &Path, stop: &Path) -> ExitCode {
    let load = Load::start(dir, "load");
    while !stop.exists() {
        pause(Duration::from_millis(50));
    }
    let report = load.stop();
    for fault in &report.faults {
        println!("fault: {fault}");
    }
    println!("report: {} {} {} {}", report.operations, report.faults.len(), report.lost, report.longest.as_millis());
    ExitCode::from(u8::from(!report.faults.is_empty()))
}

fn write_many(dir: &Path) -> ExitCode {
    let mut longest = Duration::ZERO;
    for n in 0.. {
        let begun = Instant::now();
        if dir.join("stop").exists() {
            println!("{n} {}", longest.as_millis());
            break;
        }
        if let Err((what, error)) = write_one(dir, n) {
            eprintln!("file {n}: {what}: {error}");
            return ExitCode::FAILURE;
        }
        longest = longest.max(begun.elapsed());
    }
    ExitCode::SUCCESS
}

fn write_one(dir: &Path, n: u64) -> Result<(), (&'static str, std::io::Error)> {
    let path = dir.join(format!("file-{n}"));
    let mut file = File::create_new(&path).map_err(|error| ("create", error))?;
    pattern::write(&mut file, n, SIZE, 8 << 10).map_err(|error| ("write", error))?;
    file.sync_all().map_err(|error| ("fsync", error))?;
    drop(file);
    fs::rename(&path, dir.join(format!("kept-{n}"))).map_err(|error| ("rename", error))
}
