//! What a Format may say, who may use it, and what may change in an existing one.

use stead_base::ParseError;

use super::{Format, META_VERSION, OLDEST_CLIENT, Version};
use crate::error::{Error, Result};

const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 64..=16384;
const MAX_SHARDS: u32 = 256;
const MAX_TIER: u8 = 3;

fn wrong(member: &'static str, value: impl ToString, why: impl Into<String>) -> Error {
    Error::Format { member, value: value.to_string(), why: why.into() }
}

fn check(right: bool, member: &'static str, value: impl ToString, expected: &str) -> Result<()> {
    if right { Ok(()) } else { Err(wrong(member, value, format!("expected {expected}"))) }
}

impl Format {
    /// The block size, KiB, that a wish leads to: the power of two at or below it, within 64 to 16384.
    pub fn clamp_block_size(kib: u32) -> u32 {
        1 << kib.clamp(*BLOCK_SIZES.start(), *BLOCK_SIZES.end()).ilog2()
    }

    /// Without these members nothing can be done with a volume.
    pub(super) fn check_usable(&self) -> Result<()> {
        check(!self.name.is_empty(), "Name", "\"\"", "the name of the volume")?;
        check(!self.uuid.is_empty(), "UUID", "\"\"", "the UUID of the volume")?;
        let size = self.block_size;
        let right = BLOCK_SIZES.contains(&size) && size.is_power_of_two();
        check(right, "BlockSize", size, "KiB, a power of two from 64 to 16384")
    }

    /// Checks every member of a Format that is to be stored.
    ///
    /// # Errors
    /// [`Error::Format`] names the first member that is wrong, its value and what would be right.
    pub fn validate(&self) -> Result<()> {
        self.check_usable()?;
        let name = valid_name(&self.name);
        check(name, "Name", &self.name, "3 to 63 of a-z, 0-9 and '-', no '-' at either end")?;
        check(uuid::Uuid::try_parse(&self.uuid).is_ok(), "UUID", &self.uuid, "a UUID")?;
        self.validate_storage()?;
        self.validate_encryption()?;
        check(i64::try_from(self.capacity).is_ok(), "Capacity", self.capacity, "bytes below 2^63")?;
        check(i64::try_from(self.inodes).is_ok(), "Inodes", self.inodes, "a number below 2^63")?;
        check(self.trash_days <= 36_500, "TrashDays", self.trash_days, "0 to 36500 days")?;
        self.validate_versions()
    }

    fn validate_storage(&self) -> Result<()> {
        check(!self.storage.is_empty(), "Storage", "\"\"", "a kind of object store such as s3 or file")?;
        check(!self.bucket.is_empty(), "Bucket", "\"\"", "the URL of a bucket")?;
        if self.storage == "file" {
            let directory = self.bucket.starts_with('/') && self.bucket.ends_with('/');
            check(directory, "Bucket", &self.bucket, "an absolute directory with a '/' at the end")?;
        }
        check(self.shards <= MAX_SHARDS, "Shards", self.shards, "256 at most")?;
        if self.shards > 1 {
            let places = self.bucket.matches("%d").count();
            check(places == 1, "Bucket", &self.bucket, "one %d for the number of the shard")?;
        }
        let known = matches!(self.compression.as_str(), "" | "none" | "lz4" | "zstd");
        check(known, "Compression", &self.compression, "none, lz4 or zstd")?;
        for (key, tier) in &self.tiers {
            let right = *key <= MAX_TIER && tier.id == *key;
            check(right, "Tiers", format!("{key}: ID {}", tier.id), "numbers from 0 to 3 and IDs equal to them")?;
        }
        Ok(())
    }

    fn validate_encryption(&self) -> Result<()> {
        let known = matches!(self.encrypt_algo.as_str(), "" | "aes256gcm-rsa" | "chacha20-rsa");
        check(known, "EncryptAlgo", &self.encrypt_algo, "aes256gcm-rsa or chacha20-rsa")?;
        let is_pem = self.key_encrypted || self.encrypt_key.is_empty() || self.encrypt_key.contains("-----BEGIN ");
        check(is_pem, "EncryptKey", super::REMOVED, "the PEM text of a private key")
    }

    fn validate_versions(&self) -> Result<()> {
        self.check_meta_version()?;
        let (min, max) = self.client_versions()?;
        if let (Some(min), Some(max)) = (min, max) {
            let value = &self.max_client_version;
            check(min <= max, "MaxClientVersion", value, "a version not below MinClientVersion")?;
        }
        Ok(())
    }

