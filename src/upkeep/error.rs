//! Why an operator's command could not do its work.

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in words for an operator.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; fields are what failed")]
pub enum Error {
    #[error("{option} {value}: {why}")]
    Option { option: &'static str, value: String, why: String },
    /// The state of the volume forbids it; the message says what would allow it.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: {error}")]
    Io { what: String, error: std::io::Error },
    /// A dump that cannot be loaded; line and column count from 1.
    #[error("line {line}, column {column}: {why}")]
    Dump { line: u64, column: u64, why: String },
    #[error(transparent)]
    Meta(#[from] stead_meta::Error),
    #[error(transparent)]
    Object(#[from] stead_object::Error),
    #[error(transparent)]
    Chunk(#[from] stead_chunk::Error),
    #[error(transparent)]
    Volume(#[from] stead_volume::Error),
}

impl Error {
    pub(crate) fn option(option: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        Self::Option { option, value: value.to_string(), why: why.into() }
    }
}
