//! Databases, which are particular about locks, fsync and the order of writes: SQLite and PostgreSQL.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::User;
use stead_tests::process::{Process, must, signal_to};
use stead_tests::servers::free_port;
use stead_tests::{Client, Engine, Mount, TempVolume, eventually, run};

const LIMIT: Duration = Duration::from_secs(300);
const ROWS: u64 = 100;

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("DELETE");
}

#[test]
fn sqlite_with_a_log() {
    sqlite("WAL");
}

/// Two processes insert at the same time; neither may lose a row of the other.
fn sqlite(mode: &str) {
    let volume = TempVolume::format(Engine::Redis, Client::Stead, &[]);
    let mount = Mount::start(Client::Stead, &volume, "sqlite", &[]);
    let file = mount.path().join("test.db");
    let made = ask_sqlite(&file, &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(writer, n, filler);"));
    assert_eq!(made.trim().to_uppercase(), mode, "the mount has no memory to share, or no locks");
    thread::scope(|scope| {
        for writer in ["one", "other"] {
            let file = &file;
            scope.spawn(move || {
                for n in 0..ROWS {
                    ask_sqlite(file, &format!("INSERT INTO t VALUES('{writer}', {n}, zeroblob(500));"));
                }
            });
        }
    });
    let counted = ask_sqlite(&file, "SELECT count(DISTINCT writer || n) FROM t; PRAGMA integrity_check;");
    assert_eq!(counted.trim(), format!("{}\nok", 2 * ROWS));
    mount.unmount();
    let mount = Mount::start(Client::Stead, &volume, "again", &[]);
    let counted = ask_sqlite(&mount.path().join("test.db"), "SELECT count(*) FROM t; PRAGMA integrity_check;");
    assert_eq!(counted.trim(), format!("{}\nok", 2 * ROWS));
    mount.unmount();
    volume.assert_sound();
}

fn ask_sqlite(file: &Path, sql: &str) -> String {
    must(Command::new("sqlite3").args(["-cmd", ".timeout 60000"]).arg(file).arg(sql), LIMIT)
}

#[test]
fn postgres_survives_a_restart_and_a_kill() {
    for engine in Engine::ALL {
        let volume = TempVolume::format(engine, Client::Stead, &[]);
        let mount = Mount::start(Client::Stead, &volume, "postgres", &["-o", "allow_other"]);
        open_way_to(mount.path());
        let mut server = Postgres::init(&mount.path().join("pgdata"), &volume.scratch("sockets"));
        server.must("pgbench", &["-i", "-q", "-s", "2"]);
        let bench = server.must("pgbench", &["-T", "15", "-c", "4", "-j", "2"]);
        let rate = bench.lines().find(|line| line.starts_with("tps")).unwrap_or("no rate");
        println!("figure: pgbench on {engine:?}: {rate}");
        server.check();
        server.restart(Signal::SIGINT);
        server.check();
        // Without -n it would begin with an empty history.
        server.begin("pgbench", &["-n", "-T", "10", "-c", "4"]);
        server.restart(Signal::SIGQUIT);
        server.check();
        drop(server);
        mount.unmount();
        volume.assert_sound();
    }
}

/// The server's user has to reach the mount.
fn open_way_to(dir: &Path) {
    let own = dir.ancestors().take_while(|path| path.starts_with(std::env::temp_dir()));
    for path in own.filter(|path| *path != std::env::temp_dir()) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("own directory");
    }
}

/// A server with its data in a mount.
struct Postgres {
    data: PathBuf,
    sockets: PathBuf,
    port: u16,
    server: Option<Process>,
    /// Clients that end with the server.
    clients: Vec<Process>,
}

impl Postgres {
    fn init(data: &Path, sockets: &Path) -> Self {
        let user =
            User::from_name("postgres").expect("the table of users").expect("PostgreSQL's package makes its user");
        fs::create_dir(data).expect("made");
        for dir in [data, sockets] {
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("given away");
        }
        open_way_to(sockets);
        let (data, sockets) = (data.to_owned(), sockets.to_owned());
        let mut made = Self { data, sockets, port: free_port(), server: None, clients: Vec::new() };
        must(made.command("initdb").args(["--auth=trust", "--data-checksums", "-D"]).arg(&made.data), LIMIT);
        made.start();
        made
    }

    /// A program of the server's package, as the server's user.
    fn command(&self, program: &str) -> Command {
        let user = User::from_name("postgres").expect("the table of users").expect("it was there");
        let mut command = Command::new(program_path(program));
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/").env("PGPORT", self.port.to_string());
        command.env("PGHOST", &self.sockets).env("PGDATABASE", "postgres");
        command
    }

    fn start(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.sockets).args(["-c", "listen_addresses="]);
        let server = Process::start("postgres", &mut command, &self.sockets.join("log"));
        let server = self.server.insert(server);
        server.expect_alive();
        eventually("PostgreSQL accepts connections", LIMIT, || {
            (run(&mut self.command("pg_isready"), LIMIT).code == Some(0)).then_some(())
        });
    }

    fn must(&self, program: &str, arguments: &[&str]) -> String {
        must(self.command(program).args(arguments), LIMIT)
    }

    fn begin(&mut self, program: &str, arguments: &[&str]) {
        let mut command = self.command(program);
        command.args(arguments);
        self.clients.push(Process::start(program, &mut command, &self.sockets.join("clients.log")));
        stead_tests::pause(Duration::from_secs(3));
    }

    /// SIGINT: a clean end. SIGQUIT: none, the log is replayed.
    fn restart(&mut self, signal: Signal) {
        let mut server = self.server.take().expect("it runs");
        signal_to(server.id(), signal);
        assert!(server.wait(LIMIT).is_some(), "PostgreSQL does not end after {signal}:\n{}", server.log_tail());
        self.clients.clear();
        self.start();
    }

    /// Tables and indexes are whole, and the sums of pgbench agree.
    fn check(&self) {
        self.must("pg_amcheck", &["--install-missing", "--heapallindexed", "postgres"]);
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) \
                    AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)";
        assert_eq!(self.must("psql", &["-At", "-c", sums]).trim(), "t", "the sums of pgbench differ");
    }
}

fn program_path(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin").join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from(program))
}
