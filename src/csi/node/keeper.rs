//! The keeper of one mount: it holds what a worker's death would take along, and starts the next worker when one has died
//! or has handed over.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use stead_keeper::{Channel, Message, Process, mount, within};
use stead_volume::MountConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tracing::{error, info, warn};

use super::events::Notice;
use super::figures::Measured;
use super::launcher::Needs;
use super::mount_id::MountId;
use super::state::Condition;
use super::target;
use super::worker::{Started, Workers};
use crate::error::{Error, Result};

/// A worker that has served for so long did not die of its start.
const SETTLED: Duration = Duration::from_secs(1);
/// Before the second attempt in a row; each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After so many workers in a row that could not serve, whoever waits for the mount gets an error.
const ATTEMPTS: u32 = 12;

/// How often a worker is asked whether it is there.
const PING: Duration = Duration::from_secs(5);
/// A worker that has left a ping without an answer.
const SILENT: Duration = Duration::from_secs(7);
/// A worker that answers nothing for so long hangs.
const HUNG: Duration = Duration::from_secs(30);
/// How long a process may take to end that was killed.
const DYING: Duration = Duration::from_secs(10);

/// A worker that serves, and what the one after it needs.
pub(crate) struct Kept {
    pub(crate) config: MountConfig,
    /// While it is open, the kernel keeps the mount.
    pub(crate) device: OwnedFd,
    pub(crate) segment: Option<OwnedFd>,
    pub(crate) session: Value,
    pub(crate) channel: Channel,
    pub(crate) process: Process,
}

/// What a keeper can be asked for.
pub(crate) enum Command {
    /// The worker is to end.
    Drain,
    /// Another worker is to go on: this one.
    Replace(Started, Answer),
    /// The credentials of this configuration are to be used from now on.
    Refresh(Box<MountConfig>, Answer),
    /// The worker is to look for limits of directories.
    LearnLimits(Answer),
    /// The worker is to tell how its mount does.
    Measure(oneshot::Sender<Measured>),
}

type Answer = oneshot::Sender<Result<()>>;

/// How a mount is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    /// Between two workers.
    Waiting,
    Ended,
}

/// How to reach a keeper.
#[derive(Clone, Debug)]
pub(crate) struct KeeperHandle {
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Health>,
    needs: Needs,
}

impl KeeperHandle {
    /// For the worker's pod.
    pub(crate) fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Asks without waiting for what comes of it.
    pub(crate) async fn tell(&self, command: Command) {
        // A keeper that is gone has nothing left to do.
        let _gone = self.commands.send(command).await;
    }

    /// Asks and waits for the answer.
    pub(crate) async fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.tell(command(answer)).await;
        answered.await.unwrap_or(Err(stead_keeper::Error::Closed.into()))
    }

    /// What the worker tells of its mount. `None`: it has not answered within `limit`, or there is none.
    pub(crate) async fn measured(&self, limit: Duration) -> Option<Measured> {
        let (answer, answered) = oneshot::channel();
        let measured = async {
            self.tell(Command::Measure(answer)).await;
            answered.await.ok()
        };
        timeout(limit, measured).await.ok().flatten()
    }

    /// Whether the last worker has left and the next one does not serve yet.
    pub(crate) fn is_between_workers(&self) -> bool {
        *self.health.borrow() == Health::Waiting
    }

    /// Waits until the mount is served, or will not be any more; what it is then. After `limit`, what it is anyway.
    pub(crate) async fn settled(&self, limit: Duration) -> Health {
        let mut health = self.health.clone();
        let settled = health.wait_for(|health| *health != Health::Waiting);
        drop(timeout(limit, settled).await);
        *self.health.borrow()
    }

    /// Waits for the end of the last worker; false when it still runs after `limit`.
    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        let mut health = self.health.clone();
        timeout(limit, health.wait_for(|health| *health == Health::Ended)).await.is_ok()
    }
}

/// How a worker has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The mount is not served any more.
    ForGood,
    /// It handed over.
    HandedOver,
    Died,
}

pub(crate) struct Keeper {
    id: MountId,
    workers: Workers,
    kept: Kept,
    commands: mpsc::Receiver<Command>,
    health: watch::Sender<Health>,
    draining: bool,
    /// What the worker was asked for and has not answered.
    asked: Option<(Option<MountConfig>, Answer)>,
    /// Who waits until the worker knows the limits of directories, in order.
    learning: VecDeque<Answer>,
    /// Who waits for the answer of the worker to [`Message::Measure`].
    measuring: Vec<oneshot::Sender<Measured>>,
    /// Who goes on when the worker has handed over.
    next: Option<Started>,
    /// The process that the last worker was.
    before: Option<Process>,
}

