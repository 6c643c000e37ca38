//! A volume of its own for a test: engine, object storage, name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::mount::Client;
use crate::process::{Output, must, run};
use crate::servers::{Redis, RedisOptions};
use crate::tools;

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

/// An engine with a formatted volume whose blocks lie in a directory.
pub struct TempVolume {
    /// The volume's name.
    pub name: String,
    /// The engine's address.
    pub url: String,
    /// The server, if the engine is one.
    pub redis: Option<Redis>,
    dir: TempDir,
}

impl TempVolume {
    /// Formats a volume without trash by `client`; `options` are further options of `format`.
    pub fn format(engine: Engine, client: Client, options: &[&str]) -> Self {
        Self::format_on(engine, RedisOptions::default(), client, options)
    }

    /// The same with a Redis server of some kind.
    pub fn format_on(engine: Engine, server: RedisOptions, client: Client, options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("volume-").tempdir().expect("a temporary directory");
        let redis = (engine == Engine::Redis).then(|| Redis::start_with(server));
        let url = match &redis {
            Some(redis) => redis.url(1),
            None => format!("sqlite3://{}", dir.path().join("meta.db").display()),
        };
        let volume = Self { name: "tested".to_owned(), url, redis, dir };
        let mut command = Command::new(client.program());
        command.args(["format", &volume.url, &volume.name, "--storage", "file", "--bucket"]);
        command.arg(volume.bucket()).args(["--trash-days", "0"]).args(options);
        must(&mut command, Duration::from_secs(60));
        volume
    }

    /// A volume that somebody else has formatted; the engine is theirs.
    pub fn existing(name: &str, url: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("volume-").tempdir().expect("a temporary directory");
        Self { name: name.to_owned(), url: url.to_owned(), redis: None, dir }
    }

    /// Where the blocks lie.
    pub fn bucket(&self) -> PathBuf {
        self.dir.path().join("blocks")
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

    /// What the Go client's `fsck` says.
    pub fn fsck(&self) -> Output {
        run(Command::new(tools::juicefs()).args(["fsck", &self.url]), Duration::from_secs(300))
    }

    /// The Go client finds nothing wrong with the volume: no missing object, no broken directory.
    pub fn assert_sound(&self) {
        let whole = self.fsck();
        assert!(whole.code == Some(0), "juicefs fsck: {:?}\n{}", whole.code, whole.text());
        let mut tree = Command::new(tools::juicefs());
        tree.args(["fsck", &self.url, "--path", "/", "--recursive"]);
        let tree = run(&mut tree, Duration::from_secs(300));
        assert!(tree.code == Some(0), "juicefs fsck --path /: {:?}\n{}", tree.code, tree.text());
        let wrong = |text: &str| text.contains("<ERROR>") || text.contains("<FATAL>") || text.contains("lost");
        for text in [whole.text(), tree.text()] {
            let found: Vec<_> = text.lines().filter(|line| wrong(line)).collect();
            assert!(found.is_empty(), "juicefs fsck found:\n{}", found.join("\n"));
        }
    }
}
