//! What the command line refuses, by which exit code.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use stead_tests::mount::is_mounted;
use stead_tests::process::Output;
use stead_tests::servers::{RedisOptions, free_port};
use stead_tests::{Client, Engine, Minio, Redis, TempVolume, run, tools};
use tempfile::TempDir;

/// A refusal may not take longer.
const SOON: Duration = Duration::from_secs(10);

const GENERAL: i32 = 1;
const BAD_INPUT: i32 = 2;
const DENIED: i32 = 3;
const UNAVAILABLE: i32 = 4;
const NOT_FORMATTED: i32 = 5;
const BAD_FORMAT: i32 = 6;
const NOT_CONFIRMED: i32 = 10;

fn stead(arguments: &[&str]) -> Output {
    run(Command::new(tools::stead()).args(arguments), Duration::from_secs(60))
}

/// Commands that have to be refused; what is wrong with a refusal is told at the end, all together.
#[derive(Default)]
struct Refusals {
    faults: Vec<String>,
}

impl Refusals {
    /// The command ends soon, with `code`, and names every one of `words` on standard error.
    fn check(&mut self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = stead(arguments);
        println!("{arguments:?}: {:?}, {}", output.code, output.stderr.trim());
        let mut fault =
            |what: String| self.faults.push(format!("{arguments:?}: {what}; it said: {}", output.text().trim()));
        if output.took > SOON {
            fault(format!("took {:?}", output.took));
        }
        if output.code != Some(code) {
            fault(format!("exit code {:?}, expected {code}", output.code));
        }
        for word in words.iter().filter(|word| !output.stderr.contains(**word)) {
            fault(format!("{word:?} is not named"));
        }
    }
}

impl Refusals {
    fn check_untouched(&mut self, place: &Place) {
        let left = place.left();
        if !left.is_empty() {
            self.faults.push(format!("left behind: {left:?}"));
        }
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.faults.is_empty(), "{} faults:\n{}", self.faults.len(), self.faults.join("\n"));
        }
    }
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn url(&self) -> String {
        format!("sqlite3://{}", self.path("meta.db"))
    }

    /// What was made here, be it an engine or a block.
    fn left(&self) -> Vec<PathBuf> {
        let left: Vec<_> = fs::read_dir(self.dir.path()).expect("listed").flatten().map(|entry| entry.path()).collect();
        let in_use = |path: &PathBuf| !path.is_dir() || fs::read_dir(path).is_ok_and(|mut dir| dir.next().is_some());
        left.into_iter().filter(in_use).collect()
    }
}

#[test]
fn an_unknown_scheme() {
    let mut refusals = Refusals::default();
    for address in ["mysql://root@(127.0.0.1:3306)/db", "http://127.0.0.1/", "tikv://127.0.0.1:2379/x"] {
        let scheme = address.split(':').next().expect("a first part");
        refusals.check(&["format", address, "volume"], BAD_INPUT, &[scheme]);
        refusals.check(&["status", address], BAD_INPUT, &[scheme]);
    }
}

#[test]
fn a_wrong_option_or_name() {
    let mut refusals = Refusals::default();
    let place = Place::new();
    let (url, bucket) = (place.url(), place.path("blocks"));
    let long = "x".repeat(64);
    for name in ["No_Caps", "ab", "-dash", "dash-", "a/b", "..", "", long.as_str()] {
        let code = BAD_INPUT;
        let words: &[&str] = if name.is_empty() || name.starts_with('-') { &[] } else { &[name] };
        refusals.check(&["format", &url, "--storage", "file", "--bucket", &bucket, "--", name], code, words);
    }
    for (option, value) in [
        ("--capacity", "-5"),
        ("--capacity", "99999999999999999999"),
        ("--capacity", "much"),
        ("--inodes", "-1"),
        ("--block-size", "3X"),
        ("--compress", "rar"),
        ("--trash-days", "-1"),
        ("--shards", "1000"),
        ("--storage", "floppy"),
    ] {
        let given = format!("{option}={value}");
        let mut arguments = vec!["format", &url, "volume", "--bucket", &bucket, &given];
        if option != "--storage" {
            arguments.extend(["--storage", "file"]);
        }
        refusals.check(&arguments, BAD_INPUT, &[option.trim_start_matches('-'), value]);
    }
    refusals.check_untouched(&place);
}

