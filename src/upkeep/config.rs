//! Changes of a volume's settings. What must not change is refused, what has consequences is told before it is done, a new
//! storage is tried with a real object; every mount applies the change within a heartbeat (format.md §1, §7.2).

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use stead_meta::Meta;
use stead_meta::format::{Format, REMOVED, Version};
use stead_meta::store::SessionRecord;

use crate::error::{Error, Result};
use crate::open::Opened;

/// What is to be changed; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the members of Format")]
pub struct Change {
    pub storage: Option<String>,
    pub bucket: Option<String>,
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub session_token: Option<String>,
    pub storage_class: Option<String>,
    pub trash_days: Option<u32>,
    /// Bytes.
    pub capacity: Option<u64>,
    pub inodes: Option<u64>,
    pub upload_limit: Option<u64>,
    pub download_limit: Option<u64>,
    pub dir_stats: Option<bool>,
    pub user_group_quota: Option<bool>,
    pub enable_acl: Option<bool>,
    pub min_client_version: Option<String>,
    pub max_client_version: Option<String>,
    pub encrypt_secret: bool,
}

/// A member that changes, for people: a secret reads `removed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Member {
    /// Its name in the Format.
    pub member: String,
    /// What it was.
    pub from: Value,
    /// What it becomes.
    pub to: Value,
}

/// A change that is allowed, and what follows from it.
#[derive(Debug)]
pub struct Plan {
    new: Format,
    /// The members that change; none means that there is nothing to do.
    pub members: Vec<Member>,
    /// What an operator should know before it is done.
    pub warnings: Vec<String>,
    storage_changes: bool,
}

/// Works out what `change` means for `volume`.
///
/// # Errors
/// Names the member, its value and what would be right.
pub async fn plan(volume: &Opened, change: &Change) -> Result<Plan> {
    let old = plain(&volume.format)?;
    let new = changed(&old, change)?;
    new.check_update(&old)?;
    new.validate()?;
    let mut warnings = Vec::new();
    if (&new.min_client_version, &new.max_client_version) != (&old.min_client_version, &old.max_client_version) {
        let sessions = volume.store.list_sessions().await?;
        warnings.extend(shut_out(&new, &sessions)?);
    }
    warnings.extend(consequences(&old, &new));
    let storage = |format: &Format| {
        let Format { storage, bucket, access_key, secret_key, session_token, .. } = format;
        [storage, bucket, access_key, secret_key, session_token].map(String::clone)
    };
    let mut members = differences(&old, &new);
    if change.encrypt_secret && !volume.format.key_encrypted && has_secret(&new) {
        members.push(Member { member: "KeyEncrypted".to_owned(), from: false.into(), to: true.into() });
    }
    Ok(Plan { members, warnings, storage_changes: storage(&old) != storage(&new), new })
}

/// Stores a planned change, after a test of the new storage unless `check_storage` is false.
///
/// # Errors
/// The storage that does not work, or [`Error::Refused`] if somebody else changed the settings meanwhile. Nothing has been
/// changed then.
pub async fn apply(volume: &Opened, plan: &Plan, check_storage: bool) -> Result<Format> {
    if plan.storage_changes && check_storage {
        let objects = stead_volume::open_objects(&plan.new, volume.passphrase.as_ref()).await?;
        stead_object::check(&*objects).await?;
    }
    // Accounts of owners are turned on by whoever counts what is there.
    let counts = plan.new.user_group_quota && !volume.format.user_group_quota;
    let new =
        Format { user_group_quota: volume.format.user_group_quota && plan.new.user_group_quota, ..plan.new.clone() };
    let stored = Meta::replace_format(&*volume.store, &volume.format, &new, &*volume.clock).await;
    let format = stored.map_err(|error| match error {
        stead_meta::Error::Conflict { .. } => {
            Error::Refused("somebody else has just changed the settings; look at them and try again".to_owned())
        }
        other => other.into(),
    })?;
    if counts {
        let changed = Opened {
            store: Arc::clone(&volume.store),
            format,
            clock: Arc::clone(&volume.clock),
            passphrase: volume.passphrase.clone(),
        };
        changed.meta(false).await?.enable_owner_quotas().await?;
        return Ok(Meta::load_format(&*volume.store).await?);
    }
    Ok(format)
}

/// The Format with readable secrets; those that were lost in a dump are empty.
fn plain(stored: &Format) -> Result<Format> {
    let mut format = stored.clone();
    for secret in [&mut format.secret_key, &mut format.session_token, &mut format.encrypt_key] {
        if secret == REMOVED {
            secret.clear();
        }
    }
    format.decrypt_secrets()?;
    Ok(format)
}

fn changed(old: &Format, change: &Change) -> Result<Format> {
    let mut new = old.clone();
    let set = |member: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            member.clone_from(value);
        }
    };
    set(&mut new.storage, &change.storage.as_ref().map(|storage| storage.to_lowercase()));
    set(&mut new.bucket, &change.bucket);
    set(&mut new.access_key, &change.access_key);
    set(&mut new.secret_key, &change.secret_key);
    set(&mut new.session_token, &change.session_token);
    set(&mut new.min_client_version, &change.min_client_version);
    set(&mut new.max_client_version, &change.max_client_version);
    if let Some(class) = &change.storage_class {
        new.storage_class.clone_from(class);
        new.tiers.entry(0).or_default().storage_class.clone_from(class);
    }
    if new.storage == "file" && !new.bucket.ends_with('/') {
        new.bucket.push('/');
    }
    new.trash_days = change.trash_days.unwrap_or(new.trash_days);
    new.capacity = change.capacity.unwrap_or(new.capacity);
    new.inodes = change.inodes.unwrap_or(new.inodes);
    new.upload_limit = change.upload_limit.unwrap_or(new.upload_limit);
    new.download_limit = change.download_limit.unwrap_or(new.download_limit);
    new.dir_stats = change.dir_stats.unwrap_or(new.dir_stats);
    new.user_group_quota = change.user_group_quota.unwrap_or(new.user_group_quota);
    new.enable_acl = change.enable_acl.unwrap_or(new.enable_acl);
    for (option, version) in
        [("--min-client-version", &change.min_client_version), ("--max-client-version", &change.max_client_version)]
    {
        if let Some(version) = version
            && !(option == "--max-client-version" && version.is_empty())
        {
            version
                .parse::<Version>()
                .map_err(|wrong| Error::option(option, version, format!("expected {}", wrong.expected)))?;
        }
    }
    let wanted = new.min_client_version.clone();
    new.raise_min_client_version();
    if change.min_client_version.is_some() && new.min_client_version != wanted {
        let why = format!("the features of this volume need {} at least", new.min_client_version);
        return Err(Error::option("--min-client-version", wanted, why));
    }
    Ok(new)
}

