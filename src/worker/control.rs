//! A worker under a parent that mounts: configuration and FUSE descriptor come over the control socket, the outcome goes
//! back, and the end of the socket means nothing: the mount outlives the parent.

use std::future::Future;
use std::os::fd::{OwnedFd, RawFd};

use stead_keeper::{Channel, Message};
use stead_volume::MountConfig;
use tracing::{debug, info, warn};

use crate::error::{Error, StartError};
use crate::serve::End;
use crate::stages::{Process, start};

/// Serves the mount that arrives on the inherited socket `control_fd` until it is unmounted, `stop` is done, or the parent
/// says [`Message::Drain`].
///
/// # Errors
/// Why it could not start (the parent has been told) or what could not be flushed.
pub async fn run_controlled(control_fd: RawFd, process: Process, stop: impl Future<Output = ()>) -> Result<End, Error> {
    let channel = Channel::inherited(control_fd).map_err(|error| Error::BadInput(error.to_string()))?;
    let (config, fd) = receive(&channel).await?;
    let pid = process.pid;
    let serving = match Box::pin(start(config, fd, process)).await {
        Ok(serving) => serving,
        Err(failed) => return Err(report(&channel, failed).await),
    };
    tell(&channel, &Message::Serving { pid }).await;
    info!("serving");
    let drain = async {
        tokio::select! {
            () = stop => {}
            () = told_to_drain(&channel) => {}
        }
    };
    let end = serving.run(drain).await?;
    tell(&channel, &Message::Drained).await;
    Ok(end)
}

async fn receive(channel: &Channel) -> Result<(MountConfig, OwnedFd), Error> {
    let (message, mut fds) = channel.recv().await.map_err(|error| Error::BadInput(error.to_string()))?;
    let config = match message {
        Message::Mount { config } => serde_json::from_value(config),
        other => return Err(Error::BadInput(format!("a mount was expected, not {}", other.kind()))),
    };
    // The parser's own text could quote a secret.
    let config =
        config.map_err(|error| Error::BadInput(format!("mount configuration: {:?} error", error.classify())))?;
    match (fds.pop(), fds.is_empty()) {
        (Some(fd), true) => Ok((config, fd)),
        _ => Err(Error::BadInput("a mount comes with exactly one descriptor".to_owned())),
    }
}

async fn report(channel: &Channel, failed: StartError) -> Error {
    let StartError { stage, error } = failed;
    let exit_code = error.exit_code() as i32;
    let message = Message::Failed { stage: stage.to_string(), error: error.to_string(), exit_code };
    tell(channel, &message).await;
    error
}

/// A parent that is gone needs no answer.
async fn tell(channel: &Channel, message: &Message) {
    if let Err(error) = channel.send(message, &[]).await {
        warn!(%error, message = message.kind(), "nobody listens on the control socket");
    }
}

async fn told_to_drain(channel: &Channel) {
    loop {
        match channel.recv().await {
            Ok((Message::Drain, _)) => return,
            Ok((other, _)) => warn!(message = other.kind(), "unexpected on the control socket"),
            Err(error) => {
                debug!(%error, "the control socket is closed; serving on");
                return std::future::pending().await;
            }
        }
    }
}