/// Keeps a mount until it ends.
pub(crate) fn keep(id: MountId, workers: Workers, kept: Kept) -> KeeperHandle {
    let (sender, commands) = mpsc::channel(8);
    let (health, seen) = watch::channel(Health::Serving);
    let needs = Needs::of(&kept.config);
    let (asked, next, before, learning, measuring) = (None, None, None, VecDeque::new(), Vec::new());
    let keeper =
        Keeper { id, workers, kept, commands, health, draining: false, asked, next, before, learning, measuring };
    tokio::spawn(keeper.run());
    KeeperHandle { commands: sender, health: seen, needs }
}

impl Keeper {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let began = Instant::now();
            let left = self.attend().await;
            // Nobody answers them any more.
            self.measuring.clear();
            self.note(left);
            if left == Left::ForGood || self.draining {
                break;
            }
            self.health.send_replace(Health::Waiting);
            failures = if left == Left::HandedOver || began.elapsed() >= SETTLED { 0 } else { failures + 1 };
            if left == Left::Died && failures > 1 {
                self.workers.tell(&self.id, Notice::BackOff { error: "it ends right after its start" });
            }
            if !self.revive(failures).await {
                break;
            }
            if let (Left::Died, Some(before)) = (left, self.before.take()) {
                self.workers.tell_of_death(&self.id, before);
            }
        }
        self.workers.ended(&self.id);
        drop(self.kept);
        self.health.send_replace(Health::Ended);
    }

    fn note(&self, left: Left) {
        let (volume, figures) = (self.id.as_str(), self.workers.figures());
        match left {
            Left::ForGood => info!(volume, "worker has ended"),
            Left::HandedOver => {
                figures.handovers.count();
                info!(volume, "worker has handed over");
            }
            Left::Died => {
                figures.deaths.count();
                let pods = self.workers.pods(&self.id);
                error!(volume, pods, log = %self.workers.log(&self.id).display(), "worker died");
            }
        }
    }

    /// Serves the worker's needs until its process is gone.
    async fn attend(&mut self) -> Left {
        let mut left = Left::Died;
        let mut pings = interval_at(Instant::now() + PING, PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut silent = false;
        loop {
            tokio::select! {
                message = self.kept.channel.recv() => match message {
                    Ok((message, _fds)) => {
                        heard = Instant::now();
                        if std::mem::take(&mut silent) {
                            self.workers.note(&self.id, Condition::Serving);
                        }
                        self.hear(message, &mut left);
                    }
                    Err(_closed) => break,
                },
                Some(command) = self.commands.recv() => self.obey(command).await,
                _ = pings.tick() => {
                    // Whoever flushes at its end, or before a handover, has no time to answer.
                    if self.draining || self.asked.is_some() {
                        heard = Instant::now();
                    }
                    if heard.elapsed() >= SILENT && !std::mem::replace(&mut silent, true) {
                        warn!(volume = %self.id, pods = self.workers.pods(&self.id), "the worker does not answer");
                        self.workers.note(&self.id, Condition::Silent);
                    }
                    if heard.elapsed() >= HUNG {
                        self.end_hung().await;
                        heard = Instant::now();
                    }
                    // One that is gone shows by its channel.
                    let _gone = self.kept.channel.send(&Message::Ping, &[]).await;
                }
            }
        }
        loop {
            tokio::select! {
                () = self.kept.process.ended() => return left,
                Some(command) = self.commands.recv() => self.obey(command).await,
            }
        }
    }

    fn hear(&mut self, message: Message, left: &mut Left) {
        match message {
            Message::Alive => {}
            Message::Measured { labels, page } => {
                for waiting in self.measuring.drain(..) {
                    // Whoever asked may have gone.
                    let _unheard = waiting.send(Measured { labels: labels.clone(), page: page.clone() });
                }
            }
            Message::Drained => *left = Left::ForGood,
            Message::HandedOver => *left = Left::HandedOver,
            Message::Reconfigured => self.answer(Ok(())),
            Message::LimitsLearned { error } => {
                let learned =
                    error.map_or(Ok(()), |error| Err(self.workers.failed(&self.id, "learn limits", &error, None)));
                if let Some(answer) = self.learning.pop_front() {
                    // Whoever asked may have gone.
                    let _unheard = answer.send(learned);
                }
            }
            Message::Failed { stage, error, exit_code } => {
                if matches!(&*stage, "serve" | "drain") {
                    *left = Left::ForGood;
                }
                self.next = None;
                self.answer(Err(self.workers.failed(&self.id, &stage, &error, Some(exit_code))));
            }
            other => warn!(volume = %self.id, message = other.kind(), "unexpected from a worker"),
        }
    }

    /// Kills a worker that answers nothing: the next one answers instead. If it cannot be killed from here, whoever waits
    /// for the mount gets an error.
    async fn end_hung(&self) {
        self.workers.figures().hung.count();
        let pods = self.workers.pods(&self.id);
        error!(volume = %self.id, pods, "the worker has answered nothing for {HUNG:?}: killing it");
        self.workers.tell(&self.id, Notice::Hung { silence: HUNG });
        self.kept.process.signal(Signal::SIGKILL);
        if timeout(DYING, self.kept.process.ended()).await.is_err() {
            self.abort().await;
        }
    }

    async fn abort(&self) {
        self.workers.figures().aborted.count();
        self.workers.note(&self.id, Condition::Aborted);
        let pods = self.workers.pods(&self.id);
        error!(volume = %self.id, pods, "giving the mount up: whoever uses it gets an error");
        self.workers.tell(&self.id, Notice::Aborted { log: &self.workers.log(&self.id) });
        let dir = self.workers.mount_point(&self.id);
        if let Err(error) = within("abort", target::SYSCALL, move || mount::abort(&dir)).await {
            warn!(volume = %self.id, %error, "cannot abort the mount");
        }
    }

    fn answer(&mut self, outcome: Result<()>) {
        if let Some((config, answer)) = self.asked.take() {
            if let (Ok(()), Some(config)) = (&outcome, config) {
                self.kept.config = config;
            }
            // Whoever asked may have gone.
            let _unheard = answer.send(outcome);
        }
    }

    async fn obey(&mut self, command: Command) {
        let message = match command {
            Command::Drain => {
                self.draining = true;
                Message::Drain
            }
            Command::Replace(_, answer) if self.asked.is_some() => return self.refuse(answer),
            Command::Replace(next, answer) => {
                self.next = Some(next);
                self.asked = Some((None, answer));
                Message::HandOver
            }
            Command::Refresh(new, answer) => {
                let Some((config, message)) = refreshed(&self.kept.config, &new) else {
                    // Whoever asked may have gone.
                    let _unheard = answer.send(Ok(()));
                    return;
                };
                if self.asked.is_some() {
                    return self.refuse(answer);
                }
                if message == Message::HandOver {
                    match self.workers.prepare(&self.id, &Needs::of(&config)).await {
                        Ok(next) => self.next = Some(next),
                        Err(error) => {
                            // The worker stays. Whoever asked may have gone.
                            let _unheard = answer.send(Err(error));
                            return;
                        }
                    }
                }
                self.asked = Some((Some(config), answer));
                message
            }
            Command::LearnLimits(answer) => {
                self.learning.push_back(answer);
                Message::LearnLimits
            }
            Command::Measure(answer) => {
                self.measuring.push(answer);
                // A worker that answers nothing is asked once, whoever looks how often.
                if self.measuring.len() > 1 {
                    self.measuring.retain(|waiting| !waiting.is_closed());
                    return;
                }
                Message::Measure
            }
        };
        if let Err(error) = self.kept.channel.send(&message, &[]).await {
            warn!(volume = %self.id, %error, message = message.kind(), "the worker does not listen");
            self.kept.process.signal(Signal::SIGTERM);
        }
    }

    /// Starts workers until one serves. False: nobody wants the mount any more, or none can serve it.
    async fn revive(&mut self, mut failures: u32) -> bool {
        while failures < ATTEMPTS {
            if failures > 0 && !self.pause(failures).await {
                return false;
            }
            let dir = self.workers.mount_point(&self.id);
            if !mount::root_of(&dir).is_ok_and(|root| root.is_some()) {
                return false;
            }
            let tried = self.asked.as_ref().and_then(|(config, _)| config.clone());
            let config = tried.clone().unwrap_or_else(|| self.kept.config.clone());
            match self.next_worker(&config).await {
                Ok(next) => {
                    self.follow(next);
                    // It has looked.
                    self.learning.drain(..).for_each(|answer| _ = answer.send(Ok(())));
                    self.health.send_replace(Health::Serving);
                    self.answer(Ok(()));
                    return true;
                }
                // With the credentials that the last one had it may.
                Err(error) if tried.is_some() => self.answer(Err(error)),
                Err(error) => {
                    error!(volume = %self.id, %error, failures, "no worker goes on with the mount");
                    self.workers.tell(&self.id, Notice::BackOff { error: &error.to_string() });
                    // An API server comes back; that it was away says nothing about workers.
                    let most = if error.is_of_the_cluster() { ATTEMPTS - 1 } else { ATTEMPTS };
                    failures = (failures + 1).min(most);
                }
            }
        }
        self.abort().await;
        false
    }

    fn is_waited_for(&self) -> bool {
        self.asked.as_ref().is_some_and(|(_, answer)| !answer.is_closed())
    }

    /// One question at a time: another one would take the answer of the first.
    fn refuse(&self, answer: Answer) {
        // Whoever asked may have gone.
        let _unheard = answer.send(Err(Error::BetweenWorkers { volume: self.id.to_string() }));
    }

    /// Waits before another attempt; false when the mount is to end.
    async fn pause(&mut self, failures: u32) -> bool {
        let pause = sleep(LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.pow(failures.min(10))));
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                Some(command) = self.commands.recv() => match command {
                    Command::Drain => {
                        self.draining = true;
                        return false;
                    }
                    Command::Replace(_, answer) | Command::Refresh(_, answer) if self.is_waited_for() => {
                        self.refuse(answer);
                    }
                    Command::Replace(next, answer) => {
                        self.next = Some(next);
                        self.asked = Some((None, answer));
                    }
                    Command::Refresh(new, answer) => {
                        let config = refreshed(&self.kept.config, &new).map(|(config, _)| config);
                        let is_new = config.is_some();
                        self.asked = Some((config, answer));
                        if is_new {
                            return true;
                        }
                    }
                    // The next one looks when it starts.
                    Command::LearnLimits(answer) => self.learning.push_back(answer),
                    // There is nobody to tell.
                    Command::Measure(_) => {}
                },
            }
        }
    }

    async fn next_worker(&mut self, config: &MountConfig) -> Result<Started> {
        let started = match self.next.take() {
            Some(started) => started,
            None => self.workers.prepare(&self.id, &Needs::of(config)).await?,
        };
        let config = serde_json::to_value(config).expect("a configuration has only text keys");
        let keeper = Some(self.workers.keeper_socket());
        let order = Message::Adopt { config, session: self.kept.session.clone(), keeper };
        let fds = [Some(&self.kept.device), self.kept.segment.as_ref()];
        let fds: Vec<_> = fds.into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let (started, _told) = self.workers.order(&self.id, started, &order, &fds).await?;
        Ok(started)
    }

    fn follow(&mut self, Started { channel, process }: Started) {
        self.kept.channel = channel;
        self.before = Some(std::mem::replace(&mut self.kept.process, process));
    }
}

/// The configuration with the credentials of a new one, and how its worker is to learn of them; `None`: they are the same.
/// What opens the object storage can be changed under a worker; for what opens the engine, another one goes on.
fn refreshed(old: &MountConfig, new: &MountConfig) -> Option<(MountConfig, Message)> {
    let storage =
        |config: &MountConfig| [&config.access_key, &config.secret_key, &config.session_token].map(Clone::clone);
    let engine = |config: &MountConfig| {
        let passwords = [&config.meta_password, &config.sentinel_password, &config.passphrase].map(Clone::clone);
        (config.meta_url.clone(), passwords)
    };
    let config = MountConfig { mount_point: old.mount_point.clone(), options: old.options.clone(), ..new.clone() };
    if engine(old) != engine(new) {
        return Some((config, Message::HandOver));
    }
    (storage(old) != storage(new)).then(|| {
        let json = serde_json::to_value(&config).expect("a configuration has only text keys");
        (config, Message::Reconfigure { config: json })
    })
}

/// What a worker tells when it serves.
pub(crate) struct Told {
    pub(crate) session: Value,
    pub(crate) segment: Option<OwnedFd>,
}
