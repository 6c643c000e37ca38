//! A worker under a parent that mounts: configuration and FUSE descriptor come over the control socket, the outcome goes
//! back, and the end of the socket means nothing: the mount outlives the parent, and the next one is told what the mount
//! needs to outlive the worker.

use std::future::{Future, pending};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stead_keeper::{Channel, Message};
use stead_volume::MountConfig;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::error::{Error, ExitCode, StartError};
use crate::serve::{End, Serving};
use crate::stages::{Predecessor, Process, start_after};

/// How often a worker looks for a new node service.
const AGAIN: Duration = Duration::from_millis(200);
/// When one that was asked to end tries again to hand over.
const ANOTHER_TRY: Duration = Duration::from_secs(1);

/// Serves the mount that arrives on the inherited socket `control_fd` until it is unmounted, `stop` is done, or the parent
/// says [`Message::Drain`] or [`Message::HandOver`].
///
/// # Errors
/// Why it could not start (the parent has been told) or what could not be flushed.
pub async fn run_controlled(control_fd: RawFd, process: Process, stop: impl Future<Output = ()>) -> Result<End, Error> {
    let bad = |error: stead_keeper::Error| Error::BadInput(error.to_string());
    let channel = Channel::inherited(control_fd).map_err(bad)?;
    let Order { config, device, before, keeper } = receive(&channel).await?;
    // A node service mounts each volume at its name.
    if let (Some(_), Some(volume)) = (&keeper, config.mount_point.file_name()) {
        stead_telemetry::tag("volume", &volume.to_string_lossy());
    }
    let copy = device.try_clone().map_err(|error| Error::Io { what: "FUSE descriptor".to_owned(), error })?;
    let pid = process.pid;
    let serving = match Box::pin(start_after(before, config, device, process)).await {
        Ok(serving) => serving,
        Err(failed) => return Err(report(&channel, failed).await),
    };
    let session = serde_json::to_value(serving.state()).expect("numbers only");
    info!("serving");
    let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    let stages = serving.stages.iter().map(|(stage, took)| (stage.to_string(), micros(*took))).collect();
    tell(&channel, &Message::Serving { pid, session, stages }, &segment(&serving)).await;
    let control = Control { channel: Some(channel), keeper, device: copy };
    Box::pin(control.serve(serving, stop)).await
}

/// What a worker is started for.
struct Order {
    config: MountConfig,
    device: OwnedFd,
    before: Option<Predecessor>,
    keeper: Option<PathBuf>,
}

async fn receive(channel: &Channel) -> Result<Order, Error> {
    let (message, mut fds) = channel.recv().await.map_err(|error| Error::BadInput(error.to_string()))?;
    let wrong =
        || Error::BadInput("a mount comes with its descriptor, and an adopted one also with its memory".to_owned());
    let (config, keeper, before) = match message {
        Message::Mount { config, keeper } => (config, keeper, None),
        Message::Adopt { config, session, keeper } => {
            let session = serde_json::from_value(session);
            let session = session.map_err(|error| Error::BadInput(format!("session of the worker before: {error}")))?;
            let segment = fds.pop().ok_or_else(wrong)?;
            (config, keeper, Some(Predecessor { session, segment }))
        }
        other => return Err(Error::BadInput(format!("a mount was expected, not {}", other.kind()))),
    };
    let config = parse(config)?;
    match (fds.pop(), fds.is_empty()) {
        (Some(device), true) => Ok(Order { config, device, before, keeper }),
        _ => Err(wrong()),
    }
}

fn parse(config: serde_json::Value) -> Result<MountConfig, Error> {
    // The parser's own text could quote a secret.
    serde_json::from_value(config)
        .map_err(|error| Error::BadInput(format!("mount configuration: {:?} error", error.classify())))
}

async fn report(channel: &Channel, failed: StartError) -> Error {
    let StartError { stage, error } = failed;
    tell(channel, &failure(&stage.to_string(), &error), &[]).await;
    error
}

fn failure(stage: &str, error: &Error) -> Message {
    Message::Failed { stage: stage.to_owned(), error: error.to_string(), exit_code: error.exit_code() as i32 }
}

/// A parent that is gone needs no answer.
async fn tell(channel: &Channel, message: &Message, fds: &[RawFd]) {
    if let Err(error) = channel.send(message, fds).await {
        warn!(%error, message = message.kind(), "nobody listens on the control socket");
    }
}

fn segment(serving: &Serving) -> Vec<RawFd> {
    serving.vfs.segment().fd().iter().map(AsRawFd::as_raw_fd).collect()
}

/// Who tells a worker what to do.
struct Control {
    /// `None`: the node service is gone, and the next one is not there yet.
    channel: Option<Channel>,
    /// Where the next one listens.
    keeper: Option<PathBuf>,
    device: OwnedFd,
}

