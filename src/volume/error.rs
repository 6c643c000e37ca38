//! Why a volume could not be made, found, changed or removed. `stead_csi` maps each kind to a gRPC status.

use std::time::Duration;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in words for the person who wrote the StorageClass or the Secret. Never holds a secret's value.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it; fields are what failed")]
pub enum Error {
    #[error("parameter {name}: {value:?} is not {expected}")]
    Parameter { name: String, value: String, expected: String },
    #[error("unknown parameter {name:?}")]
    UnknownParameter { name: String },
    /// A label or annotation (`member`) of the claim that a volume is for.
    #[error("claim {claim}: {member}: {value:?} is not {expected}")]
    ClaimMember { claim: String, member: String, value: String, expected: String },
    #[error("claim {claim} has no {member}, which is part of its volume's path (pathPattern of its StorageClass)")]
    ClaimLacks { claim: String, member: String },
    /// The value is not shown: it may be a credential in the wrong place.
    #[error("secret member {name}: {why}")]
    Secret { name: &'static str, why: String },
    #[error("the secret has no member {name:?}: {why}")]
    MissingSecret { name: &'static str, why: &'static str },
    #[error("{what} {value:?}: {why}")]
    Name { what: &'static str, value: String, why: &'static str },
    /// The request can be met by no volume.
    #[error("capacity: required {required} bytes, limit {limit} bytes: {why}")]
    Capacity { required: i64, limit: i64, why: &'static str },
    #[error("{what} is not supported: {why}")]
    Unsupported { what: &'static str, why: &'static str },
    /// The new volume could not hold what it is to begin with.
    #[error("{begin} holds {used} {unit}, the new volume may hold {limit}: ask for more")]
    SourceLarger { begin: String, used: u64, unit: &'static str, limit: u64 },
    /// There is a volume or snapshot (`thing`) of that name, made from another request.
    #[error("{thing} {id} exists with another {what}: {existing}, now {requested} is asked for")]
    Exists { thing: &'static str, id: String, what: &'static str, existing: String, requested: String },
    #[error("{thing} {id} does not exist")]
    NotFound { thing: &'static str, id: String },
    #[error("{thing} {id} is not complete yet")]
    NotReady { thing: &'static str, id: String },
    #[error("snapshot {snapshot} is part of the group snapshot {group} and can only be deleted with it")]
    InGroup { snapshot: String, group: String },
    #[error("group snapshot {group} has the snapshots {existing}, now {requested} are named")]
    Members { group: String, existing: String, requested: String },
    #[error("volume {volume} cannot be in a group snapshot: {why}")]
    NotTogether { volume: String, why: &'static str },
    /// No moment was found at which all members of a group were as they are in their snapshots.
    #[error(
        "the volumes of group snapshot {group} were written to while it was taken: write less meanwhile, and ask again"
    )]
    Changing { group: String },
    /// Another call works on it.
    #[error("{thing} {id} is being deleted")]
    BeingDeleted { thing: &'static str, id: String },
    /// The engine or the bucket belongs to somebody else.
    #[error("{place} is in use: {why}")]
    InUse { place: String, why: String },
    #[error("no free database in {range}: all hold other volumes")]
    NoDatabase { range: String },
    /// A record of ours that does not decode.
    #[error("the record of {thing} {id} is damaged: {why}")]
    Record { thing: &'static str, id: String, why: String },
    #[error("{what} did not end within {limit:?}")]
    Deadline { what: &'static str, limit: Duration },
    /// A file system that the controller is configured with, not the call, is wrong.
    #[error("configured file system {name:?}: {source}")]
    Configured { name: String, source: Box<Error> },
    #[error("file {path}: {why}")]
    File { path: String, why: String },
    #[error(transparent)]
    Option(#[from] crate::OptionError),
    #[error(transparent)]
    Meta(#[from] stead_meta::Error),
    #[error(transparent)]
    Object(#[from] stead_object::Error),
}

impl Error {
    pub(crate) fn parameter(name: &str, value: &str, expected: impl Into<String>) -> Self {
        Self::Parameter { name: name.to_owned(), value: value.to_owned(), expected: expected.into() }
    }
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mend the request.
    Invalid,
    /// Ask for another size.
    OutOfRange,
    /// Choose another name.
    Exists,
    /// There is nothing of that name.
    NotFound,
    /// Ask again when the other call has ended.
    Busy,
    /// Something outside of the request has to be changed first.
    Precondition,
    /// Make room.
    Exhausted,
    /// Give other credentials.
    Denied,
    /// Ask again later.
    Unavailable,
    /// Ask again; it took too long.
    Deadline,
    /// Look into the log.
    Internal,
}

impl Error {
    /// The kind of this error. Exhaustive: a new error has to be sorted in here.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Parameter { .. }
            | Self::UnknownParameter { .. }
            | Self::Name { .. }
            | Self::Unsupported { .. }
            | Self::InGroup { .. }
            | Self::Members { .. }
            | Self::Option(_) => Kind::Invalid,
            Self::Capacity { .. } | Self::SourceLarger { .. } => Kind::OutOfRange,
            Self::Exists { .. } => Kind::Exists,
            Self::NotFound { .. } => Kind::NotFound,
            Self::BeingDeleted { .. } | Self::NotReady { .. } => Kind::Busy,
            // Secret and claim can be mended under the same request, which is tried again soon; an invalid request is not.
            Self::Secret { .. }
            | Self::MissingSecret { .. }
            | Self::ClaimMember { .. }
            | Self::ClaimLacks { .. }
            | Self::InUse { .. }
            | Self::NotTogether { .. } => Kind::Precondition,
            Self::Changing { .. } => Kind::Unavailable,
            Self::NoDatabase { .. } => Kind::Exhausted,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Record { .. } | Self::File { .. } => Kind::Internal,
            Self::Configured { source, .. } => match source.kind() {
                Kind::Invalid | Kind::NotFound => Kind::Precondition,
                kind => kind,
            },
            Self::Meta(error) => meta_kind(error),
            Self::Object(error) => object_kind(error),
        }
    }
}

fn meta_kind(error: &stead_meta::Error) -> Kind {
    use stead_meta::Error as Meta;
    match error {
        Meta::Invalid { .. } | Meta::InvalidName { .. } | Meta::NameTooLong { .. } | Meta::NotSupported { .. } => {
            Kind::Invalid
        }
        // Addresses come with Secrets.
        Meta::Address { .. }
        | Meta::NotFormatted { .. }
        | Meta::Format { .. }
        | Meta::NotDirectory { .. }
        | Meta::ReadOnly => Kind::Precondition,
        Meta::Denied { .. } => Kind::Denied,
        Meta::Unavailable { .. } => Kind::Unavailable,
        Meta::EngineFull { .. }
        | Meta::NoSpace { .. }
        | Meta::QuotaExceeded { .. }
        | Meta::OwnerQuotaExceeded { .. } => Kind::Exhausted,
        Meta::Conflict { .. } => Kind::Busy,
        Meta::NoEntry { .. }
        | Meta::NoInode { .. }
        | Meta::Exists { .. }
        | Meta::IsDirectory { .. }
        | Meta::NotEmpty { .. }
        | Meta::NotPermitted { .. }
        | Meta::AccessDenied { .. }
        | Meta::TooBig { .. }
        | Meta::NoXattr { .. }
        | Meta::XattrExists { .. }
        | Meta::TooLarge { .. }
        | Meta::Interrupted
        | Meta::NoSession { .. }
        | Meta::Corrupt { .. }
        | Meta::Engine { .. } => Kind::Internal,
    }
}

fn object_kind(error: &stead_object::Error) -> Kind {
    use stead_object::Error as Object;
    match error {
        Object::Config { .. } | Object::EncryptKey { .. } | Object::NoBucket { .. } => Kind::Precondition,
        Object::Denied { .. } => Kind::Denied,
        Object::Full { .. } => Kind::Exhausted,
        Object::Temporary { .. } => Kind::Unavailable,
        Object::NotFound { .. } | Object::Corrupt { .. } | Object::Other { .. } => Kind::Internal,
    }
}