/// As with the Go client.
#[test]
fn blocks_lie_in_a_directory_unless_something_else_is_said() {
    let place = Place::new();
    let output = stead(&["format", &place.url(), "volume", "--bucket", &place.path("blocks")]);
    assert_eq!(output.code, Some(0), "{}", output.text());
    let status = stead(&["status", &place.url()]);
    assert!(status.stdout.contains(r#""Storage": "file""#), "{}", status.text());
}

#[test]
fn an_unreachable_or_closed_engine() {
    let mut refusals = Refusals::default();
    let nowhere = format!("redis://127.0.0.1:{}/1", free_port());
    refusals.check(&["format", &nowhere, "volume"], UNAVAILABLE, &["127.0.0.1"]);
    refusals.check(&["status", &nowhere], UNAVAILABLE, &["127.0.0.1"]);
    let closed =
        Redis::start_with(RedisOptions { password: Some("right-password".to_owned()), ..RedisOptions::default() });
    let wrong = closed.url(1).replace("right-password", "wrong-password");
    refusals.check(&["status", &wrong], DENIED, &["127.0.0.1"]);
    assert!(!stead(&["status", &wrong]).text().contains("wrong-password"), "the password is shown");
    let place = Place::new();
    refusals.check(&["format", &wrong, "volume", "--bucket", &place.path("blocks")], DENIED, &["127.0.0.1"]);
    refusals.check_untouched(&place);
    assert!(!closed.ask("INFO keyspace").contains("db"), "something was written");
}

#[test]
fn an_unusable_bucket() {
    let mut refusals = Refusals::default();
    let place = Place::new();
    let minio = Minio::start();
    let mut s3 = |bucket: &str, secret: &str, code: i32, words: &[&str]| {
        let keys = ["--access-key", Minio::ACCESS_KEY, "--secret-key", secret];
        let url = place.url();
        let mut arguments = vec!["format", &url, "volume", "--storage", "s3", "--bucket", bucket];
        arguments.extend(keys);
        refusals.check(&arguments, code, words);
        refusals.check_untouched(&place);
    };
    s3(&minio.url("data"), "wrong-secret", DENIED, &["data"]);
    let nowhere = format!("http://127.0.0.1:{}/data", free_port());
    s3(&nowhere, Minio::SECRET_KEY, UNAVAILABLE, &["127.0.0.1"]);
    s3("no address", Minio::SECRET_KEY, BAD_INPUT, &["bucket", "no address"]);
    let output = stead(&["format", &place.url(), "volume", "--storage", "file", "--bucket", "/proc/nowhere"]);
    assert!(output.code != Some(0) && output.stderr.contains("/proc/nowhere"), "{output:?}");
    refusals.check_untouched(&place);
}

#[test]
fn a_bucket_that_holds_another_volume() {
    let mut refusals = Refusals::default();
    let first = TempVolume::format(Engine::Sqlite, Client::Go, &[]);
    let place = Place::new();
    let bucket = first.bucket().display().to_string();
    let output = stead(&["format", &place.url(), &first.name, "--storage", "file", "--bucket", &bucket]);
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    assert!(output.stderr.contains(&first.name) || output.stderr.contains("blocks"), "{}", output.stderr);
    refusals.check_untouched(&place);
    // Its directories have no statistics before the Go client has mounted it, so only its blocks can be sound.
    let fsck = first.fsck();
    assert!(fsck.code == Some(0), "{}", fsck.text());
}

#[test]
fn a_volume_that_is_not_there_or_not_for_us() {
    let mut refusals = Refusals::default();
    let redis = Redis::start();
    let url = redis.url(3);
    let place = Place::new();
    let point = place.path("mnt");
    refusals.check(&["mount", &url, &point], NOT_FORMATTED, &["127.0.0.1"]);
    refusals.check(&["status", &url], NOT_FORMATTED, &["127.0.0.1"]);
    redis.ask("SELECT 3\r\nSET setting this-is-no-json");
    refusals.check(&["mount", &url, &point], BAD_FORMAT, &["setting"]);
    refusals.check(&["format", &url, "volume", "--bucket", &place.path("blocks")], BAD_FORMAT, &["setting"]);
    let newer = r#"{"Name":"volume","UUID":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","Storage":"file","Bucket":"/nowhere/","BlockSize":4096,"TrashDays":1,"MetaVersion":2}"#;
    redis.ask(&format!("SELECT 3\r\nSET setting '{newer}'"));
    refusals.check(&["mount", &url, &point], BAD_FORMAT, &["MetaVersion", "2"]);
    refusals.check(&["status", &url], BAD_FORMAT, &["MetaVersion", "2"]);
    assert!(redis.ask("SELECT 3\r\nGET setting").contains(r#""MetaVersion":2"#), "the setting was changed");
    refusals.check_untouched(&place);
}

#[test]
fn a_mount_that_cannot_be() {
    let mut refusals = Refusals::default();
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let file = volume.path().join("file");
    fs::write(&file, "not a directory").expect("written");
    let (file, point) = (file.display().to_string(), volume.scratch("mnt"));
    let shown = point.display().to_string();
    refusals.check(&["mount", &volume.url, &file], BAD_INPUT, &[&file]);
    refusals.check(&["mount", &volume.url, &shown, "-o", "cache-sise=1"], BAD_INPUT, &["cache-sise"]);
    refusals.check(&["mount", &volume.url, &shown, "--attr-cache", "soon"], BAD_INPUT, &["attr-cache", "soon"]);
    let output = stead(&["mount", &volume.url, &shown, "--subdir", "../up"]);
    assert!(output.code.is_some_and(|code| code != 0) && output.stderr.contains(".."), "{output:?}");
    refusals.check(&["umount", &shown], BAD_INPUT, &[&shown]);
    assert!(!is_mounted(&point));
    assert_eq!(fs::read_to_string(&file).expect("read"), "not a directory");
}

#[test]
fn what_an_operator_cannot_mean() {
    let mut refusals = Refusals::default();
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let url = volume.url.as_str();
    let garbage = volume.path().join("garbage");
    fs::write(&garbage, "{\n\"Setting\": nothing}").expect("written");
    let garbage = garbage.display().to_string();
    let other = format!("sqlite3://{}", volume.path().join("other.db").display());
    for (arguments, code, words) in [
        (&["quota", "set", url, "--path", "/"][..], BAD_INPUT, &["--capacity", "--inodes"][..]),
        (&["quota", "set", url, "--capacity", "1"], BAD_INPUT, &["--path"]),
        (&["quota", "set", url, "--path", "up", "--capacity", "1"], BAD_INPUT, &["--path up"]),
        (&["quota", "set", url, "--path", "/", "--capacity", "much"], BAD_INPUT, &["--capacity", "much"]),
        (&["quota", "get", url, "--path", "/"], BAD_INPUT, &["/", "no quota"]),
        (&["quota", "get", url, "--gid", "7"], BAD_INPUT, &["--gid 7", "no quota"]),
        (&["quota", "get", url, "--gid", "7", "--uid", "7"], BAD_INPUT, &["--gid", "--uid"]),
        (&["quota", "forbid", url], BAD_INPUT, &["forbid"]),
        (&["config", url, "--trash-days", "-1"], BAD_INPUT, &["--trash-days"]),
        (&["config", url, "--storage", "nosuch", "--yes"], BAD_INPUT, &["nosuch"]),
        (&["config", url, "--min-client-version", "soon", "--yes"], BAD_INPUT, &["--min-client-version", "soon"]),
        (&["config", url, "--changelog"], BAD_INPUT, &["--changelog"]),
        (&["config", url, "--bucket", "/nowhere"], NOT_CONFIRMED, &["--yes"]),
        (&["dump", url, "--binary"], BAD_INPUT, &["--binary"]),
        (&["dump", url, "/nowhere/file"], GENERAL, &["/nowhere/file"]),
        (&["dump", url, "-", "--subdir", "/nosuch"], GENERAL, &["nosuch"]),
        (&["load", url, &garbage], BAD_INPUT, &["holds metadata already"]),
        (&["load", &other, &garbage], BAD_INPUT, &["line 2"]),
        (&["load", &other, "/nowhere/file"], GENERAL, &["/nowhere/file"]),
        (&["fsck", url, "--repair"], BAD_INPUT, &["--path"]),
        (&["fsck", url, "--path", "up"], BAD_INPUT, &["--path up"]),
        (&["fsck", url, "--path", "/nosuch"], GENERAL, &["nosuch"]),
        (&["gc", url, "--threads", "0"], BAD_INPUT, &["--threads"]),
        (&["restore", url, "yesterday"], BAD_INPUT, &["yesterday"]),
        (&["destroy", url, "no-uuid", "--yes"], BAD_INPUT, &["no-uuid"]),
        (&["status", url, "--session", "77"], BAD_INPUT, &["77"]),
        (&["rmr", "/nowhere/x"], BAD_INPUT, &["/nowhere/x"]),
        (&["rmr", "/usr"], BAD_INPUT, &["/usr", "no mounted volume"]),
        (&["clone", "/usr/bin", "/usr/nosuch"], BAD_INPUT, &["/usr/bin", "no mounted volume"]),
        (&["warmup"], BAD_INPUT, &["--file"]),
        (&["warmup", "/usr"], BAD_INPUT, &["/usr"]),
        (&["summary", "/nowhere"], BAD_INPUT, &["/nowhere"]),
        (&["compact", "/usr"], BAD_INPUT, &["/usr"]),
        (&["info", "/usr"], BAD_INPUT, &["/usr"]),
        (&["stats", "/usr"], BAD_INPUT, &["/usr"]),
        (&["stats", "/usr", "--schema", "x"], BAD_INPUT, &["--schema", "'x'"]),
        (&["bench", "/nowhere"], BAD_INPUT, &["/nowhere"]),
        (&["bench", "/tmp", "--block-size", "0"], BAD_INPUT, &["--block-size"]),
    ] {
        refusals.check(arguments, code, words);
    }
}

/// The settings of a volume stay as they are when its objects are not where the new ones say.
#[test]
fn a_volume_that_is_there_is_not_formatted_into_nowhere() {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let before = stead(&["status", &volume.url]).stdout;
    let elsewhere = volume.scratch("elsewhere").display().to_string();
    let mut refusals = Refusals::default();
    let format = ["format", volume.url.as_str(), volume.name.as_str()];
    refusals.check(&[&format[..], &["--storage", "oss"]].concat(), BAD_INPUT, &["oss"]);
    refusals.check(
        &[&format[..], &["--storage", "file", "--bucket", &elsewhere]].concat(),
        BAD_INPUT,
        &["bucket", &elsewhere],
    );
    assert_eq!(stead(&["status", &volume.url]).stdout, before);
    let bucket = volume.bucket().display().to_string();
    let same = stead(&[&format[..], &["--storage", "file", "--bucket", &bucket, "--trash-days", "3"]].concat());
    assert_eq!(same.code, Some(0), "{}", same.text());
}

#[test]
fn nobody_who_reads_is_no_reason_to_panic() {
    let volume = TempVolume::format(Engine::Sqlite, Client::Stead, &[]);
    let script = format!("{} status '{}' | true; exit ${{PIPESTATUS[0]}}", tools::stead().display(), volume.url);
    let ended = run(Command::new("bash").args(["-c", &script]), SOON);
    assert!(matches!(ended.code, Some(0 | 141)) && ended.stderr.is_empty(), "{}", ended.text());
}
