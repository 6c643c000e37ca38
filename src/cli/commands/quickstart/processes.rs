//! The two services as processes of their own: started, remembered by process number and start time, ended.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// How long a service may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that may be gone, its number given to another.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) pid: u32,
    started: u64,
}

impl Recorded {
    fn of(pid: u32) -> Self {
        Self { pid, started: start_time(pid).unwrap_or(0) }
    }

    fn alive(&self) -> bool {
        self.started != 0 && start_time(self.pid) == Some(self.started)
    }

    fn end(&self) {
        let Ok(pid) = i32::try_from(self.pid) else { return };
        let until = Instant::now() + PATIENCE;
        while self.alive() {
            let signal = if Instant::now() < until { Signal::SIGTERM } else { Signal::SIGKILL };
            // It may have ended since it was looked at.
            let _gone = kill(Pid::from_raw(pid), signal);
            #[expect(clippy::disallowed_methods, reason = "a command that waits for processes to end")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Clock ticks from the machine's start to the process' (proc_pid_stat(5), field 22); `None` when it is gone or a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The controller and the node service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Processes {
    pub(super) controller: Recorded,
    pub(super) node: Recorded,
}

impl Processes {
    /// What an earlier quick start left in `base`.
    pub(super) fn recorded(base: &Path) -> Result<Self, Failure> {
        let path = base.join("processes.json");
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| Failure::general(format!("{}: {error}", path.display())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Failure::general(format!("{}: {error}", path.display()))),
        }
    }

    /// Starts both; the controller as `uid`.
    pub(super) fn start(base: &Path, sockets: &Path, state: &Path, uid: u32, gid: u32) -> Result<Self, Failure> {
        let endpoint = |name: &str| format!("unix://{}/{name}.sock", sockets.display());
        let mut controller = service(base, "controller")?;
        controller.args(["controller", "--endpoint", &endpoint("controller")]).uid(uid).gid(gid);
        let mut node = service(base, "node")?;
        node.args(["node", "--endpoint", &endpoint("node"), "--node-id", "quickstart"]);
        node.arg("--state-dir").arg(state);
        node.args(["--worker-uid", &uid.to_string(), "--worker-gid", &gid.to_string()]);
        let spawn = |mut command: Command| match command.spawn() {
            Ok(child) => Ok(Recorded::of(child.id())),
            Err(error) => Err(Failure::general(format!("{:?}: {error}", command.get_program()))),
        };
        let mut processes = Self { controller: spawn(controller)?, node: Recorded::default() };
        match spawn(node) {
            Ok(node) => processes.node = node,
            Err(failure) => {
                processes.end();
                return Err(failure);
            }
        }
        let path = base.join("processes.json");
        let text = serde_json::to_vec(&processes).map_err(|error| Failure::general(error.to_string()))?;
        if let Err(error) = std::fs::write(&path, text) {
            processes.end();
            return Err(Failure::general(format!("{}: {error}", path.display())));
        }
        Ok(processes)
    }

    pub(super) fn any_alive(&self) -> bool {
        self.controller.alive() || self.node.alive()
    }

    pub(super) fn end(&self) {
        self.node.end();
        self.controller.end();
    }
}

/// Our own program in a session of its own, its log beside the state.
fn service(base: &Path, name: &str) -> Result<Command, Failure> {
    let exe = std::env::current_exe().map_err(|error| Failure::general(format!("own program: {error}")))?;
    let path = base.join(format!("{name}.log"));
    let failed = |error: std::io::Error| Failure::general(format!("{}: {error}", path.display()));
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
    let mut command = Command::new(exe);
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log).process_group(0);
    Ok(command)
}
