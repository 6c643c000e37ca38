//! What an operator does with one client works on what the other one made: dumps, commands through a mount, fsck and gc.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stead_tests::process::must;
use stead_tests::servers::RedisOptions;
use stead_tests::tree::{assert_same, scan};
use stead_tests::{Client, Engine, Mount, Redis, Setup, TempVolume, odd, run};

const LIMIT: Duration = Duration::from_secs(120);
/// Codes of `stead`.
const BAD_INPUT: i32 = 2;
const DAMAGED: i32 = 9;

fn command(client: Client, arguments: &[&str]) -> Command {
    let mut command = Command::new(client.program());
    command.args(arguments).env("JFS_GC_SKIPPEDTIME", "0");
    command
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn our_dump_of_a_redis_volume_loads_into_the_go_clients_sqlite() {
    dumped_and_loaded((Engine::Redis, Client::Stead), (Engine::Sqlite, Client::Go));
}

#[test]
fn our_dump_of_a_sqlite_volume_loads_into_the_go_clients_redis() {
    dumped_and_loaded((Engine::Sqlite, Client::Stead), (Engine::Redis, Client::Go));
}

#[test]
fn a_dump_of_the_go_client_loads_into_our_sqlite() {
    dumped_and_loaded((Engine::Redis, Client::Go), (Engine::Sqlite, Client::Stead));
}

#[test]
fn a_dump_of_the_go_client_loads_into_our_redis() {
    dumped_and_loaded((Engine::Sqlite, Client::Go), (Engine::Redis, Client::Stead));
}

/// A volume that the Go client wrote is dumped by one client and loaded by the other one; everything is there.
fn dumped_and_loaded((from, dumper): (Engine, Client), (to, loader): (Engine, Client)) {
    let setup = Setup { trash_days: 1, ..Setup::default() };
    let volume = TempVolume::format_with(from, setup, Client::Go, &[]);
    let mount = Mount::start(Client::Go, &volume, "writer", &[]);
    odd::fill(&mount.path().join("odd"), 3);
    fs::write(mount.path().join("gone"), "in the trash").expect("written");
    fs::remove_file(mount.path().join("gone")).expect("removed");
    letters(&mount.path().join("letters"));
    let written = scan(mount.path());
    mount.unmount();
    let file = text(&volume.path().join("dump.json.gz"));
    must(&mut command(dumper, &["dump", &volume.url, &file]), LIMIT);
    let redis = (to == Engine::Redis).then(|| Redis::start_with(RedisOptions::default()));
    let url = match &redis {
        Some(redis) => redis.url(2),
        None => format!("sqlite3://{}", text(&volume.path().join("loaded.db"))),
    };
    must(&mut command(loader, &["load", &url, &file]), LIMIT);
    let loaded = TempVolume::existing("tested", &url);
    loaded.assert_sound();
    for client in [Client::Go, Client::Stead] {
        let mount = Mount::start(client, &loaded, &format!("{client:?}"), &[]);
        assert_same(&format!("{client:?} reads what {loader:?} loaded"), &written, &scan(mount.path()));
        mount.unmount();
    }
    let mount = Mount::start(Client::Stead, &loaded, "after", &[]);
    fs::write(mount.path().join("after"), "new").expect("the volume takes new files");
    mount.unmount();
    must(&mut command(Client::Stead, &["fsck", &url, "--path", "/", "-r"]), LIMIT);
    loaded.assert_sound();
}

/// Many characters of two bytes, which begin at even and at odd places of a dump. The Go client's reader of compressed dumps
/// breaks some, of its own dumps too.
fn letters(dir: &Path) {
    fs::create_dir(dir).expect("made");
    for n in 0..300 {
        let shift = "a".repeat(n % 2);
        let path = dir.join(format!("{shift}{}{n}", "и".repeat(100)));
        fs::write(&path, "").expect("made");
        xattr::set(&path, "user.letters", format!("{shift}{}", "и".repeat(1500)).as_bytes()).expect("set");
    }
}

#[test]
fn a_broken_dump_leaves_the_engine_empty() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let file = volume.path().join("dump.json");
    must(&mut command(Client::Stead, &["dump", &volume.url, &text(&file)]), LIMIT);
    let whole = fs::read_to_string(&file).expect("read");
    fs::write(&file, &whole[..whole.len() / 2]).expect("cut off");
    let redis = Redis::start_with(RedisOptions::default());
    let refused = run(&mut command(Client::Stead, &["load", &redis.url(1), &text(&file)]), LIMIT);
    assert!(refused.code == Some(BAD_INPUT) && refused.stderr.contains("line "), "{refused:?}");
    let size = redis.ask("SELECT 1\r\nDBSIZE");
    assert!(size.contains(":0\r\n"), "{size}");
}

#[test]
fn our_commands_work_in_a_mount_of_the_go_client() {
    in_a_mount(Client::Go, Client::Stead);
}

#[test]
fn the_go_clients_commands_work_in_our_mount() {
    in_a_mount(Client::Stead, Client::Go);
}

#[test]
fn our_commands_work_in_our_mount() {
    in_a_mount(Client::Stead, Client::Stead);
}

