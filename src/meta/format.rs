//! The Format: the settings of a volume as they are stored (format.md §1), the one source of configuration that all
//! clients of the volume share.
//!
//! Encoding is byte-identical to the Go client's. Members that this version does not know are kept and written back, so
//! that an older Steadfast never strips what a newer client has set. Secrets never show in `Debug` or in errors.

mod json;
mod rules;
mod secrets;
mod version;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
pub use version::Version;

/// The largest metadata version that this client understands.
pub const META_VERSION: u32 = 1;
/// What stands for a secret in everything that is printed.
pub const REMOVED: &str = "removed";
/// The oldest client that may use a volume without special features.
const OLDEST_CLIENT: &str = "1.1.0-A";

/// Where the objects of a tier go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    /// Its number, equal to the key in [`Format::tiers`].
    pub id: u8,
    /// The storage class of the object store; empty for its default.
    pub storage_class: String,
    /// `key=value`, or empty.
    pub tag: String,
    /// Members that this version does not know.
    pub unknown: Map<String, Value>,
}

/// Storage tiers by number, 0 to 3; tier 0 is where files start.
pub type Tiers = BTreeMap<u8, Tier>;

/// How a member appears in the stored JSON.
trait Member: Sized + Default {
    /// What a person should have written.
    const EXPECTED: &'static str;

    fn read(value: &Value) -> Option<Self>;
    fn write(&self) -> Value;
    fn is_zero(&self) -> bool;
}

