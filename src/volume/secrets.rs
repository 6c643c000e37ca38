//! The Secret of a volume, with the member names of juicefs-csi-driver, read once into [`VolumeSecrets`].
//!
//! Invariant: no error shows a value, since any member may hold a credential, be it by mistake.

use std::collections::{BTreeMap, HashMap};

use stead_base::ByteSize;
use stead_meta::format::Format;
use stead_meta::url::MetaUrl;
use tracing::info;

use crate::error::{Error, Result};
use crate::mount::Secret;
use crate::names::is_format_name;

/// How to reach a file system, and what it is to be if it has to be made.
#[derive(Clone, Debug)]
pub struct VolumeSecrets {
    /// The file system's name, a valid one.
    pub name: String,
    /// The engine's address as it was written.
    pub meta_text: Secret,
    /// The engine's address with its password.
    pub meta: MetaUrl,
    /// The engine's password when the address has none.
    pub meta_password: Option<Secret>,
    /// The password of Redis sentinels.
    pub sentinel_password: Option<Secret>,
    /// Kind of object storage: `s3`, `file`.
    pub storage: Option<String>,
    /// The bucket's address.
    pub bucket: Option<String>,
    /// Credentials of the object storage.
    pub access_key: Option<Secret>,
    /// Likewise.
    pub secret_key: Option<Secret>,
    /// Likewise.
    pub session_token: Option<Secret>,
    /// Passphrase of an RSA key.
    pub passphrase: Option<Secret>,
    wishes: Wishes,
}

/// What a new file system is to be; `None` leaves the format's default.
#[derive(Clone, Debug, Default)]
struct Wishes {
    block_size: Option<u32>,
    compression: Option<String>,
    trash_days: Option<u32>,
    capacity: Option<u64>,
    inodes: Option<u64>,
    shards: Option<u32>,
    hash_prefix: bool,
    enable_acl: bool,
    storage_class: Option<String>,
    encrypt_key: Option<Secret>,
    encrypt_algo: Option<String>,
}

impl VolumeSecrets {
    /// Reads the members of a Secret. Members that this driver does not know are left alone: a Secret may serve others.
    ///
    /// # Errors
    /// [`Error::MissingSecret`] and [`Error::Secret`] name the member.
    pub fn parse(secret: &HashMap<String, String>) -> Result<Self> {
        let members = Members(secret);
        refuse_unsupported(&members)?;
        let envs = environment(members.get("envs").unwrap_or_default())?;
        let options = format_options(members.get("format-options").unwrap_or_default())?;
        let env = |names: &[&str]| names.iter().find_map(|name| envs.get(*name)).map(|value| Secret(value.clone()));
        let either = |names: &[&'static str], variable| {
            let own = names.iter().find_map(|name| members.get(name).or(options.get(*name).map(String::as_str)));
            own.map(|value| Secret(value.to_owned())).or_else(|| env(&[variable]))
        };
        let meta_text =
            members.required("metaurl", "the address of the metadata engine, such as redis://host:6379/1")?;
        let meta_password = env(&["REDIS_PASSWORD", "META_PASSWORD"]);
        let sentinel_password = env(&["SENTINEL_PASSWORD"]);
        let meta: MetaUrl = meta_text.parse()?;
        let meta = meta.with_sentinel_password(sentinel_password.clone().map(|password| password.0));
        Ok(Self {
            name: name(members.required("name", "the name of the file system")?)?,
            meta_text: Secret(meta_text.to_owned()),
            meta: meta.or_password(meta_password.clone().map(|password| password.0)),
            meta_password,
            sentinel_password,
            storage: members.get("storage").map(str::to_lowercase),
            bucket: members.get("bucket").map(str::to_owned),
            access_key: either(&["access-key", "accesskey"], "ACCESS_KEY"),
            secret_key: either(&["secret-key", "secretkey"], "SECRET_KEY"),
            session_token: either(&["session-token"], "SESSION_TOKEN"),
            passphrase: members.untrimmed("passphrase").or_else(|| env(&["JFS_RSA_PASSPHRASE"])),
            wishes: Wishes::read(&members, &options)?,
        })
    }

