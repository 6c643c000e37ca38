//! What an operator sees of a mount that serves, and changes while it does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stead_tests::process::{files_below, must, tail};
use stead_tests::{Client, Engine, Mount, Process, TempVolume, eventually, pause, run};

const LIMIT: Duration = Duration::from_secs(120);
/// In which a mount with this option has learned of a change for certain.
const BEAT: [&str; 2] = ["--heartbeat", "1"];
const SEEN: Duration = Duration::from_secs(15);
/// Three blocks.
const SIZE: usize = 12 << 20;

fn command(client: Client, arguments: &[&str]) -> Command {
    let mut command = Command::new(client.program());
    command.args(arguments);
    command
}

fn config(volume: &TempVolume, option: &str, value: &str) {
    must(&mut command(Client::Stead, &["config", &volume.url, option, value, "--yes"]), LIMIT);
}

/// Writes a file to the object store; how long that took.
fn write_file(path: &Path, bytes: usize) -> Duration {
    let (content, begun) = (vec![7; bytes], Instant::now());
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.write_all(&content).expect("written");
    file.sync_all().expect("synced");
    begun.elapsed()
}

#[test]
fn stats_and_metrics_show_what_a_mount_does() {
    for engine in Engine::ALL {
        let volume = TempVolume::format(engine, Client::Stead, &[]);
        let options = [&BEAT[..], &["--metrics", "127.0.0.1:0"]].concat();
        let mount = Mount::start(Client::Stead, &volume, "watched", &options);
        let other = Mount::start(Client::Stead, &volume, "other", &[]);
        let dir = mount.path().display().to_string();
        let (ours, theirs) = under_load(mount.path(), other.path(), || {
            let ours = must(&mut command(Client::Stead, &["stats", &dir, "--json", "--count", "3"]), LIMIT);
            (ours, must(&mut command(Client::Go, &["stats", &dir, "--count", "3", "--schema", "mo"]), LIMIT))
        });
        for (section, columns) in [
            ("fuse", &["ops", "ops_lat_ms", "read", "write"][..]),
            ("meta", &["ops", "ops_lat_ms", "txn", "txn_lat_ms"]),
            ("object", &["get", "get_c", "get_c_lat_ms", "put", "put_c", "put_c_lat_ms", "del_c"]),
        ] {
            for column in columns {
                let shown = |line: &str| {
                    let line: Value = serde_json::from_str(line).expect("JSON");
                    line[section][column].as_f64().unwrap_or_else(|| panic!("no {section} {column}: {line}"))
                };
                assert!(ours.lines().any(|line| shown(line) > 0.0), "{section} {column} does not move:\n{ours}");
            }
        }
        assert!(go_columns_move(&theirs), "columns do not move:\n{theirs}");
        metrics_move(&mount);
        other.unmount();
        mount.unmount();
    }
}

/// Does `work` while `dir` is written, read and cleaned; what is read comes from another mount, and so from the store.
fn under_load<T>(dir: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (own, foreign) = (dir.join(format!("own-{n}")), format!("foreign-{n}"));
                write_file(&own, 100_000);
                write_file(&other.join(&foreign), 100_000);
                assert_eq!(fs::read(dir.join(&foreign)).expect("read").len(), 100_000);
                fs::remove_file(own).expect("removed");
                fs::remove_file(dir.join(foreign)).expect("removed");
                pause(Duration::from_millis(20));
            }
        });
        let done = work();
        stop.store(true, Ordering::Relaxed);
        done
    })
}

/// Whether in some line of the Go client's table all columns but that of retries and those of the cache show something.
fn go_columns_move(table: &str) -> bool {
    let lines = table.lines().filter(|line| line.contains('|') && !line.contains("ops"));
    let zero = |cell: &str| cell.trim_end_matches(['K', 'M', 'G', 'B']).parse::<f64>().is_ok_and(|value| value == 0.0);
    let moving = |line: &str| {
        let plain: String = plain(line);
        let zeros = plain.split(['|', ' ']).filter(|cell| !cell.is_empty() && zero(cell)).count();
        zeros <= 1
    };
    lines.map(str::to_owned).any(|line| moving(&line))
}

/// Without the colours of a terminal.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_colour, rest)| rest))
}

fn metrics_move(mount: &Mount) {
    let config: Value =
        serde_json::from_str(&fs::read_to_string(mount.path().join(".config")).expect("read")).expect("JSON");
    let address = config["Port"]["PrometheusAgent"].as_str().expect("an address").to_owned();
    for number in 0..3 {
        fs::write(mount.path().join(format!("kept-{number}")), vec![1; 5000]).expect("written");
    }
    let used = eventually("the usage is learned", SEEN, || {
        let figures = figures(&page(&address));
        (figures.get("juicefs_used_inodes") == Some(&3.0)).then_some(figures)
    });
    assert_eq!(used["juicefs_used_space"], 3.0 * 8192.0);
    for histogram in [
        "juicefs_fuse_ops_durations_histogram_seconds",
        "juicefs_meta_ops_durations_histogram_seconds",
        "juicefs_transaction_durations_histogram_seconds",
        "juicefs_object_request_durations_histogram_seconds GET",
        "juicefs_object_request_durations_histogram_seconds PUT",
        "juicefs_object_request_durations_histogram_seconds DELETE",
    ] {
        let (name, method) = histogram.split_once(' ').unwrap_or((histogram, ""));
        let of = |part: &str| used[format!("{name}_{part} {method}").trim_end()];
        assert!(of("count") > 0.0 && of("sum") > 0.0, "{histogram}: {used:?}");
        assert_eq!(of("count"), of("bucket"), "{histogram}: the last bucket has all values");
    }
    assert_eq!(used["juicefs_object_request_failed_attempts PUT"], 0.0);
}

