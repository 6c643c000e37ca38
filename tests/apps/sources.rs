//! Working with sources: git and cargo.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use stead_tests::process::must;
use stead_tests::{Client, Engine, Mount, TempVolume, tools};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn git_clone_gc_and_fsck() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "git", &[]);
    let clone = mount.path().join("clone");
    clone_repository(&clone);
    for arguments in [
        &["checkout", "-q", "-b", "changes"][..],
        &["rm", "-q", "-r", "src/base"],
        &["commit", "-q", "-m", "Remove a crate"],
        &["checkout", "-q", "HEAD~1"],
        &["gc", "--quiet", "--prune=now"],
        &["fsck", "--full", "--strict"],
        &["status", "--porcelain"],
    ] {
        let printed = git(&clone, arguments);
        assert!(arguments[0] != "status" || printed.is_empty(), "git status after a checkout:\n{printed}");
    }
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "again", &[]);
    git(&mount.path().join("clone"), &["fsck", "--full", "--strict"]);
    mount.unmount();
    volume.assert_sound();
}

/// Sources and target directory lie in the mount: many small files, hard links, renames, mapped libraries, locks.
#[test]
fn cargo_build_inside_the_mount() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "cargo", &[]);
    let clone = mount.path().join("clone");
    clone_repository(&clone);
    let begun = Instant::now();
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--offline", "-p", "stead-base"]).current_dir(&clone);
    build.env("CARGO_TARGET_DIR", mount.path().join("target"));
    must(&mut build, LIMIT);
    println!("figure: cargo build -p stead-base inside the mount: {:.0} s", begun.elapsed().as_secs_f64());
    let mut again = Command::new("cargo");
    again.args(["test", "--locked", "--offline", "-p", "stead-base", "--lib"]).current_dir(&clone);
    again.env("CARGO_TARGET_DIR", mount.path().join("target"));
    let tested = must(&mut again, LIMIT);
    assert!(tested.contains("test result: ok."), "{tested}");
    mount.unmount();
    volume.assert_sound();
}

fn clone_repository(target: &Path) {
    let repository = tools::sources();
    let repository = repository.parent().expect("the root of the workspace");
    let mut command = git_command();
    command.args(["clone", "-q", "--no-local"]).arg(format!("file://{}", repository.display())).arg(target);
    must(&mut command, LIMIT);
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    must(git_command().arg("-C").arg(dir).args(arguments), LIMIT)
}

fn git_command() -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*", "-c", "user.name=tests", "-c", "user.email=tests@example.org"]);
    command
}
