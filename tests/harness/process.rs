//! Child processes with a log, a deadline, and an end by process id.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a process may take to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(20);

/// Waits; tests may block their thread.
#[expect(clippy::disallowed_methods, reason = "a test drives processes from threads of its own")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Asks `check` every 20 ms until it answers; panics after `limit`, naming `what`.
pub fn eventually<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        pause(Duration::from_millis(20));
    }
}

/// A process that serves until its guard goes.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = append(log);
        let err = out.try_clone().expect("a descriptor can be doubled");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: cannot start {command:?}: {error}"));
        Self { child, name: name.to_owned(), log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Panics with the log when it has ended.
    pub fn expect_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}; its log:\n{}", self.name, self.log_tail());
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }

    /// Waits up to `limit` for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            pause(Duration::from_millis(10));
        }
        None
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ended = self.child.wait();
    }

    /// SIGTERM, then SIGKILL when it takes too long. Whether it ended by itself.
    pub fn stop(&mut self) -> bool {
        if self.ended().is_some() {
            return true;
        }
        self.signal(Signal::SIGTERM);
        let by_itself = self.wait(GRACE).is_some();
        if !by_itself {
            self.kill();
        }
        by_itself
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        tail(&self.log, 60)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Signals a process by id; one that is gone is no error.
pub fn signal_to(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).expect("process ids fit");
    let _gone = kill(Pid::from_raw(pid), signal);
}

/// Stops a process where it is. Its threads go on until one of them has taken the signal, so this waits for each.
pub fn freeze(pid: u32) {
    signal_to(pid, Signal::SIGSTOP);
    eventually("all its threads stop", Duration::from_secs(10), || {
        let threads = threads(pid);
        assert!(!threads.is_empty(), "process {pid} is gone");
        threads.iter().all(|thread| stopped(thread)).then_some(())
    });
}

/// `T` in `stat` of a thread, proc_pid_stat(5): stopped by a signal. The name before it may contain spaces and parentheses.
fn stopped(thread: &Path) -> bool {
    let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, state)| state.trim_start().starts_with('T'))
}

fn threads(pid: u32) -> Vec<PathBuf> {
    let list = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    list.map(|thread| thread.path()).collect()
}

/// Children of a process, by id; any of its threads may have made them.
pub fn children(pid: u32) -> Vec<u32> {
    let lists =
        threads(pid).into_iter().map(|thread| std::fs::read_to_string(thread.join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

fn append(log: &Path) -> File {
    let opened = OpenOptions::new().create(true).append(true).open(log);
    opened.unwrap_or_else(|error| panic!("log {}: {error}", log.display()))
}

/// The last `lines` of a file; empty when it cannot be read.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// All files below a directory; those that vanish meanwhile are left out.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl Output {
    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end; panics when that takes longer than `limit`. Output goes through files, so that a daemon
/// that keeps the descriptors holds nothing up.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(append(&out)).stderr(append(&err)).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Output { code: status.code(), stdout: read(&out), stderr: read(&err), took: begun.elapsed() };
        }
        if begun.elapsed() > limit {
            let _gone = child.kill();
            let _status = child.wait();
            panic!("{command:?} did not end within {limit:?}:\n{}{}", read(&out), read(&err));
        }
        pause(Duration::from_millis(5));
    }
}

/// Runs a command that has to succeed, and gives its standard output.
pub fn must(command: &mut Command, limit: Duration) -> String {
    let output = run(command, limit);
    assert!(output.code == Some(0), "{command:?} ended with {:?}:\n{}", output.code, output.text());
    output.stdout
}