macro_rules! format_members {
    ($($(#[$doc:meta])* $field:ident: $ty:ty = $member:literal, $when:ident;)*) => {
        /// The settings of a volume. Field order is the order in which members are written.
        #[derive(Clone, Default, PartialEq)]
        pub struct Format {
            $($(#[$doc])* pub $field: $ty,)*
            /// Members that this version does not know, in the order in which they were found.
            pub unknown: Map<String, Value>,
        }

        impl Format {
            fn from_members(mut members: Map<String, Value>) -> Result<Self> {
                $(let $field = take(&mut members, $member)?;)*
                Ok(Self { $($field,)* unknown: members })
            }

            /// The stored members as JSON, secrets as they are.
            pub fn to_json(&self) -> Value {
                let mut members = Map::new();
                $(if written!($when, self.$field) {
                    members.insert($member.to_owned(), self.$field.write());
                })*
                members.extend(self.unknown.iter().map(|(name, value)| (name.clone(), value.clone())));
                Value::Object(members)
            }
        }
    };
}

macro_rules! written {
    (always, $field:expr) => {
        true
    };
    (unless_zero, $field:expr) => {
        !$field.is_zero()
    };
}

format_members! {
    /// The volume's name: 3 to 63 of a-z, 0-9 and '-'; also the prefix of its objects.
    name: String = "Name", always;
    /// Random, version 4, lower case with dashes. Never changes.
    uuid: String = "UUID", always;
    /// The kind of object store: `file`, `s3`, …
    storage: String = "Storage", always;
    /// A default class from before there were tiers.
    storage_class: String = "StorageClass", unless_zero;
    /// Storage tiers; never empty once parsed.
    tiers: Tiers = "Tiers", always;
    /// The bucket's URL; for `file` an absolute directory with a trailing `/`.
    bucket: String = "Bucket", always;
    /// Never encrypted.
    access_key: String = "AccessKey", unless_zero;
    /// Encrypted if [`Format::key_encrypted`].
    secret_key: String = "SecretKey", unless_zero;
    /// Encrypted if [`Format::key_encrypted`].
    session_token: String = "SessionToken", unless_zero;
    /// Largest object, KiB: a power of two from 64 to 16384.
    block_size: u32 = "BlockSize", always;
    /// `none`, `lz4` or `zstd`; empty is `none`.
    compression: String = "Compression", unless_zero;
    /// Buckets to spread over, 256 at most; sharded if above 1.
    shards: u32 = "Shards", unless_zero;
    /// Other names for objects (format.md §5.1).
    hash_prefix: bool = "HashPrefix", unless_zero;
    /// Hard limit of space, bytes; 0 is none.
    capacity: u64 = "Capacity", unless_zero;
    /// Hard limit of inodes; 0 is none.
    inodes: u64 = "Inodes", unless_zero;
    /// PEM of the private key for encryption at rest, itself encrypted if [`Format::key_encrypted`].
    encrypt_key: String = "EncryptKey", unless_zero;
    /// `aes256gcm-rsa` or `chacha20-rsa`; only counts with a key.
    encrypt_algo: String = "EncryptAlgo", unless_zero;
    /// Whether the three secrets are encrypted.
    key_encrypted: bool = "KeyEncrypted", unless_zero;
    /// Mbit/s of each client; 0 is no limit.
    upload_limit: u64 = "UploadLimit", unless_zero;
    /// Mbit/s of each client; 0 is no limit.
    download_limit: u64 = "DownloadLimit", unless_zero;
    /// How long removed files stay in the trash; 0 turns it off.
    trash_days: u32 = "TrashDays", always;
    /// [`META_VERSION`].
    meta_version: u32 = "MetaVersion", unless_zero;
    /// Older clients are refused.
    min_client_version: String = "MinClientVersion", unless_zero;
    /// Newer clients are refused.
    max_client_version: String = "MaxClientVersion", unless_zero;
    /// Whether statistics are kept for each directory; directory quotas need them.
    dir_stats: bool = "DirStats", unless_zero;
    /// Whether usage is kept for each user and group.
    user_group_quota: bool = "UserGroupQuota", unless_zero;
    /// POSIX ACLs; cannot be turned off again.
    enable_acl: bool = "EnableACL", always;
    /// Address of a Ranger service.
    ranger_rest_url: String = "RangerRestUrl", unless_zero;
    /// Name of the service in Ranger.
    ranger_service: String = "RangerService", unless_zero;
    /// Whether transactions are logged (format.md §2.16).
    change_log: bool = "ChangeLog", unless_zero;
    /// Seconds that log entries are kept.
    change_log_max_age: i64 = "ChangeLogMaxAge", unless_zero;
    /// Number of log entries kept.
    change_log_max_lines: i64 = "ChangeLogMaxLines", unless_zero;
    /// Text of a Kerberos configuration.
    kerb_conf: String = "KerbConf", unless_zero;
}

impl Format {
    /// A new volume with the Go client's defaults and a random UUID.
    pub fn new(name: &str, storage: &str, bucket: &str) -> Self {
        Self {
            name: name.to_owned(),
            uuid: uuid::Uuid::new_v4().to_string(),
            storage: storage.to_owned(),
            tiers: default_tiers(""),
            bucket: bucket.to_owned(),
            block_size: 4096,
            compression: "none".to_owned(),
            encrypt_algo: "aes256gcm-rsa".to_owned(),
            trash_days: 1,
            meta_version: META_VERSION,
            min_client_version: OLDEST_CLIENT.to_owned(),
            dir_stats: true,
            ..Self::default()
        }
    }

    /// Reads the stored JSON. Unknown members and any member order are fine.
    ///
    /// # Errors
    /// [`Error::Format`] names a member that has the wrong type, or is needed and missing or unusable.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let value = serde_json::from_slice(json).map_err(|why| Error::Format {
            member: "setting",
            value: beginning(json),
            why: format!("not JSON: {why}"),
        })?;
        let Value::Object(members) = value else {
            let why = "expected a JSON object".to_owned();
            return Err(Error::Format { member: "setting", value: beginning(json), why });
        };
        let mut format = Self::from_members(members)?;
        if format.tiers.is_empty() {
            format.tiers = default_tiers(&format.storage_class);
        }
        format.check_usable()?;
        Ok(format)
    }

    /// The JSON as the Go client writes it: a line break after every token group, no indentation, `<`, `>` and `&`
    /// escaped.
    pub fn encode(&self) -> Vec<u8> {
        json::encode(&self.to_json())
    }

    /// A copy for people: each secret that is set reads [`REMOVED`].
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut copy = self.clone();
        for secret in copy.secrets_mut() {
            if !secret.is_empty() {
                REMOVED.clone_into(secret);
            }
        }
        copy
    }

    /// Bytes of a block.
    pub const fn block_bytes(&self) -> u32 {
        self.block_size * 1024
    }

    /// Bytes per second for [`Format::upload_limit`]; 0 is no limit.
    pub const fn upload_bytes_per_second(&self) -> u64 {
        self.upload_limit.saturating_mul(1_000_000) / 8
    }

    /// Bytes per second for [`Format::download_limit`]; 0 is no limit.
    pub const fn download_bytes_per_second(&self) -> u64 {
        self.download_limit.saturating_mul(1_000_000) / 8
    }

    /// The storage class of new objects; empty for the store's default.
    pub fn default_storage_class(&self) -> &str {
        self.tiers.get(&0).map_or(&self.storage_class, |tier| &tier.storage_class)
    }

    fn secrets_mut(&mut self) -> [&mut String; 3] {
        [&mut self.secret_key, &mut self.session_token, &mut self.encrypt_key]
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format{}", self.redacted().to_json())
    }
}

