//! Workers that an earlier node service has started find this one, and give it back what keeps their mounts.

use stead_keeper::{Channel, Listener, Message, Peer};
use tracing::{error, warn};

use super::worker::{Resumed, Workers};
use crate::error::Result;

/// Listens for them, for as long as the process lives.
///
/// # Errors
/// The socket cannot be used.
pub(crate) fn listen(workers: &Workers) -> Result<()> {
    let listener = Listener::bind(&workers.listen_at())?;
    let workers = workers.clone();
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((channel, peer)) => {
                    let workers = workers.clone();
                    tokio::spawn(async move {
                        if let Err(error) = welcome(&workers, channel, peer).await {
                            warn!(%error, "not taken for a worker");
                        }
                    });
                }
                Err(error) => {
                    error!(%error, "workers from before are not heard any more");
                    return;
                }
            }
        }
    });
    Ok(())
}

async fn welcome(workers: &Workers, channel: Channel, peer: Peer) -> Result<()> {
    let (message, fds) = channel.recv().await?;
    let wrong = |why: String| stead_keeper::Error::Protocol { why };
    let Message::Resume { mount_point, config, session } = message else {
        return Err(wrong(format!("unexpected {}", message.kind())).into());
    };
    let [device, segment] = <[_; 2]>::try_from(fds).map_err(|_other| wrong("two descriptors come along".to_owned()))?;
    // The parser's own text could quote a secret.
    let config = serde_json::from_value(config);
    let config = config.map_err(|error| wrong(format!("mount configuration: {:?} error", error.classify())))?;
    workers.resume(peer, &mount_point, channel, Resumed { config, session, device, segment })
}