    /// Refuses a Format that this metadata code does not understand; also for a reload.
    pub fn check_meta_version(&self) -> Result<()> {
        let understood = self.meta_version <= META_VERSION;
        check(understood, "MetaVersion", self.meta_version, "1 at most: use a newer client")
    }

    /// Refuses a client that is too old or too new for this volume: at mount, not on a reload (format.md §1.1).
    ///
    /// # Errors
    /// [`Error::Format`] with the limit that `client` breaks.
    pub fn check_version(&self, client: &str) -> Result<()> {
        self.check_meta_version()?;
        let own: Version = client.parse().map_err(|why: ParseError| Error::Invalid {
            field: "client version",
            value: why.value,
            expected: why.expected,
        })?;
        let (min, max) = self.client_versions()?;
        if min.is_some_and(|min| own < min) {
            let why = format!("this client counts as {client}, which is too old");
            return Err(wrong("MinClientVersion", &self.min_client_version, why));
        }
        if max.is_some_and(|max| own > max) {
            let why = format!("this client counts as {client}, which is too new");
            return Err(wrong("MaxClientVersion", &self.max_client_version, why));
        }
        Ok(())
    }

    fn client_versions(&self) -> Result<(Option<Version>, Option<Version>)> {
        let read = |member, text: &str| {
            if text.is_empty() {
                return Ok(None);
            }
            let version = text.parse();
            version.map(Some).map_err(|why: ParseError| wrong(member, text, format!("expected {}", why.expected)))
        };
        Ok((read("MinClientVersion", &self.min_client_version)?, read("MaxClientVersion", &self.max_client_version)?))
    }

    /// Raises [`Format::min_client_version`] to what the features in use ask for; never lowers it.
    pub fn raise_min_client_version(&mut self) {
        let tiered = self.tiers.keys().any(|id| *id > 0);
        let needed = if tiered || !self.kerb_conf.is_empty() {
            "1.4.0-A"
        } else if !self.ranger_rest_url.is_empty() || !self.ranger_service.is_empty() {
            "1.3.0-A"
        } else if self.enable_acl {
            "1.2.0-A"
        } else {
            OLDEST_CLIENT
        };
        let current = self.min_client_version.parse::<Version>().ok();
        let needed_version = needed.parse::<Version>().expect("one of the literals above");
        if current.is_none_or(|current| current < needed_version) {
            needed.clone_into(&mut self.min_client_version);
        }
    }

    /// Whether this Format may replace `old`: data that is already stored must stay readable.
    ///
    /// # Errors
    /// [`Error::Format`] names the member that cannot change, its new value and the old one.
    pub fn check_update(&self, old: &Self) -> Result<()> {
        let fixed: [(&str, String, String); 6] = [
            ("Name", self.name.clone(), old.name.clone()),
            ("BlockSize", self.block_size.to_string(), old.block_size.to_string()),
            ("Compression", plain_compression(self), plain_compression(old)),
            ("Shards", self.shards.to_string(), old.shards.to_string()),
            ("HashPrefix", self.hash_prefix.to_string(), old.hash_prefix.to_string()),
            ("MetaVersion", self.meta_version.to_string(), old.meta_version.to_string()),
        ];
        for (member, new, old) in fixed {
            if new != old {
                return Err(wrong(member, new, format!("cannot be changed, it is {old}")));
            }
        }
        if old.enable_acl && !self.enable_acl {
            return Err(wrong("EnableACL", false, "cannot be turned off"));
        }
        Ok(())
    }

    /// This Format as the successor of `old`: checked by [`Format::check_update`], with the UUID of `old` and the
    /// members of `old` that this version does not know. Secrets that are encrypted stay so, for the kept UUID.
    ///
    /// # Errors
    /// As of [`Format::check_update`] and [`Format::decrypt_secrets`].
    pub fn replacing(mut self, old: &Self) -> Result<Self> {
        self.check_update(old)?;
        let encrypted = self.key_encrypted;
        if self.uuid != old.uuid {
            self.decrypt_secrets()?;
            self.uuid.clone_from(&old.uuid);
            if encrypted {
                self.encrypt_secrets()?;
            }
        }
        for (name, value) in &old.unknown {
            if !self.unknown.contains_key(name) {
                self.unknown.insert(name.clone(), value.clone());
            }
        }
        Ok(self)
    }
}

fn plain_compression(format: &Format) -> String {
    match format.compression.as_str() {
        "" => "none".to_owned(),
        named => named.to_owned(),
    }
}

/// `^[a-z0-9][a-z0-9\-]{1,61}[a-z0-9]$`
fn valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(byte) || *byte == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}