/// The beginning of a setting that is none; a real one may hold secrets further on.
fn beginning(setting: &[u8]) -> String {
    String::from_utf8_lossy(&setting[..setting.len().min(20)]).into_owned()
}

fn default_tiers(storage_class: &str) -> Tiers {
    let tier = Tier { storage_class: storage_class.to_owned(), ..Tier::default() };
    Tiers::from([(0, tier)])
}

/// Takes a member out of what was read; absent and null count as zero, as in Go.
fn take<T: Member>(members: &mut Map<String, Value>, member: &'static str) -> Result<T> {
    match members.shift_remove(member) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => T::read(&value).ok_or_else(|| Error::Format {
            member,
            value: shown(member, &value),
            why: format!("expected {}", T::EXPECTED),
        }),
    }
}

fn shown(member: &str, value: &Value) -> String {
    match member {
        "SecretKey" | "SessionToken" | "EncryptKey" => REMOVED.to_owned(),
        _ => value.to_string(),
    }
}

impl Member for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn write(&self) -> Value {
        self.as_str().into()
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Member for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }

    fn write(&self) -> Value {
        (*self).into()
    }

    fn is_zero(&self) -> bool {
        !self
    }
}

macro_rules! number_members {
    ($($ty:ty, $expected:literal;)*) => {$(
        impl Member for $ty {
            const EXPECTED: &'static str = $expected;

            fn read(value: &Value) -> Option<Self> {
                serde_json::from_value(value.clone()).ok()
            }

            fn write(&self) -> Value {
                (*self).into()
            }

            fn is_zero(&self) -> bool {
                *self == 0
            }
        }
    )*};
}
number_members! {
    u32, "a whole number from 0 to 4294967295";
    u64, "a whole number from 0 to 2^64 - 1";
    i64, "a whole number";
}

impl Member for Tiers {
    const EXPECTED: &'static str = r#"tiers such as {"0": {"ID": 0, "StorageClass": "STANDARD", "Tag": ""}}"#;

    fn read(value: &Value) -> Option<Self> {
        let tiers = value.as_object()?.iter();
        tiers.map(|(id, tier)| Some((id.parse().ok()?, Tier::read(tier)?))).collect()
    }

    fn write(&self) -> Value {
        Value::Object(self.iter().map(|(id, tier)| (id.to_string(), tier.write())).collect())
    }

    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Tier {
    fn read(value: &Value) -> Option<Self> {
        let mut members = value.as_object()?.clone();
        let id: u32 = take(&mut members, "ID").ok()?;
        Some(Self {
            id: id.try_into().ok()?,
            storage_class: take(&mut members, "StorageClass").ok()?,
            tag: take(&mut members, "Tag").ok()?,
            unknown: members,
        })
    }

    fn write(&self) -> Value {
        let mut members = Map::from_iter([
            ("ID".to_owned(), self.id.into()),
            ("StorageClass".to_owned(), self.storage_class.as_str().into()),
            ("Tag".to_owned(), self.tag.as_str().into()),
        ]);
        members.extend(self.unknown.clone());
        Value::Object(members)
    }
}

#[cfg(test)]
mod tests;