impl Control {
    async fn serve(mut self, mut serving: Serving, stop: impl Future<Output = ()>) -> Result<End, Error> {
        let mut stop = std::pin::pin!(stop);
        let mut asked_to_stop = false;
        // Beside everything else: the engine may be away, and a worker that does not answer is taken for one that hangs.
        let mut looks: JoinSet<Result<(), stead_meta::Error>> = JoinSet::new();
        loop {
            let message = tokio::select! {
                end = serving.ended() => return self.end(serving, end).await,
                () = &mut stop, if !asked_to_stop => {
                    asked_to_stop = true;
                    None
                }
                () = tokio::time::sleep(AGAIN), if asked_to_stop && self.channel.is_some() => None,
                Some(learned) = looks.join_next() => {
                    let learned = learned.map_err(|error| error.to_string()).and_then(|learned| {
                        learned.map_err(|error| error.to_string())
                    });
                    let error = learned.err();
                    self.tell(&Message::LimitsLearned { error }).await;
                    continue;
                }
                message = self.next() => match message {
                    Some(message) => Some(message),
                    None => {
                        self.resume(&serving).await;
                        continue;
                    }
                },
            };
            match message {
                // Somebody keeps the mount, or will again: another worker is to serve it, not nobody.
                None if self.keeper.is_some() && !self.is_heard().await => {
                    info!("asked to end: waiting for a node service that lets another worker go on");
                    continue;
                }
                None if self.keeper.is_some() => {}
                Some(Message::HandOver) => {}
                None | Some(Message::Drain) => return self.end(serving, End::Stopped).await,
                Some(Message::Ping) => {
                    self.tell(&Message::Alive).await;
                    continue;
                }
                Some(Message::Measure) => {
                    let (labels, page) = (serving.labels.clone(), serving.vfs.metrics(""));
                    self.tell(&Message::Measured { labels, page }).await;
                    continue;
                }
                Some(Message::Reconfigure { config }) => {
                    self.reconfigure(&mut serving, config).await;
                    continue;
                }
                Some(Message::LearnLimits) => {
                    let meta = Arc::clone(&serving.meta);
                    looks.spawn(async move { meta.reload_quotas().await });
                    continue;
                }
                Some(other) => {
                    warn!(message = other.kind(), "unexpected on the control socket");
                    continue;
                }
            }
            match serving.hand_over().await {
                Ok(()) => {
                    serving.leave().await;
                    self.tell(&Message::HandedOver).await;
                    info!("handed over");
                    return Ok(End::HandedOver);
                }
                Err(error) => {
                    warn!(%error, "serving on");
                    self.tell(&failure("hand over", &error)).await;
                    if asked_to_stop {
                        tokio::time::sleep(ANOTHER_TRY).await;
                    }
                }
            }
        }
    }

    async fn end(&self, serving: Serving, end: End) -> Result<End, Error> {
        let ended = serving.end(end).await;
        match &ended {
            Ok(End::VolumeGone) => {
                let error = "the volume was removed or replaced while it was mounted".to_owned();
                let exit_code = ExitCode::VolumeGone as i32;
                self.tell(&Message::Failed { stage: "serve".to_owned(), error, exit_code }).await;
            }
            Ok(_) => self.tell(&Message::Drained).await,
            Err(error) => self.tell(&failure("drain", error)).await,
        }
        ended
    }

    /// Whether a node service listens.
    async fn is_heard(&mut self) -> bool {
        if let Some(channel) = &self.channel
            && channel.send(&Message::Alive, &[]).await.is_err()
        {
            self.channel = None;
        }
        self.channel.is_some()
    }

    async fn tell(&self, message: &Message) {
        if let Some(channel) = &self.channel {
            tell(channel, message, &[]).await;
        }
    }

    /// The next message, whenever that comes. `None`: it is time to look for a new node service.
    async fn next(&mut self) -> Option<Message> {
        while let Some(channel) = &self.channel {
            match channel.recv().await {
                Ok((message, _fds)) => return Some(message),
                // A newer node service may say more than is understood here.
                Err(error @ stead_keeper::Error::Protocol { .. }) => warn!(%error, "on the control socket"),
                Err(error) => {
                    debug!(%error, "the control socket is closed; serving on");
                    self.channel = None;
                }
            }
        }
        if self.keeper.is_none() {
            return pending().await;
        }
        tokio::time::sleep(AGAIN).await;
        None
    }

    /// Gives a new node service what it needs to keep the mount.
    async fn resume(&mut self, serving: &Serving) {
        let Some(channel) = self.keeper.as_deref().and_then(|path| Channel::connect(path).ok()) else { return };
        let config = serde_json::to_value(&serving.config).expect("a configuration has only text keys");
        let session = serde_json::to_value(serving.state()).expect("numbers only");
        let message = Message::Resume { mount_point: serving.config.mount_point.clone(), config, session };
        let mut fds = vec![self.device.as_raw_fd()];
        fds.extend(segment(serving));
        match channel.send(&message, &fds).await {
            Ok(()) => self.channel = Some(channel),
            Err(error) => debug!(%error, "the new node service does not listen"),
        }
    }

    async fn reconfigure(&self, serving: &mut Serving, config: serde_json::Value) {
        let done = match parse(config) {
            Ok(config) => serving.reconfigure(config).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => self.tell(&Message::Reconfigured).await,
            Err(error) => self.tell(&failure("reconfigure", &error)).await,
        }
    }
}