    /// The Format of a new file system of this name, complete and valid.
    ///
    /// # Errors
    /// [`Error::MissingSecret`] when it does not say where the data is to go; what makes the Format invalid.
    pub(crate) fn new_format(&self, name: &str) -> Result<Format> {
        let why = "no file system is formatted there yet, and a new one needs it";
        let storage = self.storage.clone().ok_or(Error::MissingSecret { name: "storage", why })?;
        let bucket = self.bucket.clone().ok_or(Error::MissingSecret { name: "bucket", why })?;
        let bucket = stored_bucket(&storage, bucket);
        let text = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.0.clone()).unwrap_or_default();
        let wishes = &self.wishes;
        let mut format = Format::new(name, &storage, &bucket);
        format.access_key = text(&self.access_key);
        format.secret_key = text(&self.secret_key);
        format.session_token = text(&self.session_token);
        format.block_size = Format::clamp_block_size(wishes.block_size.unwrap_or(4096));
        format.compression = wishes.compression.clone().unwrap_or_else(|| "none".to_owned());
        format.trash_days = wishes.trash_days.unwrap_or(1);
        format.capacity = wishes.capacity.unwrap_or(0);
        format.inodes = wishes.inodes.unwrap_or(0);
        format.shards = wishes.shards.unwrap_or(0);
        format.hash_prefix = wishes.hash_prefix;
        format.enable_acl = wishes.enable_acl;
        format.storage_class = wishes.storage_class.clone().unwrap_or_default();
        format.encrypt_key = text(&wishes.encrypt_key);
        format.encrypt_algo = wishes.encrypt_algo.clone().unwrap_or(format.encrypt_algo);
        format.validate().map_err(member_of)?;
        Ok(format)
    }
}

impl VolumeSecrets {
    /// `old` with the settings that were given.
    ///
    /// # Errors
    /// What makes the Format invalid. Whether the change is allowed is [`Format::check_update`]'s to say.
    pub(crate) fn changed(&self, old: &Format) -> Result<Format> {
        let mut format = old.clone();
        format.decrypt_secrets()?;
        let text =
            |secret: &Option<Secret>, old: &str| secret.as_ref().map_or_else(|| old.to_owned(), |new| new.0.clone());
        format.name.clone_from(&self.name);
        format.access_key = text(&self.access_key, &format.access_key);
        format.secret_key = text(&self.secret_key, &format.secret_key);
        format.session_token = text(&self.session_token, &format.session_token);
        format.storage = self.storage.clone().unwrap_or(format.storage);
        format.bucket = stored_bucket(&format.storage, self.bucket.clone().unwrap_or(format.bucket));
        let wishes = &self.wishes;
        format.block_size = wishes.block_size.map_or(format.block_size, Format::clamp_block_size);
        format.compression = wishes.compression.clone().unwrap_or(format.compression);
        format.trash_days = wishes.trash_days.unwrap_or(format.trash_days);
        format.capacity = wishes.capacity.unwrap_or(format.capacity);
        format.inodes = wishes.inodes.unwrap_or(format.inodes);
        format.shards = wishes.shards.unwrap_or(format.shards);
        format.hash_prefix |= wishes.hash_prefix;
        format.enable_acl |= wishes.enable_acl;
        wishes.check_encryption(&format)?;
        format.raise_min_client_version();
        format.validate().map_err(member_of)?;
        Ok(format)
    }
}

/// The address as the Format has it: a directory ends with a slash (format.md §1).
fn stored_bucket(storage: &str, mut bucket: String) -> String {
    if storage == "file" && !bucket.ends_with('/') {
        bucket.push('/');
    }
    bucket
}

impl Wishes {
    /// Whether what is encrypted stays readable.
    fn check_encryption(&self, stored: &Format) -> Result<()> {
        let fixed = |name| {
            let why = "it cannot be changed: the objects that are there would become unreadable".to_owned();
            Err(Error::Secret { name, why })
        };
        if self.encrypt_key.as_ref().is_some_and(|key| key.0 != stored.encrypt_key) {
            return fixed("encrypt_rsa_key");
        }
        if self.encrypt_algo.as_ref().is_some_and(|algorithm| *algorithm != stored.encrypt_algo) {
            return fixed("encrypt-algo");
        }
        Ok(())
    }

    fn read(members: &Members<'_>, options: &BTreeMap<String, String>) -> Result<Self> {
        let text = |name: &'static str| members.get(name).or(options.get(name).map(String::as_str));
        let size = |name: &'static str, unit| {
            let read = |text| ByteSize::parse_with_unit(text, unit).map_err(|wrong| expected(name, wrong.expected));
            text(name).map(read).transpose()
        };
        let block_size = size("block-size", 1 << 10)?.map(|size| u32::try_from(size.0 >> 10).unwrap_or(u32::MAX));
        Ok(Self {
            block_size,
            compression: text("compress").map(str::to_lowercase),
            trash_days: number(text("trash-days"), "trash-days", "a number of days")?,
            capacity: size("capacity", 1 << 30)?.map(|size| size.0),
            inodes: number(text("inodes"), "inodes", "a number of inodes")?,
            shards: number(text("shards"), "shards", "a number of buckets")?,
            hash_prefix: flag(text("hash-prefix"), "hash-prefix")?,
            enable_acl: flag(text("enable-acl"), "enable-acl")?,
            storage_class: text("storage-class").map(str::to_owned),
            // Stored as it is in the file, line breaks included (format.md §5.4).
            encrypt_key: members.untrimmed("encrypt_rsa_key"),
            encrypt_algo: text("encrypt-algo").map(str::to_lowercase),
        })
    }
}

