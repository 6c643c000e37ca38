//! How a command ends when it cannot do its work.

use std::fmt;

pub(crate) use stead_worker::ExitCode as Code;

/// What to print and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The process' exit code.
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::with_code(code as u8, message)
    }

    /// A code that another process ended with.
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn general(message: impl Into<String>) -> Self {
        Self::new(Code::General, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::BadInput, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<stead_worker::Error> for Failure {
    fn from(error: stead_worker::Error) -> Self {
        Self::new(error.exit_code(), error.to_string())
    }
}

impl From<stead_worker::StartError> for Failure {
    fn from(error: stead_worker::StartError) -> Self {
        Self::new(error.error.exit_code(), error.to_string())
    }
}

impl From<stead_meta::Error> for Failure {
    fn from(error: stead_meta::Error) -> Self {
        stead_worker::Error::from(error).into()
    }
}

impl From<stead_object::Error> for Failure {
    fn from(error: stead_object::Error) -> Self {
        stead_worker::Error::from(error).into()
    }
}

impl From<stead_upkeep::Error> for Failure {
    fn from(error: stead_upkeep::Error) -> Self {
        use stead_upkeep::Error as E;
        match error {
            E::Meta(error) | E::Volume(stead_volume::Error::Meta(error)) => error.into(),
            E::Object(error) | E::Volume(stead_volume::Error::Object(error)) => error.into(),
            E::Volume(stead_volume::Error::Deadline { .. }) => Self::new(Code::Unavailable, error.to_string()),
            E::Volume(_) | E::Option { .. } | E::Refused(_) | E::Dump { .. } => Self::usage(error.to_string()),
            E::Io { .. } | E::Chunk(_) => Self::general(error.to_string()),
        }
    }
}
