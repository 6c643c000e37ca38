//! A volume of its own for a test: engine, object storage, name.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::mount::Client;
use crate::process::{Output, must, run};
use crate::servers::{Minio, Redis, RedisOptions};
use crate::tools;

/// The longest run of the Go client's `gc`.
const GC_TIME: Duration = Duration::from_secs(300);
/// Fewer of its runs may stop before they have deleted a slice, one after the other.
const GC_IN_VAIN: u32 = 10;

/// Which metadata engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A Redis server of the test's own.
    Redis,
    /// A file.
    Sqlite,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Redis, Self::Sqlite];
}

/// Where a volume's blocks lie.
#[derive(Clone, Debug, Default)]
pub enum Storage {
    /// In a directory of the volume's own.
    #[default]
    Directory,
    /// On a MinIO server with the harness' keys; the URL ends with the bucket.
    S3(String),
}

/// What a volume is made on.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// If the engine is Redis.
    pub server: RedisOptions,
    /// Where the blocks go.
    pub storage: Storage,
    /// Directory of the database and the blocks; `None` = the volume's own.
    pub home: Option<PathBuf>,
    /// Where the volume has its directories; `None` = where temporary ones are.
    pub place: Option<PathBuf>,
    /// 0 = no trash.
    pub trash_days: u32,
}

/// An engine with a formatted volume.
pub struct TempVolume {
    /// The volume's name.
    pub name: String,
    /// The engine's address.
    pub url: String,
    /// The server, if the engine is one.
    pub redis: Option<Redis>,
    home: PathBuf,
    dir: TempDir,
}

impl TempVolume {
    /// Formats a volume without trash by `client`; `options` are further options of `format`.
    pub fn format(engine: Engine, client: Client, options: &[&str]) -> Self {
        Self::format_on(engine, RedisOptions::default(), client, options)
    }

    /// The same with a Redis server of some kind.
    pub fn format_on(engine: Engine, server: RedisOptions, client: Client, options: &[&str]) -> Self {
        Self::format_with(engine, Setup { server, ..Setup::default() }, client, options)
    }

    /// The same with a choice of everything.
    pub fn format_with(engine: Engine, setup: Setup, client: Client, options: &[&str]) -> Self {
        let place = setup.place.unwrap_or_else(std::env::temp_dir);
        let dir = tempfile::Builder::new().prefix("volume-").tempdir_in(place).expect("a temporary directory");
        let home = setup.home.unwrap_or_else(|| dir.path().to_owned());
        let redis = (engine == Engine::Redis).then(|| Redis::start_with(setup.server));
        let url = match &redis {
            Some(redis) => redis.url(1),
            None => format!("sqlite3://{}", home.join("meta.db").display()),
        };
        let volume = Self { name: "tested".to_owned(), url, redis, home, dir };
        volume.make(setup.storage, setup.trash_days, client, options);
        volume
    }

    /// Formats a volume without trash on somebody else's engine.
    pub fn format_at(url: &str, client: Client, options: &[&str]) -> Self {
        let volume = Self::existing("tested", url);
        volume.make(Storage::Directory, 0, client, options);
        volume
    }

    fn make(&self, storage: Storage, trash_days: u32, client: Client, options: &[&str]) {
        let mut command = Command::new(client.program());
        command.args(["format", &self.url, &self.name, "--trash-days", &trash_days.to_string()]);
        match storage {
            Storage::Directory => command.args(["--storage", "file", "--bucket"]).arg(self.bucket()),
            Storage::S3(bucket) => command.args(["--storage", "s3", "--bucket", &bucket]).args([
                "--access-key",
                Minio::ACCESS_KEY,
                "--secret-key",
                Minio::SECRET_KEY,
            ]),
        };
        must(command.args(options).envs([tools::RSA_PASSPHRASE]), Duration::from_secs(60));
    }

    /// A volume that somebody else has formatted; the engine is theirs.
    pub fn existing(name: &str, url: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("volume-").tempdir().expect("a temporary directory");
        Self { name: name.to_owned(), url: url.to_owned(), redis: None, home: dir.path().to_owned(), dir }
    }

    /// Where the blocks lie.
    pub fn bucket(&self) -> PathBuf {
        self.home.join("blocks")
    }

    /// A new directory below the volume's own, for mount points and caches.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        dir
    }

    /// Where the volume's scratch directories are.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Once everything is old enough to be judged, the Go client's `gc --delete` leaves nothing for a second run, and the
    /// volume is sound. Of slices without references each of its runs deletes only some and ends (also of entries that
    /// nobody but a test wrote): these must become fewer each time, unless it says that it stopped, and none in the end.
    pub fn assert_clean_after_gc(&self) {
        make_old(&self.bucket());
        let (mut last, mut in_vain) = (u64::MAX, 0);
        while last > 0 {
            let deleting = self.go_gc(&["--delete"]);
            let report = self.go_gc(&[]);
            for what in ["leaked", "delslices", "delfiles", "skipped"] {
                assert!(report.contains(&format!(", 0 {what} (")), "juicefs gc found {what}:\n{report}");
            }
            let pending = pending_deletes(&report);
            in_vain = if pending < last { 0 } else { in_vain + 1 };
            let excused = in_vain < GC_IN_VAIN && deleting.contains("stop deleting slice");
            assert!(
                pending < last || excused,
                "juicefs gc does not get ahead with pending deletes:\n{deleting}\n{report}"
            );
            last = pending;
        }
        self.assert_sound();
    }

    fn go_gc(&self, more: &[&str]) -> String {
        let output = run(Command::new(tools::juicefs()).args(["gc", &self.url]).args(more), GC_TIME);
        assert!(output.code == Some(0), "juicefs gc {more:?}: {:?}\n{}", output.code, output.text());
        output.text()
    }

    /// What the Go client's `fsck` says.
    pub fn fsck(&self) -> Output {
        run(
            Command::new(tools::juicefs()).args(["fsck", &self.url]).envs([tools::RSA_PASSPHRASE]),
            Duration::from_secs(300),
        )
    }

    /// The Go client finds nothing wrong with the volume: no missing object, no broken directory.
    pub fn assert_sound(&self) {
        let whole = self.fsck();
        assert!(whole.code == Some(0), "juicefs fsck: {:?}\n{}", whole.code, whole.text());
        let mut tree = Command::new(tools::juicefs());
        tree.args(["fsck", &self.url, "--path", "/", "--recursive"]).envs([tools::RSA_PASSPHRASE]);
        let tree = run(&mut tree, Duration::from_secs(300));
        assert!(tree.code == Some(0), "juicefs fsck --path /: {:?}\n{}", tree.code, tree.text());
        let wrong = |text: &str| text.contains("<ERROR>") || text.contains("<FATAL>") || text.contains("lost");
        for text in [whole.text(), tree.text()] {
            let found: Vec<_> = text.lines().filter(|line| wrong(line)).collect();
            assert!(found.is_empty(), "juicefs fsck found:\n{}", found.join("\n"));
        }
    }
}

/// Sets the times of all files back, so that a rule for young ones does not spare them.
fn make_old(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            make_old(&path);
        } else {
            let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let modified = file.metadata().and_then(|meta| meta.modified()).expect("a time");
            let old = FileTimes::new().set_modified(modified - Duration::from_secs(3 * 3600));
            file.set_times(old).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
}

/// Objects that the Go client's `gc` counts as "pending delete".
fn pending_deletes(report: &str) -> u64 {
    let before = report.split_once(" pending delete (").map(|(before, _after)| before);
    let number = before.and_then(|before| before.rsplit(' ').next()).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("juicefs gc counts no pending deletes:\n{report}"))
}