/// Names the member of the Secret that a member of the Format came from.
fn member_of(error: stead_meta::Error) -> Error {
    let stead_meta::Error::Format { member, value, why } = error else { return error.into() };
    let name = match member {
        "Name" => "name",
        "Storage" => "storage",
        "Bucket" => "bucket",
        "BlockSize" => "block-size",
        "Compression" => "compress",
        "Shards" => "shards",
        "TrashDays" => "trash-days",
        "Capacity" => "capacity",
        "Inodes" => "inodes",
        "EncryptKey" => "encrypt_rsa_key",
        "EncryptAlgo" => "encrypt-algo",
        _ => return stead_meta::Error::Format { member, value, why }.into(),
    };
    Error::Secret { name, why: format!("{value}: {why}") }
}

struct Members<'a>(&'a HashMap<String, String>);

impl<'a> Members<'a> {
    /// A member that says something.
    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A secret, in which every byte counts.
    fn untrimmed(&self, name: &str) -> Option<Secret> {
        self.0.get(name).filter(|value| !value.trim().is_empty()).cloned().map(Secret)
    }

    fn required(&self, name: &'static str, why: &'static str) -> Result<&'a str> {
        self.get(name).ok_or(Error::MissingSecret { name, why })
    }
}

fn refuse_unsupported(members: &Members<'_>) -> Result<()> {
    if members.get("token").is_some() && members.get("metaurl").is_none() {
        let why = "a token belongs to the Enterprise Edition; give metaurl";
        return Err(Error::Unsupported { what: "secret member token", why });
    }
    Ok(())
}

fn expected(name: &'static str, what: &str) -> Error {
    Error::Secret { name, why: format!("expected {what}") }
}

fn name(text: &str) -> Result<String> {
    if is_format_name(text) {
        Ok(text.to_owned())
    } else {
        Err(expected("name", "3 to 63 of a-z, 0-9 and '-', no '-' at either end"))
    }
}

fn number<T: std::str::FromStr>(text: Option<&str>, name: &'static str, what: &str) -> Result<Option<T>> {
    text.map(|text| text.parse().map_err(|_not_a_number| expected(name, what))).transpose()
}

fn flag(text: Option<&str>, name: &'static str) -> Result<bool> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(expected(name, "true or false")),
    }
}

/// `name=value,name,…`, the options of `format` as its command line has them.
fn format_options(text: &str) -> Result<BTreeMap<String, String>> {
    const KNOWN: [&str; 11] = [
        "block-size",
        "compress",
        "trash-days",
        "capacity",
        "inodes",
        "shards",
        "hash-prefix",
        "enable-acl",
        "storage-class",
        "session-token",
        "encrypt-algo",
    ];
    let mut options = BTreeMap::new();
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, "true"));
        let name = name.trim().trim_start_matches('-').replace('_', "-");
        match name.as_str() {
            known if KNOWN.contains(&known) => _ = options.insert(name, value.trim().to_owned()),
            // These turn off a check or an update that this driver does not make.
            "no-update" | "force" => info!(option = name, "format option has no effect here"),
            _ => {
                let why = format!("unknown format option {name:?}; known are {}", KNOWN.join(", "));
                return Err(Error::Secret { name: "format-options", why });
            }
        }
    }
    Ok(options)
}

