//! A load in a process of its own: writes, syncs and renames files below a directory until the file `stop` appears there,
//! then prints how many and the longest time of one, in milliseconds. Ends with an error at the first one that fails.
//!
//! It has to be another process than the one that starts servers: a process that is forked from the load holds its open
//! files, closes them before it becomes the server, and waits with that for the very server.

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use stead_tests::pattern;

/// Size of each file.
const SIZE: u64 = 30_000;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("usage: stead-test-load DIR");
        return ExitCode::from(2);
    };
    let (dir, mut longest) = (Path::new(&dir), Duration::ZERO);
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
