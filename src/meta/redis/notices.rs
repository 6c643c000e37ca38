//! Words to other clients, by publish and subscribe.
//!
//! They come on a connection of their own, which costs nothing while nobody says anything: on the one for operations a
//! subscription would bring the server's limits for subscribers with it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::sleep;
use tracing::debug;

use super::RedisStore;
use super::fault::Fault;
use super::locate::Locator;
use crate::error::Result;
use crate::store::NoticeHook;

/// Between two attempts to listen again.
const AGAIN: Duration = Duration::from_secs(2);
/// For an answer, which nobody waits for but who starts a mount.
const ANSWER: Duration = Duration::from_secs(3);

struct Subscribed {
    _connection: MultiplexedConnection,
    pushes: UnboundedReceiver<PushInfo>,
}

impl RedisStore {
    /// Channels belong to the server, not to a database.
    fn channel(&self) -> String {
        format!("{}stead{{flush}}{}", self.keys.prefix(), self.link.locator().db())
    }

    /// # Errors
    /// A server older than version 6, or one that does not let us subscribe.
    pub(super) async fn subscribe(&self, hook: NoticeHook) -> Result<()> {
        let (locator, channel) = (Arc::clone(self.link.locator()), self.channel());
        let mut current = match subscribed(&locator, &channel).await {
            Ok(subscribed) => Some(subscribed),
            Err(fault @ (Fault::Final(_) | Fault::NoScript)) => return Err(fault.into_error()),
            // Busy, or about to be another server.
            Err(Fault::NotDone(_) | Fault::Unknown(_)) => None,
        };
        let stop = self.tasks.stopping();
        let listening = async move {
            loop {
                if let Some(current) = &mut current {
                    heard(&mut current.pushes, &hook).await;
                }
                current = Some(again(&locator, &channel).await);
                // Something may have been missed.
                hook();
            }
        };
        self.tasks.spawn("notices", async move { stop.run_until_cancelled_owned(listening).await.unwrap_or(()) });
        Ok(())
    }

    pub(super) async fn publish(&self) -> Result<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(self.channel()).arg("");
        let _who_heard_it: u64 = self.link.query(&publish).await?;
        Ok(())
    }
}

/// Passes on what is said until the connection ends.
async fn heard(pushes: &mut UnboundedReceiver<PushInfo>, hook: &NoticeHook) {
    while let Some(push) = pushes.recv().await {
        match push.kind {
            PushKind::Message => hook(),
            PushKind::Disconnection => return,
            _ => {}
        }
    }
}

async fn again(locator: &Locator, channel: &str) -> Subscribed {
    loop {
        sleep(AGAIN).await;
        match subscribed(locator, channel).await {
            Ok(subscribed) => return subscribed,
            Err(fault) => debug!(?fault, "cannot listen"),
        }
    }
}

async fn subscribed(locator: &Locator, channel: &str) -> Result<Subscribed, Fault> {
    let (sender, pushes) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
    let config = config.set_push_sender(move |push| {
        // Nobody listens any more: the connection is about to be dropped.
        drop(sender.send(push));
        Ok::<(), Infallible>(())
    });
    let mut connection = locator.connect_to_listen(&config).await?;
    connection.subscribe(channel).await.map_err(|error| locator.explain(&error))?;
    Ok(Subscribed { _connection: connection, pushes })
}
