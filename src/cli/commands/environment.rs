//! What comes from the environment and the machine: passwords, keys, the process, signals.

use std::sync::Arc;

use stead_base::SystemClock;
use stead_meta::url::MetaUrl;
use stead_upkeep::Opened;
use stead_volume::Secret;
use stead_worker::Process;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::exit::Failure;

/// A variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The address of an engine as it was given, and as it is understood.
pub(crate) struct MetaAddress {
    /// The address; a relative path has been made absolute, since a worker has another working directory.
    pub(crate) text: String,
    /// A password that the environment has.
    pub(crate) password: Option<String>,
    /// The password of sentinels that the environment has.
    pub(crate) sentinel_password: Option<String>,
    /// Both together.
    pub(crate) url: MetaUrl,
}

/// Reads an engine's address; a password that it lacks is looked for where the Go client looks (format.md §8).
pub(crate) fn meta_address(text: &str) -> Result<MetaAddress, Failure> {
    let password = meta_password()?;
    let sentinel_password = variable("SENTINEL_PASSWORD");
    let url = text.parse::<MetaUrl>()?.or_password(password.clone()).with_sentinel_password(sentinel_password.clone());
    let text = match &url {
        MetaUrl::Sqlite { path } => {
            let path = std::path::absolute(path).map_err(|error| Failure::usage(format!("{text}: {error}")))?;
            format!("sqlite3://{}", path.display())
        }
        MetaUrl::Redis(_) => text.to_owned(),
    };
    Ok(MetaAddress { text, password, sentinel_password, url })
}

/// Connects to a volume whose engine has this address.
pub(crate) async fn open(address: &MetaAddress) -> Result<Opened, Failure> {
    let passphrase = variable("JFS_RSA_PASSPHRASE").map(Secret);
    Ok(Opened::connect(&address.url, &process().clock, passphrase).await?)
}

fn meta_password() -> Result<Option<String>, Failure> {
    if let Some(password) = variable("REDIS_PASSWORD").or_else(|| variable("META_PASSWORD")) {
        return Ok(Some(password));
    }
    let Some(path) = variable("META_PASSWORD_FILE") else { return Ok(None) };
    match std::fs::read_to_string(&path) {
        Ok(content) => Ok(Some(content.trim().to_owned())),
        Err(error) => Err(Failure::usage(format!("META_PASSWORD_FILE={path}: {error}"))),
    }
}

/// This process, for the session's record.
pub(crate) fn process() -> Process {
    let host_name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    Process {
        clock: Arc::new(SystemClock),
        host_name: host_name.unwrap_or_else(|| "localhost".to_owned()),
        pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    }
}

/// Ends this process as `kill -9` does, leaving everything as it is.
pub(crate) fn kill_self() {
    // SIGKILL to oneself is always permitted.
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
}

/// Notified at each SIGHUP.
pub(crate) fn hangups() -> Result<Arc<Notify>, Failure> {
    let mut signals = signal(SignalKind::hangup()).map_err(|error| Failure::general(format!("signals: {error}")))?;
    let notify = Arc::new(Notify::new());
    let told = Arc::clone(&notify);
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            told.notify_one();
        }
    });
    Ok(notify)
}

/// A token that SIGTERM or SIGINT cancels.
pub(crate) fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let failed = |error: std::io::Error| Failure::general(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let token = CancellationToken::new();
    let stopped = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(token)
}
