//! One case after another, each in a directory of its own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use nix::errno::Errno;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use stead_tests::{Client, Engine, Mount, TempVolume, tools};

use super::memory::Memory;
use super::operation::{Operation, operation};
use super::reference::{Reference, Seen};
use super::target::Target;

/// A case that failed once is run first, ever after.
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/model/regressions.txt");
const OPERATIONS: usize = 60;

/// Something that is to behave as the model does.
pub(crate) trait Subject {
    fn apply(&mut self, operation: &Operation) -> Result<(), Errno>;

    /// Everything that can be seen, by path, and what is open by slot.
    fn see(&self) -> BTreeMap<String, Seen>;

    /// Dies without a word and comes back, if it can: nothing is open then.
    fn crash(&mut self) -> bool;

    /// Closes what is open.
    fn forget_open(&mut self);
}

/// The model is right: a local file system does what it says.
#[test]
fn the_model_agrees_with_a_local_file_system() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    run(60, |number, operations| check(&mut Target::new(&dir.path().join(number.to_string())), operations));
}

#[test]
fn all_layers_in_memory() {
    let (operations_done, crashes) = (Cell::new(0), Cell::new(0));
    run(tools::number("STEAD_MODEL_CASES", 300), |_number, operations| {
        operations_done.set(operations_done.get() + operations.len());
        let dies = operations.iter().filter(|operation| matches!(operation, Operation::Crash)).count();
        crashes.set(crashes.get() + dies);
        check(&mut Memory::new(), operations)
    });
    let (done, crashes) = (operations_done.get(), crashes.get());
    println!("figure: the model and the layers in memory agree; {done} operations, {crashes} crashes");
}

#[test]
fn a_mount_on_redis() {
    mounted(Engine::Redis);
}

#[test]
fn a_mount_on_sqlite() {
    mounted(Engine::Sqlite);
}

/// Two mounts would not be enough for some crashes and too many for most cases: one serves until a case kills it.
fn mounted(engine: Engine) {
    let volume = TempVolume::format(engine, Client::Stead, &["--block-size", "64K"]);
    let options = ["--skip-dir-mtime", "0"];
    let start = || Mount::start(Client::Stead, &volume, "model", &options);
    let mount = RefCell::new(Some(start()));
    let crashes = Cell::new(0);
    run(tools::number("STEAD_MODEL_CASES", 120), |number, operations| {
        let root = mount.borrow().as_ref().expect("it serves").path().join(number.to_string());
        let crash = || {
            crashes.set(crashes.get() + 1);
            mount.take().expect("it serves").crash();
            mount.replace(Some(start()));
        };
        check(&mut Target::that_crashes(&root, &crash), operations)
    });
    mount.take().expect("it serves").unmount();
    volume.assert_sound();
    println!("figure: the model and {engine:?} agree; {} crashes", crashes.get());
}

fn run(cases: u64, case: impl Fn(u64, &[Operation]) -> Result<(), String>) {
    let config = Config {
        cases: u32::try_from(cases).expect("a number of cases"),
        max_shrink_iters: 300,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        source_file: Some(file!()),
        ..Config::default()
    };
    let number = Cell::new(0);
    let strategy = proptest::collection::vec(operation(), 1..OPERATIONS);
    let result = TestRunner::new(config).run(&strategy, |operations| {
        number.set(number.get() + 1);
        case(number.get(), &operations).map_err(|fault| {
            // Making it smaller takes its time, and may be cut off.
            eprintln!("case {}, {} operations: {fault}", number.get(), operations.len());
            TestCaseError::fail(fault)
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Does each operation on both and compares.
fn check(target: &mut impl Subject, operations: &[Operation]) -> Result<(), String> {
    let mut model = Reference::new();
    for (step, operation) in operations.iter().enumerate() {
        let at = |what: String| format!("step {step}, {operation:?}: {what}");
        let (expected, found) = (model.apply(operation), target.apply(operation));
        if expected != found {
            return Err(at(format!("expected {expected:?}, got {found:?}")));
        }
        if matches!(operation, Operation::Crash) && target.crash() {
            model.crash(&target.see()).map_err(&at)?;
        }
        compare(&model.see(), &target.see()).map_err(at)?;
    }
    target.forget_open();
    Ok(())
}

fn compare(expected: &BTreeMap<String, Seen>, found: &BTreeMap<String, Seen>) -> Result<(), String> {
    for (path, wanted) in expected {
        let Some(seen) = found.get(path) else { return Err(format!("{path:?} is missing")) };
        let wanted = Seen { mtime: wanted.mtime.or(seen.mtime), ..wanted.clone() };
        if wanted != *seen {
            return Err(format!("{path:?}: {}", difference(&wanted, seen)));
        }
    }
    match found.keys().find(|path| !expected.contains_key(*path)) {
        Some(extra) => Err(format!("{extra:?} should not be there")),
        None => Ok(()),
    }
}

/// Content in a few words.
fn difference(wanted: &Seen, found: &Seen) -> String {
    if wanted.content != found.content {
        let differs = wanted.content.iter().zip(&found.content).position(|(a, b)| a != b);
        return format!(
            "{} bytes, expected {}; first other byte: {differs:?}",
            found.content.len(),
            wanted.content.len()
        );
    }
    let brief = |seen: &Seen| format!("{:?}", Seen { content: Vec::new(), ..seen.clone() });
    format!("expected {}, found {}", brief(wanted), brief(found))
}