fn page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the page is served");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answered");
    text
}

/// `name` or `name method` → the value of its last line.
fn figures(page: &str) -> BTreeMap<String, f64> {
    let figure = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{')?;
        let method = labels.split_once("method=\"").map_or("", |(_, rest)| rest.split('"').next().unwrap_or_default());
        Some((format!("{name} {method}").trim_end().to_owned(), value.trim().parse().ok()?))
    };
    page.lines().filter(|line| !line.starts_with('#')).filter_map(figure).collect()
}

#[test]
fn limits_bind_and_are_lifted_while_a_mount_serves() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "limited", &BEAT);
    let other = Mount::start(Client::Stead, &volume, "other", &[]);
    let mut number = 0;
    let mut upload = || {
        number += 1;
        write_file(&mount.path().join(format!("up-{number}")), SIZE)
    };
    let free = upload();
    // 2 MB/s: three blocks take three seconds at least, after one second's worth at once and the last in debt.
    config(&volume, "--upload-limit", "16");
    let bound = eventually("the upload limit binds", SEEN, || Some(upload()).filter(|took| took.as_secs_f64() > 2.0));
    println!(
        "figure: 12 MB written in {:.2} s, with a limit of 2 MB/s in {:.1} s",
        free.as_secs_f64(),
        bound.as_secs_f64()
    );
    // What waits for a limit that is lifted goes on. It is written by a process of its own: one that is forked from the
    // writer would hold the file open, and wait for it before it becomes another program.
    let mut dd = Command::new("dd");
    dd.args(["if=/dev/zero", "bs=1M", "count=60", "conv=fsync"]).arg(format!("of={}/waiting", mount.path().display()));
    let mut writer = Process::start("dd", &mut dd, &volume.path().join("dd.log"));
    assert!(writer.wait(Duration::from_secs(2)).is_none(), "60 MB were written in spite of the limit");
    config(&volume, "--upload-limit", "0");
    let begun = Instant::now();
    let ended = writer.wait(Duration::from_secs(8));
    assert!(
        ended.is_some_and(|status| status.success()),
        "what waited still waits after the limit was lifted: {ended:?}"
    );
    println!("figure: 60 MB that waited were there {:.1} s after the limit was lifted", begun.elapsed().as_secs_f64());

    let mut download = || {
        number += 1;
        let name = format!("down-{number}");
        write_file(&other.path().join(&name), SIZE);
        let begun = Instant::now();
        assert_eq!(fs::read(mount.path().join(name)).expect("read").len(), SIZE);
        begun.elapsed()
    };
    config(&volume, "--download-limit", "16");
    eventually("the download limit binds", SEEN, || (download().as_secs_f64() > 2.0).then_some(()));
    config(&volume, "--download-limit", "0");
    eventually("the download limit is lifted", SEEN, || (download().as_secs_f64() < 1.0).then_some(()));
    other.unmount();
    mount.unmount();
    volume.assert_sound();
}

#[test]
fn a_volume_moves_to_another_storage_while_a_mount_serves() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let other = Mount::start(Client::Stead, &volume, "other", &[]);
    write_file(&other.path().join("before"), SIZE);
    other.unmount();
    let mount = Mount::start(Client::Stead, &volume, "moved", &BEAT);
    let (old, new) = (volume.bucket(), volume.path().join("new-blocks"));
    must(Command::new("cp").arg("-a").arg(&old).arg(&new), LIMIT);
    config(&volume, "--bucket", &new.display().to_string());
    let blocks = |dir: &Path| files_below(&dir.join("tested/chunks")).len();
    let mut number = 0;
    let mut written_to = |dir: &Path| {
        number += 1;
        let before = blocks(dir);
        write_file(&mount.path().join(format!("after-{number}")), 100_000);
        blocks(dir) > before
    };
    // What was written to the old place meanwhile is not in the copy.
    eventually("the mount follows", SEEN, || written_to(&new).then_some(()));
    for block in files_below(&old.join("tested/chunks")) {
        let moved = new.join(block.strip_prefix(&old).expect("it is below"));
        fs::create_dir_all(moved.parent().expect("a directory")).expect("made");
        fs::copy(&block, moved).expect("copied");
    }
    fs::remove_dir_all(&old).expect("removed");
    assert_eq!(fs::read(mount.path().join("before")).expect("read").len(), SIZE);

    // Somebody else's bucket is not written to.
    let foreign = volume.path().join("foreign-blocks");
    fs::create_dir_all(foreign.join("tested")).expect("made");
    fs::write(foreign.join("tested/juicefs_uuid"), "another volume").expect("written");
    config(&volume, "--bucket", &foreign.display().to_string());
    let log = volume.path().join("moved.log");
    eventually("the mount tells", SEEN, || tail(&log, 50).contains("the old one stays").then_some(()));
    assert!(written_to(&new) && blocks(&foreign) == 0, "written to another volume's bucket");
    config(&volume, "--bucket", &new.display().to_string());
    assert!(written_to(&new));
    mount.unmount();
    let sound = run(&mut command(Client::Stead, &["fsck", &volume.url]), LIMIT);
    assert_eq!(sound.code, Some(0), "{}", sound.text());
    volume.assert_sound();
}
