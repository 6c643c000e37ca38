//! Who loads: a registration like that of a session, which the first record to be written is and the Format replaces.
//!
//! Invariant: every batch is only stored while the claim is the loader's own. So two loads never mix: the second is refused
//! while the first one goes on, and a first one that stood still for too long finds its claim gone and leaves the engine
//! alone. A claim that has expired belongs to a load that was killed: what is there is a part of its dump and may go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use stead_base::Clock;
use stead_meta::records::{Key, LOADING, Record, Write};
use stead_meta::store::{Cursor, Store, TxOptions, Txn, transact};
use uuid::Uuid;

use crate::error::{Error, Result};

/// A load that stores nothing for so long is taken for dead.
const PATIENCE: Duration = Duration::from_secs(60);

/// The right to load into an engine.
pub(super) struct Claim {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// What is registered: no other load's is the same.
    info: Bytes,
}

impl Claim {
    /// Takes the engine, and empties it of what a killed load left.
    pub(super) async fn take(store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) -> Result<Self> {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let info = json!({
            "Version": env!("CARGO_PKG_VERSION"),
            "HostName": host.to_string_lossy(),
            "ProcessID": std::process::id(),
            "MountPoint": format!("load {}", Uuid::new_v4()),
        });
        let info = Bytes::from(info.to_string());
        let claim = Self { store: Arc::clone(store), clock: Arc::clone(clock), info };
        if let Some(dead) = claim.left_behind().await? {
            claim.take_from(Some(dead)).await?;
            claim.give_up().await?;
        }
        store.initialize().await?;
        claim.take_from(None).await?;
        Ok(claim)
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Stores a part of the dump.
    pub(super) async fn commit(&self, writes: Vec<Write>) -> Result<()> {
        self.write(writes, TxOptions { durable: false }).await
    }

    /// Stores the last part, which makes a volume of what is there.
    pub(super) async fn finish(&self, mut writes: Vec<Write>) -> Result<()> {
        writes.push(Write::DelSession(LOADING));
        self.write(writes, TxOptions { durable: true }).await
    }

    /// Leaves the engine empty, unless it is somebody else's by now.
    pub(super) async fn give_up(&self) -> Result<()> {
        self.commit(Vec::new()).await?;
        Ok(self.store.erase().await?)
    }

    /// Refuses an engine that holds a volume, or anything that no load left. Returns the claim of a killed load.
    async fn left_behind(&self) -> Result<Option<Bytes>> {
        let store = self.store.as_ref();
        let found = store.read(&[Key::Setting, Key::Session(LOADING)]).await?;
        let [setting, claim] = &found[..] else { return Ok(None) };
        if setting.is_some() {
            return Err(self.refused("holds metadata already; a dump is loaded into an empty engine only"));
        }
        let Some(Record::Bytes(claim)) = claim else {
            return if self.holds_inodes().await? {
                Err(self.refused("holds metadata already, of a volume without a Format; empty it first"))
            } else {
                Ok(None)
            };
        };
        let expire = store.list_sessions().await?.iter().find(|session| session.sid == LOADING).map(|it| it.expire);
        let left = expire.unwrap_or(0) - self.clock.now().secs;
        if left > 0 {
            let who = String::from_utf8_lossy(claim);
            return Err(self.refused(&format!(
                "is being loaded by {who}; if that load was killed, repeat this one in {left} seconds"
            )));
        }
        Ok(Some(claim.clone()))
    }

    async fn holds_inodes(&self) -> Result<bool> {
        let mut from = Cursor::default();
        loop {
            let page = match self.store.scan_attrs(from, 1000).await {
                // A SQLite file without tables.
                Err(stead_meta::Error::NotFormatted { .. }) => return Ok(false),
                page => page?,
            };
            if !page.items.is_empty() || !page.corrupt.is_empty() {
                return Ok(true);
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(false),
            }
        }
    }

    /// Puts this claim in the place of `other`.
    async fn take_from(&self, other: Option<Bytes>) -> Result<()> {
        let register = Write::PutSession(LOADING, self.expiry(), self.info.clone());
        self.write_over(other, vec![register], TxOptions { durable: false }).await
    }

    async fn write(&self, mut writes: Vec<Write>, options: TxOptions) -> Result<()> {
        writes.insert(0, Write::TouchSession(LOADING, self.expiry(), self.info.clone()));
        self.write_over(Some(self.info.clone()), writes, options).await
    }

    /// Stores `writes` if there is no volume and `claim` is the one that is registered.
    async fn write_over(&self, claim: Option<Bytes>, writes: Vec<Write>, options: TxOptions) -> Result<()> {
        let claim = claim.map(Record::Bytes);
        let body = move |txn: &mut Txn<'_>| {
            txn.prime(&[Key::Setting, Key::Session(LOADING)])?;
            let ours = txn.get(&Key::Setting)?.is_none() && txn.get(&Key::Session(LOADING))? == claim;
            if ours {
                writes.iter().for_each(|write| txn.write(write.clone()));
            }
            Ok(ours)
        };
        match transact(self.store.as_ref(), options, body).await? {
            true => Ok(()),
            false => Err(self.refused("is used by somebody else since a moment ago; nothing of theirs was changed")),
        }
    }

    fn expiry(&self) -> i64 {
        self.clock.now().secs.saturating_add_unsigned(PATIENCE.as_secs())
    }

    fn refused(&self, why: &str) -> Error {
        Error::Refused(format!("{} {why}", self.store.describe()))
    }
}
