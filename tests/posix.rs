//! POSIX: pjdfstest against lists of known failures, strict and with the defaults; fsx with several seeds, with and
//! without trash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use stead_tests::process::must;
use stead_tests::{Client, Engine, Mount, Setup, TempVolume, run, tools};

/// Fewer than these would mean that something else went wrong.
const PASSES: usize = 375;
const OPERATIONS: &str = "20000";
const SEEDS: [&str; 5] = ["1", "20", "300", "4000", "50000"];
/// Exercisers at the same time.
const PARALLEL: usize = 2;

/// How a volume and its mount are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// No trash, and a directory's times change at once.
    Strict,
    /// As people have it: a day of trash, and a directory's times may stay when they are younger than 100 ms.
    Defaults,
}

#[test]
fn pjdfstest_on_redis() {
    pjdfstest(Engine::Redis, Manner::Strict);
}

#[test]
fn pjdfstest_on_sqlite() {
    pjdfstest(Engine::Sqlite, Manner::Strict);
}

#[test]
fn pjdfstest_with_defaults_on_redis() {
    pjdfstest(Engine::Redis, Manner::Defaults);
}

#[test]
fn pjdfstest_with_defaults_on_sqlite() {
    pjdfstest(Engine::Sqlite, Manner::Defaults);
}

#[test]
fn fsx_on_both_engines() {
    fsx(turn);
}

#[test]
#[ignore = "the other half: tests/run.sh --full"]
fn fsx_on_the_other_engine_each() {
    fsx(|engine, trash_days, n| !turn(engine, trash_days, n));
}

/// Whether the n-th seed with so many trash days is an engine's turn: every seed and every number of days runs on one of
/// them, half of each on either.
fn turn(engine: Engine, trash_days: u32, n: usize) -> bool {
    (n + trash_days as usize).is_multiple_of(2) == (engine == Engine::Redis)
}

fn pjdfstest(engine: Engine, manner: Manner) {
    ensure_user_tests();
    let (trash_days, options, list): (_, &[&str], _) = match manner {
        Manner::Strict => (0, &["--skip-dir-mtime", "0"], "posix/pjdfstest.expected"),
        Manner::Defaults => (1, &[], "posix/pjdfstest-defaults.expected"),
    };
    let setup = Setup { trash_days, ..Setup::default() };
    let volume = TempVolume::format_with(engine, setup, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "posix", options);
    let other = volume.scratch("other-file-system");
    // With some lengths of the path of its directory, pjdfstest 0.2.2 computes a negative length of a name.
    assert!(!(4095 - (mount.path().as_os_str().len() + 22)).is_multiple_of(127), "choose a TMPDIR of another length");
    let mut suite = Command::new(tools::pjdfstest());
    suite.arg("-c").arg(tools::data("posix/pjdfstest.toml")).arg("-p").arg(mount.path()).arg("-s").arg(other);
    let output = run(&mut suite, Duration::from_secs(600));
    let results = Results::read(&output.text());
    println!(
        "figure: pjdfstest on {engine:?}, {manner:?}: {} passed, {} failed, {} skipped",
        results.passed,
        results.failed.len(),
        results.skipped
    );
    let expected = expected(&tools::data(list));
    let known: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let failed: BTreeSet<&str> = results.failed.iter().map(String::as_str).collect();
    let new: Vec<_> = failed.difference(&known).collect();
    assert!(new.is_empty(), "failures that are not listed: {new:#?}\n{}", output.text());
    let mended: Vec<_> = known.difference(&failed).collect();
    // Whether a change falls into the window of 100 ms is a matter of luck.
    assert!(mended.is_empty() || manner == Manner::Defaults, "listed as failing, but they pass: {mended:#?}");
    assert!(results.passed + known.len() >= PASSES, "only {} tests passed:\n{}", results.passed, output.text());
    mount.unmount();
    volume.assert_sound();
}

/// The suite acts as this user, too.
fn ensure_user_tests() {
    let user = run(Command::new("getent").args(["passwd", "tests"]), Duration::from_secs(10));
    if user.code != Some(0) {
        must(Command::new("useradd").args(["-U", "tests"]), Duration::from_secs(30));
    }
}

#[derive(Default)]
struct Results {
    passed: usize,
    skipped: usize,
    failed: Vec<String>,
}

impl Results {
    fn read(text: &str) -> Self {
        let mut results = Self::default();
        for line in text.lines() {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [name, "FAILED"] if name.contains("::") => results.failed.push(name.to_owned()),
                [name, "ok"] if name.contains("::") => results.passed += 1,
                [name, "skipped"] if name.contains("::") => results.skipped += 1,
                _ => {}
            }
        }
        results
    }
}

/// Known failures and why.
fn expected(path: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(path).expect("the list of known failures");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.map(|line| line.split_once(char::is_whitespace).unwrap_or_else(|| panic!("no reason: {line}")));
    pairs.map(|(name, reason)| (name.to_owned(), reason.trim().to_owned())).collect()
}

fn fsx(chosen: impl Fn(Engine, u32, usize) -> bool) {
    let mut runs = Vec::new();
    for (n, seed) in SEEDS.into_iter().enumerate() {
        for trash_days in [0, 1] {
            let engines = Engine::ALL.into_iter().filter(|engine| chosen(*engine, trash_days, n));
            runs.extend(engines.map(|engine| (engine, trash_days, seed)));
        }
    }
    thread::scope(|scope| {
        let runs = &runs;
        let threads: Vec<_> = (0..PARALLEL)
            .map(|n| scope.spawn(move || runs.iter().skip(n).step_by(PARALLEL).for_each(|run| fsx_with(*run))))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("fsx finds no fault"));
    });
}

fn fsx_with((engine, trash_days, seed): (Engine, u32, &str)) {
    let setup = Setup { trash_days, ..Setup::default() };
    let volume = TempVolume::format_with(engine, setup, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "fsx", &[]);
    let mut exerciser = Command::new(tools::fsx());
    exerciser.args(["-N", OPERATIONS, "-S", seed, "-f"]).arg(tools::data("posix/fsx.toml"));
    exerciser.arg("-P").arg(volume.scratch("artifacts")).arg(mount.path().join("file"));
    let output = run(&mut exerciser, Duration::from_secs(900));
    let what = format!("fsx on {engine:?}, trash days {trash_days}, seed {seed}");
    assert!(output.code == Some(0), "{what}: {:?}\n{}", output.code, last(&output.text(), 80));
    mount.unmount();
    volume.assert_sound();
    println!("figure: {what}: {OPERATIONS} operations, {:.1} s", output.took.as_secs_f64());
}

fn last(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
