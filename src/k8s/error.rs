//! What can go wrong between us and a cluster.

use std::path::PathBuf;
use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the cluster did not do what was asked for.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; fields are what failed")]
pub enum Error {
    #[error("no access to a cluster: {why}")]
    Access { why: String },
    /// Ask again later.
    #[error("the API server is away and cannot {what}: {why}")]
    Away { what: String, why: String },
    #[error("the API server refuses to {what}: {why}")]
    Refused { what: String, why: String },
    #[error("worker template {}: {why}", path.display())]
    Template { path: PathBuf, why: String },
    #[error("pod {name} cannot run: {why}")]
    Pod { name: String, why: String },
    #[error("pod {name} does not run after {limit:?}: {why}")]
    SlowPod { name: String, limit: Duration, why: String },
}

impl Error {
    pub(crate) fn of(what: &str, error: &kube::Error) -> Self {
        let what = what.to_owned();
        match error {
            kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
                Self::Refused { what, why: status.message.clone() }
            }
            kube::Error::Api(status) => Self::Away { what, why: status.message.clone() },
            other => Self::Away { what, why: chain(other) },
        }
    }
}

/// An error with what caused it: the outermost of a client only says that there was one.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