/// Environment variables as JSON, or as the lines `NAME: value` of a flat YAML mapping.
fn environment(text: &str) -> Result<BTreeMap<String, String>> {
    if let Ok(object) = serde_json::from_str::<BTreeMap<String, serde_json::Value>>(text) {
        let text = |value| match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        return Ok(object.into_iter().map(|(name, value)| (name, text(value))).collect());
    }
    let unquoted = |value: &str| value.trim().trim_matches(|quote| quote == '"' || quote == '\'').to_owned();
    let flow = text.trim().strip_prefix('{').and_then(|inner| inner.strip_suffix('}'));
    let lines: Vec<&str> = flow.map_or_else(|| text.lines().collect(), |inner| inner.split(',').collect());
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (unquoted(name), unquoted(value)));
    let said = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let pairs = lines.into_iter().filter(said).map(pair);
    pairs.collect::<Option<_>>().ok_or_else(|| expected("envs", "a JSON object or a flat YAML mapping of variables"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(members: &[(&str, &str)]) -> HashMap<String, String> {
        members.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn with(more: &[(&str, &str)]) -> HashMap<String, String> {
        let base = [("name", "vol"), ("metaurl", "redis://db/1"), ("storage", "file"), ("bucket", "/data")];
        secret(&[&base[..], more].concat())
    }

    #[test]
    fn a_secret_of_the_go_driver_is_read() {
        let members = with(&[
            ("accesskey", "id"),
            ("secret-key", "hunter2"),
            ("format-options", "trash-days=0, block-size=1M,session-token=tok42, hash-prefix"),
            ("compress", "LZ4"),
            ("envs", "{\"META_PASSWORD\": \"pw42\", \"TZ\": \"UTC\"}"),
            ("token", ""),
            ("something-else", "x"),
        ]);
        let secrets = VolumeSecrets::parse(&members).expect("right");
        assert_eq!(secrets.access_key, Some(Secret("id".into())));
        assert_eq!(secrets.session_token, Some(Secret("tok42".into())));
        assert_eq!(secrets.meta_password, Some(Secret("pw42".into())));
        let format = secrets.new_format("vol").expect("valid");
        assert_eq!((format.trash_days, format.block_size, &*format.compression), (0, 1024, "lz4"));
        assert_eq!((&*format.bucket, format.hash_prefix), ("/data/", true));
        let shown = format!("{secrets:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("pw42") && !shown.contains("tok42"), "{shown}");
    }

    #[test]
    fn wrong_members_are_named_and_not_shown() {
        for (members, named) in [
            (secret(&[]), "metaurl"),
            (secret(&[("metaurl", "redis://x")]), "name"),
            (with(&[("metaurl", "nosuch://hunter2@x")]), "nosuch"),
            (with(&[("name", "hunter2_X")]), "name"),
            (with(&[("trash-days", "hunter2")]), "trash-days"),
            (with(&[("capacity", "hunter2")]), "capacity"),
            (with(&[("inodes", "-1")]), "inodes"),
            (with(&[("format-options", "bloc-size=hunter2")]), "bloc-size"),
            (with(&[("format-options", "hash-prefix=hunter2")]), "hash-prefix"),
            (with(&[("envs", "hunter2")]), "envs"),
            (secret(&[("name", "vol"), ("token", "hunter2")]), "token"),
        ] {
            let error = VolumeSecrets::parse(&members).expect_err(named).to_string();
            assert!(error.contains(named) && !error.contains("hunter2"), "{named}: {error}");
        }
    }

    #[test]
    fn a_new_file_system_must_say_where_its_data_goes_and_be_valid() {
        for (members, named) in [
            (secret(&[("name", "vol"), ("metaurl", "redis://x")]), "storage"),
            (secret(&[("name", "vol"), ("metaurl", "redis://x"), ("storage", "s3")]), "bucket"),
            (with(&[("compress", "brotli")]), "compress"),
            (with(&[("encrypt_rsa_key", "hunter2")]), "encrypt_rsa_key"),
            (with(&[("encrypt_rsa_key", "-----BEGIN X"), ("encrypt-algo", "sm4gcm")]), "encrypt-algo"),
            (with(&[("shards", "4")]), "%d"),
        ] {
            let secrets = VolumeSecrets::parse(&members).expect("well-formed");
            let error = secrets.new_format("vol").expect_err(named).to_string();
            assert!(error.contains(named) && !error.contains("hunter2"), "{named}: {error}");
        }
    }

    #[test]
    fn a_key_is_stored_as_it_is_and_never_replaced() {
        let pem = "-----BEGIN RSA PRIVATE KEY-----\n";
        let parse = |more: &[(&str, &str)]| VolumeSecrets::parse(&with(more)).expect("well-formed");
        let format = parse(&[("encrypt_rsa_key", pem)]).new_format("vol").expect("valid");
        assert_eq!((format.encrypt_key.as_str(), format.encrypt_algo.as_str()), (pem, "aes256gcm-rsa"));
        parse(&[("encrypt_rsa_key", pem)]).changed(&format).expect("the same key");
        parse(&[]).changed(&format).expect("nothing said");
        for (member, value) in
            [("encrypt_rsa_key", "-----BEGIN hunter2"), ("format-options", "encrypt-algo=chacha20-rsa")]
        {
            let error = parse(&[(member, value)]).changed(&format).expect_err(member).to_string();
            assert!(error.contains("cannot be changed") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn variables_come_as_json_or_flat_yaml() {
        for text in ["{\"A\": \"1\", \"B\": 2}", "A: 1\nB: \"2\"\n", "{A: 1, B: '2'}", "# c\nA: 1\n\nB: 2"] {
            let variables = environment(text).expect(text);
            assert_eq!((variables["A"].as_str(), variables["B"].as_str()), ("1", "2"), "{text}");
        }
        assert!(environment("").expect("none").is_empty());
    }
}