fn in_a_mount(server: Client, user: Client) {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let mount = Mount::start(server, &volume, "mount", &[]);
    let inside = |name: &str| text(&mount.path().join(name));
    let ask = |arguments: &[&str]| must(&mut command(user, arguments), LIMIT);
    odd::fill(&mount.path().join("tree"), 5);
    // Not the odd tree: the Go client's own clone of it fails now and then.
    fs::create_dir_all(inside("plain/sub")).expect("made");
    fs::write(inside("plain/sub/file"), vec![7; 100_000]).expect("written");
    ask(&["clone", "--preserve", &inside("plain"), &inside("clone")]);
    assert!(fs::read(inside("clone/sub/file")).expect("cloned") == vec![7; 100_000], "the clone has other content");
    for number in 0..5 {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(inside("grown")).expect("opened");
        std::io::Write::write_all(&mut file, format!("{number}\n").as_bytes()).expect("written");
    }
    ask(&["compact", &inside("grown")]);
    assert_eq!(fs::read_to_string(inside("grown")).expect("read"), "0\n1\n2\n3\n4\n");
    assert!(ask(&["info", &inside("grown")]).contains("chunks/"), "info names the object");
    assert!(ask(&["summary", "--csv", &inside("tree")]).contains("PATH,SIZE,DIRS,FILES"));
    ask(&["warmup", &inside("tree")]);
    ask(&["warmup", "--evict", &inside("tree")]);
    ask(&["rmr", &inside("tree")]);
    assert!(!mount.path().join("tree").exists());
    mount.unmount();
    volume.assert_sound();
    must(&mut command(Client::Stead, &["fsck", &volume.url]), LIMIT);
}

#[test]
fn both_find_the_same_leaks_and_losses() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "mount", &[]);
    fs::write(mount.path().join("file"), vec![7; 5 << 20]).expect("written");
    mount.unmount();
    let blocks = volume.bucket().join("tested/chunks/0/0");
    fs::write(blocks.join("777_0_5"), "stray").expect("a block of no slice");
    let found = |delete: bool| {
        let mut arguments = vec!["gc", volume.url.as_str(), "--json"];
        arguments.extend(delete.then_some("--delete"));
        let report = must(&mut command(Client::Stead, &arguments), LIMIT);
        let report: Value = serde_json::from_str(&report).expect("JSON");
        let count = |what: &str| report[what]["Count"].as_u64().expect("a number");
        (count("Scanned"), count("Valid"), count("Leaked"), count("Removed"))
    };
    assert_eq!(found(false), (3, 2, 1, 0));
    let theirs = run(&mut command(Client::Go, &["gc", &volume.url]), LIMIT);
    assert!(theirs.text().contains("scanned 3 objects, 2 valid") && theirs.text().contains(", 1 leaked"), "{theirs:?}");
    assert_eq!(found(true), (3, 2, 1, 1));
    assert_eq!(found(true), (2, 2, 0, 0));
    must(&mut command(Client::Stead, &["fsck", &volume.url]), LIMIT);
    let block = fs::read_dir(&blocks).expect("listed").flatten().next().expect("a block").path();
    let whole = fs::metadata(&block).expect("a block").len();
    fs::File::options().write(true).open(&block).and_then(|file| file.set_len(whole - 1)).expect("cut");
    let cut = run(&mut command(Client::Stead, &["fsck", &volume.url]), LIMIT);
    assert_eq!(cut.code, Some(DAMAGED), "a block that is not whole is lost: {cut:?}");
    fs::remove_file(block).expect("lost");
    for client in [Client::Go, Client::Stead] {
        let found = run(&mut command(client, &["fsck", &volume.url]), LIMIT);
        assert!(found.code.is_some_and(|code| code != 0), "{client:?} does not see the loss: {found:?}");
        assert!(client == Client::Go || found.code == Some(DAMAGED), "{found:?}");
    }
}

#[test]
fn what_was_removed_comes_back() {
    let setup = Setup { trash_days: 1, ..Setup::default() };
    let volume = TempVolume::format_with(Engine::Redis, setup, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "mount", &["--attr-cache", "0", "--entry-cache", "0"]);
    fs::create_dir(mount.path().join("dir")).expect("made");
    fs::write(mount.path().join("dir/file"), "content").expect("written");
    fs::remove_dir_all(mount.path().join("dir")).expect("removed");
    for hour in fs::read_dir(mount.path().join(".trash")).expect("the trash").flatten() {
        let hour = hour.file_name().into_string().expect("an hour");
        must(&mut command(Client::Stead, &["restore", &volume.url, &hour, "--put-back"]), LIMIT);
    }
    assert_eq!(fs::read_to_string(mount.path().join("dir/file")).expect("read"), "content");
    mount.unmount();
    volume.assert_sound();
}

#[test]
fn a_destroyed_volume_is_gone_with_its_objects() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "mount", &[]);
    fs::write(mount.path().join("file"), "content").expect("written");
    let status: Value =
        serde_json::from_str(&must(&mut command(Client::Stead, &["status", &volume.url]), LIMIT)).expect("JSON");
    let uuid = status["Setting"]["UUID"].as_str().expect("a UUID");
    let destroy = ["destroy", &volume.url, uuid, "--yes"];
    let refused = run(&mut command(Client::Stead, &destroy), LIMIT);
    assert!(refused.code == Some(BAD_INPUT) && refused.stderr.contains("session"), "{refused:?}");
    mount.unmount();
    must(&mut command(Client::Stead, &destroy), LIMIT);
    let left: Vec<_> = walk(&volume.bucket());
    assert!(left.is_empty(), "{left:?}");
    let status = run(&mut command(Client::Stead, &["status", &volume.url]), LIMIT);
    assert_eq!(status.code, Some(5), "{status:?}");
}

fn walk(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![text(&path)] }).collect()
}

#[test]
fn a_mount_follows_a_changed_setting_within_a_heartbeat() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "mount", &["--heartbeat", "1"]);
    must(&mut command(Client::Stead, &["config", &volume.url, "--inodes", "1", "--yes"]), LIMIT);
    stead_tests::eventually("the limit holds", Duration::from_secs(10), || {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let made = fs::write(mount.path().join(format!("file-{number}")), "");
        made.is_err_and(|error| error.raw_os_error() == Some(28)).then_some(())
    });
    mount.unmount();
}