/// The members that differ, secrets not shown.
fn differences(old: &Format, new: &Format) -> Vec<Member> {
    let (before, after) = (old.to_json(), new.to_json());
    let (shown_before, shown_after) = (old.redacted().to_json(), new.redacted().to_json());
    let names = |json: &Value| json.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = names(&after);
    all.extend(names(&before).into_iter().filter(|name| after.get(name).is_none()));
    let differs = |name: &String| before.get(name) != after.get(name);
    let shown = |json: &Value, name: &str| json.get(name).cloned().unwrap_or(Value::Null);
    let member =
        |name: String| Member { from: shown(&shown_before, &name), to: shown(&shown_after, &name), member: name };
    all.into_iter().filter(differs).map(member).collect()
}

fn has_secret(format: &Format) -> bool {
    !(format.secret_key.is_empty() && format.session_token.is_empty() && format.encrypt_key.is_empty())
}

/// Clients that the limits of versions will refuse at their next mount.
fn shut_out(new: &Format, sessions: &[SessionRecord]) -> Result<Vec<String>> {
    let own = stead_meta::ops::MetaOptions::default().version;
    new.check_version(&own)?;
    let version = |session: &SessionRecord| {
        let info: Value = serde_json::from_slice(&session.info).ok()?;
        let text = info.get("Version")?.as_str()?.to_owned();
        text.parse::<Version>().ok().map(|_| text)
    };
    let refused = |session: &SessionRecord| {
        let text = version(session)?;
        new.check_version(&text).err().map(|_| format!("session {} ({text})", session.sid))
    };
    let refused: Vec<String> = sessions.iter().filter_map(refused).collect();
    Ok(match refused.is_empty() {
        true => Vec::new(),
        false => vec![format!("these clients can not mount the volume again: {}", refused.join(", "))],
    })
}

/// What else the new settings mean.
fn consequences(old: &Format, new: &Format) -> Vec<String> {
    let mut told = Vec::new();
    let mut tell = |when: bool, what: &str| {
        if when {
            told.push(what.to_owned());
        }
    };
    tell(new.trash_days < old.trash_days, "what lies in the trash for longer than that is removed within an hour");
    tell(old.dir_stats && !new.dir_stats, "without directory statistics quotas of directories are not enforced");
    tell(!old.enable_acl && new.enable_acl, "ACLs cannot be turned off again");
    tell(
        (&old.storage, &old.bucket) != (&new.storage, &new.bucket),
        "objects that lie in the old storage are not moved",
    );
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format() -> Format {
        let mut format = Format::new("vol", "file", "/data/");
        format.access_key = "id".to_owned();
        format.secret_key = "hunter2".to_owned();
        format
    }

    #[test]
    fn a_change_names_the_members_and_hides_secrets() {
        let change = Change {
            trash_days: Some(0),
            secret_key: Some("hunter3".to_owned()),
            capacity: Some(1 << 30),
            ..Change::default()
        };
        let (old, new) = (format(), changed(&format(), &change).unwrap());
        let members = differences(&Format { uuid: new.uuid.clone(), ..old }, &new);
        let names: Vec<&str> = members.iter().map(|member| member.member.as_str()).collect();
        assert_eq!(names, ["SecretKey", "Capacity", "TrashDays"]);
        assert!(!format!("{members:?}").contains("hunter"), "{members:?}");
    }

    #[test]
    fn features_need_their_client_version() {
        let change = Change { enable_acl: Some(true), ..Change::default() };
        assert_eq!(changed(&format(), &change).unwrap().min_client_version, "1.2.0-A");
        let change = Change { min_client_version: Some("1.1.0".to_owned()), ..change };
        let error = changed(&format(), &change).unwrap_err().to_string();
        assert!(error.contains("--min-client-version 1.1.0") && error.contains("1.2.0-A"), "{error}");
    }

    #[test]
    fn a_directory_gets_its_slash_and_nothing_else_changes() {
        let change = Change { bucket: Some("/other".to_owned()), ..Change::default() };
        let old = format();
        let new = changed(&old, &change).unwrap();
        assert_eq!(new.bucket, "/other/");
        let members = differences(&old, &new);
        assert_eq!(members.len(), 1, "{members:?}");
        assert_eq!(consequences(&old, &new).len(), 1);
    }

    #[test]
    fn a_secret_that_a_dump_left_out_can_be_set_again() {
        let lost = Format { secret_key: REMOVED.to_owned(), key_encrypted: true, ..format() };
        let change = Change { secret_key: Some("new".to_owned()), ..Change::default() };
        assert_eq!(changed(&plain(&lost).unwrap(), &change).unwrap().secret_key, "new");
    }
}
