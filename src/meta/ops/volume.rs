//! The volume's setting: written by `format`, loaded at the start, reloaded at each heartbeat (format.md §1.3, §7.2).

use std::sync::Arc;

use bytes::Bytes;
use stead_base::{Clock, Ino, Timestamp};
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::format::Format;
use crate::records::{Attr, Key, LOADING, NodeType, Record, Write};
use crate::store::{Store, TxOptions, transact};

use super::Meta;
use super::check::Usage;

/// What is called with the new Format after a reload that changed it.
pub type ReloadHook = Box<dyn Fn(&Format) + Send + Sync>;

impl Meta {
    /// The stored Format, its secrets as they are stored.
    ///
    /// # Errors
    /// [`Error::NotFormatted`] if there is none; [`Error::Format`] if this client does not understand it.
    pub async fn load_format(store: &dyn Store) -> Result<Format> {
        let setting = store.read(&[Key::Setting]).await?.pop().flatten();
        decode_format(store, setting)
    }

    /// Writes the Format, and for a new volume its roots (format.md §1.3, steps 2 to 4). An existing volume keeps its
    /// UUID and the members that this version does not know. Returns what was stored; secrets in it are encrypted.
    ///
    /// # Errors
    /// [`Error::Format`] names a member that is not valid or cannot change; then nothing is written.
    pub async fn write_format(store: &dyn Store, format: &Format, clock: &dyn Clock) -> Result<Format> {
        Self::store_format(store, None, format, clock).await
    }

    /// Writes the Format in place of `old`, as it was loaded. Returns what was stored.
    ///
    /// # Errors
    /// As of [`Meta::write_format`]; [`Error::Conflict`] if another Format is stored by now. Then nothing is written.
    pub async fn replace_format(store: &dyn Store, old: &Format, new: &Format, clock: &dyn Clock) -> Result<Format> {
        Self::store_format(store, Some(old), new, clock).await
    }

    async fn store_format(
        store: &dyn Store,
        expected: Option<&Format>,
        format: &Format,
        clock: &dyn Clock,
    ) -> Result<Format> {
        format.validate()?;
        let (mut format, expected) = (format.clone(), expected.cloned());
        format.encrypt_secrets()?;
        store.initialize().await?;
        let now = Timestamp::from_secs(clock.now().secs);
        transact(store, TxOptions { durable: true }, move |txn| {
            txn.prime(&[Key::Setting, Key::Attr(Ino::TRASH), Key::Session(LOADING)])?;
            let old = match txn.get(&Key::Setting)? {
                Some(Record::Bytes(json)) => Some(Format::parse(&json)?),
                _ => None,
            };
            if expected.is_some() && old != expected {
                return Err(Error::Conflict { attempts: 1 }.into());
            }
            let is_new = old.is_none();
            if is_new && txn.get(&Key::Session(LOADING))?.is_some() {
                return Err(Error::Invalid {
                    field: "metadata engine",
                    value: "it holds a part of a dump".to_owned(),
                    expected: "an empty one: let `load` come to its end, or repeat it",
                }
                .into());
            }
            let had = old.as_ref().map(|old| (old.dir_stats, old.user_group_quota));
            let format = match old {
                Some(old) => format.clone().replacing(&old)?,
                None => format.clone(),
            };
            // What is left of an earlier time was not kept up meanwhile (format.md §1.3).
            if format.dir_stats && had.is_some_and(|(dir_stats, _)| !dir_stats) {
                txn.write(Write::ClearDirStats);
            }
            if format.user_group_quota && had.is_some_and(|(_, quotas)| !quotas) {
                txn.write(Write::ClearOwnerQuotas);
            }
            if format.trash_days > 0 && txn.attr(Ino::TRASH)?.is_none() {
                txn.write(Write::SetAttr(Ino::TRASH, root_attr(0o555, now)));
            }
            txn.write(Write::SetSetting(Bytes::from(format.encode())));
            if is_new {
                txn.write(Write::SetAttr(Ino::ROOT, root_attr(0o777, now)));
                if format.dir_stats {
                    txn.write(Write::InitDirStat(Ino::ROOT));
                }
            }
            Ok(format)
        })
        .await
    }

    /// The Format as of the last reload, its secrets as they are stored.
    pub fn format(&self) -> Arc<Format> {
        Arc::clone(&self.format.read())
    }

    /// Calls `hook` after each reload that found a changed Format.
    pub fn on_reload(&self, hook: ReloadHook) {
        self.hooks.lock().push(hook);
    }

    /// What the volume used when the Format was loaded again last; `None` before the first time.
    pub fn known_usage(&self) -> Option<Usage> {
        *self.usage.lock()
    }

    /// Loads the Format again and applies it, and asks in the same round trip what the volume uses. The heartbeat does
    /// that by itself.
    ///
    /// # Errors
    /// [`Error::NotFormatted`] or [`Error::Format`] if the volume is no longer the one that was mounted: the client
    /// must end (exit code 11).
    pub async fn reload(&self) -> Result<Arc<Format>> {
        let [space, inodes] = Usage::keys();
        let mut found = self.store.read(&[Key::Setting, space, inodes]).await?.into_iter();
        let new = decode_format(self.store.as_ref(), found.next().flatten())?;
        *self.usage.lock() = Some(Usage::of(found));
        let old = self.format();
        if new.uuid != old.uuid {
            return Err(Error::Format {
                member: "UUID",
                value: new.uuid,
                why: format!("the mounted volume is {}", old.uuid),
            });
        }
        if new == *old {
            return Ok(old);
        }
        info!(volume = new.name, "the volume's settings have changed");
        let new = Arc::new(new);
        *self.format.write() = Arc::clone(&new);
        for hook in self.hooks.lock().iter() {
            hook(&new);
        }
        Ok(new)
    }

    /// Waits until a heartbeat finds that the volume is gone or has become another one, and says why.
    pub async fn gone(&self) -> Error {
        let mut gone = self.gone.subscribe();
        let found = gone.wait_for(Option::is_some).await;
        let reason = found.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| Error::NotFormatted { engine: self.store.describe() })
    }

    /// A reload on behalf of the heartbeat: an engine that is away for a while is not the end of the volume.
    pub(super) async fn reload_or_note(&self) {
        match self.reload().await {
            Ok(_) => {}
            Err(error @ (Error::NotFormatted { .. } | Error::Format { .. })) => {
                self.gone.send_replace(Some(error));
            }
            Err(error) => warn!(%error, "cannot reload the volume's settings"),
        }
    }
}

fn decode_format(store: &dyn Store, setting: Option<Record>) -> Result<Format> {
    let Some(Record::Bytes(json)) = setting else {
        return Err(Error::NotFormatted { engine: store.describe() });
    };
    let format = Format::parse(&json)?;
    format.check_meta_version()?;
    Ok(format)
}

/// Attributes of the root of the tree or the trash (format.md §1.3).
pub fn root_attr(mode: u16, now: Timestamp) -> Attr {
    Attr {
        flags: 0,
        kind: NodeType::Directory,
        mode,
        uid: 0,
        gid: 0,
        atime: now,
        mtime: now,
        ctime: now,
        nlink: 2,
        length: 4096,
        rdev: 0,
        parent: Ino::ROOT,
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    }
}
