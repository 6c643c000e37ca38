//! Everything that can go wrong in a call, and the one table from it to gRPC codes (CSI, "Error Scheme").

use std::path::PathBuf;
use std::time::Duration;

use stead_k8s::Error as ClusterError;
use stead_keeper::Error as KeeperError;
use stead_volume::Kind;
use tonic::{Code, Status};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{field} is required")]
    Missing { field: &'static str },
    #[error("{field}: {value:?}: {why}")]
    Field { field: &'static str, value: String, why: &'static str },
    #[error("starting_token {value:?} is none that this driver gave out: begin the list again")]
    Token { value: String },
    #[error("volume capability: {why}")]
    Capability { why: &'static str },
    /// The volume is used in a way that excludes this one.
    #[error("volume {volume} is published at {target} {why}")]
    Occupied { volume: String, target: String, why: &'static str },
    #[error("{} is published already, with another {what}: {existing}, now {requested} is asked for", target.display())]
    Incompatible { target: PathBuf, what: &'static str, existing: String, requested: String },
    #[error("volume {volume} serves {existing} on this node, now {requested} is asked for")]
    Elsewhere { volume: String, existing: String, requested: String },
    /// What is asked for is possible when the next worker serves.
    #[error("volume {volume} is between two workers: once more, when the next one serves")]
    BetweenWorkers { volume: String },
    #[error("volume {volume} is not published at {}", path.display())]
    NotPublished { volume: String, path: PathBuf },
    #[error("target {}: {why}", path.display())]
    Target { path: PathBuf, why: String },
    /// A worker could not start, in its own words.
    #[error("worker of volume {volume}: {stage}: {error} (log: {})", log.display())]
    Worker { volume: String, stage: String, error: String, exit_code: Option<i32>, log: PathBuf },
    #[error("worker of volume {volume} has not {what} within {limit:?} (log: {})", log.display())]
    SlowWorker { volume: String, what: &'static str, limit: Duration, log: PathBuf },
    #[error("{}: {why}", path.display())]
    State { path: PathBuf, why: String },
    /// The same call hangs already; another one would hang as well.
    #[error("an earlier request for {} still waits for the volume", path.display())]
    Hanging { path: PathBuf },
    #[error(transparent)]
    Volume(#[from] stead_volume::Error),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl Error {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Missing { .. } | Self::Field { .. } | Self::Capability { .. } | Self::Target { .. } => {
                Code::InvalidArgument
            }
            Self::Token { .. } => Code::Aborted,
            Self::Occupied { .. } | Self::Elsewhere { .. } => Code::FailedPrecondition,
            Self::Incompatible { .. } => Code::AlreadyExists,
            Self::NotPublished { .. } => Code::NotFound,
            Self::Worker { exit_code, .. } => worker_code(*exit_code),
            Self::SlowWorker { .. } => Code::DeadlineExceeded,
            Self::State { .. } => Code::Internal,
            Self::Hanging { .. } | Self::BetweenWorkers { .. } => Code::Unavailable,
            Self::Volume(error) => volume_code(error.kind()),
            Self::Keeper(error) => keeper_code(error),
            Self::Cluster(error) => cluster_code(error),
        }
    }

    /// Whether the same may succeed later, whatever the worker is like.
    pub(crate) fn is_of_the_cluster(&self) -> bool {
        matches!(self, Self::Cluster(ClusterError::Away { .. }))
    }
}

/// The exit codes of `stead worker`.
fn worker_code(exit_code: Option<i32>) -> Code {
    match exit_code {
        Some(2) => Code::InvalidArgument,
        Some(3) => Code::PermissionDenied,
        Some(4) => Code::Unavailable,
        Some(5 | 6 | 11) => Code::FailedPrecondition,
        Some(7) => Code::ResourceExhausted,
        Some(8) => Code::NotFound,
        _ => Code::Internal,
    }
}

fn volume_code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::OutOfRange => Code::OutOfRange,
        Kind::Exists => Code::AlreadyExists,
        Kind::NotFound => Code::NotFound,
        Kind::Busy => Code::Aborted,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unavailable => Code::Unavailable,
        Kind::Deadline => Code::DeadlineExceeded,
        Kind::Internal => Code::Internal,
    }
}

fn keeper_code(error: &KeeperError) -> Code {
    match error {
        KeeperError::Deadline { .. } => Code::DeadlineExceeded,
        // As a worker of one volume says it.
        KeeperError::NoDirectory { .. } => Code::NotFound,
        KeeperError::NotOurs { .. } | KeeperError::Closed => Code::Unavailable,
        KeeperError::Device { .. } | KeeperError::Spawn { .. } => Code::FailedPrecondition,
        KeeperError::Call { .. }
        | KeeperError::MountInfo { .. }
        | KeeperError::Fusermount { .. }
        | KeeperError::Protocol { .. }
        | KeeperError::Socket { .. } => Code::Internal,
    }
}

fn cluster_code(error: &ClusterError) -> Code {
    match error {
        ClusterError::Away { .. } | ClusterError::Access { .. } | ClusterError::Pod { .. } => Code::Unavailable,
        ClusterError::SlowPod { .. } => Code::DeadlineExceeded,
        ClusterError::Refused { .. } | ClusterError::Template { .. } => Code::FailedPrecondition,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_can_mend_is_told_apart_from_what_it_cannot() {
        let cases = [
            (Error::Missing { field: "volume_id" }, Code::InvalidArgument),
            (stead_volume::Error::UnknownParameter { name: "x".into() }.into(), Code::InvalidArgument),
            (stead_volume::Error::NotFound { thing: "volume", id: "x".into() }.into(), Code::NotFound),
            (stead_volume::Error::BeingDeleted { thing: "snapshot", id: "x".into() }.into(), Code::Aborted),
            (KeeperError::Deadline { what: "stat", limit: Duration::ZERO }.into(), Code::DeadlineExceeded),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }
}
