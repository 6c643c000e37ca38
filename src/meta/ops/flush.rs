//! Asking mounts to write back what they hold, so that a snapshot has it.
//!
//! A request is an extended attribute of the file `/.stead/flush` with the session's number in its name, and taking it
//! away is the answer. A session whose record says what its root is (`Root`) looks for requests; the Go client has no such
//! member, and nobody waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use stead_base::{Ino, SessionId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info};

use crate::error::{Error, Result};
use crate::records::{Key, Name, Record, Write};
use crate::store::SessionRecord;

use super::tree::find_directory;
use super::{Caller, Meta, NewNode};

const DIRECTORY: &str = ".stead";
const FILE: &[u8] = b"flush";
const ATTRIBUTE: &str = "user.stead.flush.";
/// The member of a session's record.
pub(super) const ROOT: &str = "Root";
/// How often who is not told looks for a request.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked for answers.
const ANSWERS: Duration = Duration::from_millis(20);

/// How a mount learns of requests.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    how: OnceLock<How>,
    said: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Told,
    Looking,
}

/// Somebody waits until everything is written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushRequest {
    file: Ino,
    sid: SessionId,
    value: Bytes,
}

impl Meta {
    /// From now on this client hears of requests; its session will say so. Before [`Meta::start_session`], by a client that
    /// also answers them.
    pub async fn hear_flush_requests(&self) {
        let said = Arc::clone(&self.hearing.said);
        let how = match self.store().listen(Arc::new(move || said.notify_one())).await {
            Ok(true) => How::Told,
            Ok(false) => How::Looking,
            Err(error) => {
                info!(%error, "snapshots will not have what this mount has not written back: the engine does not tell");
                return;
            }
        };
        // A second call changes nothing.
        let _first = self.hearing.how.set(how);
    }

    /// Whether this client hears of requests.
    pub fn hears_flush_requests(&self) -> bool {
        self.hearing.how.get().is_some()
    }

    /// Waits for a request to this session. One that is not answered comes again.
    pub async fn flush_requested(&self) -> FlushRequest {
        loop {
            match self.own_request().await {
                Ok(Some(request)) => return request,
                Ok(None) => {}
                Err(error) => debug!(%error, "cannot look for requests to write back"),
            }
            match self.hearing.how.get() {
                Some(How::Looking) => sleep(LOOK).await,
                Some(How::Told) | None => self.hearing.said.notified().await,
            }
        }
    }

    /// Answers a request, unless there is another one by now.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn flushed(&self, request: FlushRequest) -> Result<()> {
        self.withdraw(request.file, request.value, vec![request.sid]).await
    }

    /// Has every mount that shows one of the directories, or something above or below one, write back what it holds, and
    /// waits for that until `patience` is over. Returns the sessions that have not answered by then.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn request_flush(&self, dirs: &[Ino], patience: Duration) -> Result<Vec<SessionRecord>> {
        let (now, all) = (self.now().secs, self.store.list_sessions().await?);
        let mut asked = Vec::new();
        for session in all.iter().filter(|session| session.expire >= now) {
            if let Some(root) = root_of(session)
                && self.is_related(root, dirs).await?
            {
                asked.push(session.clone());
            }
        }
        if asked.is_empty() {
            return Ok(asked);
        }
        let (file, value) = (self.request_file().await?, Bytes::from(format!("{:016x}", rand::random::<u64>())));
        self.put_requests(file, &value, &asked, &all).await?;
        self.store().notify().await?;
        let deadline = Instant::now() + patience;
        while !asked.is_empty() && Instant::now() < deadline {
            sleep(ANSWERS).await;
            let left = timeout(patience, self.unanswered(file, asked.clone())).await;
            asked = left.unwrap_or_else(|_elapsed| Ok(asked))?;
        }
        self.withdraw(file, value, asked.iter().map(|session| session.sid).collect()).await?;
        Ok(asked)
    }

    async fn own_request(&self) -> Result<Option<FlushRequest>> {
        let (store, sid) = (self.store(), self.session());
        let dir = match find_directory(store.as_ref(), DIRECTORY).await {
            Err(Error::NoEntry { .. } | Error::NotDirectory { .. }) => return Ok(None),
            dir => dir?,
        };
        let Some((entry, _attr)) = store.lookup(dir, &Name::entry(FILE)?).await? else { return Ok(None) };
        let found = store.read(&[request_key(entry.ino, sid)?]).await?.pop().flatten();
        Ok(match found {
            Some(Record::Bytes(value)) => Some(FlushRequest { file: entry.ino, sid, value }),
            _ => None,
        })
    }

    async fn request_file(&self) -> Result<Ino> {
        let dir = self.make_dirs(DIRECTORY, 0o700, 0, 0).await?;
        match self.mknod(&Caller::root(), dir, FILE, NewNode::file(0o600, 0)).await {
            Err(Error::Exists { .. }) => Ok(self.lookup(dir, FILE).await?.0),
            made => Ok(made?.0),
        }
    }

    /// Writes the requests, and takes away those to sessions that are gone.
    async fn put_requests(
        &self,
        file: Ino,
        value: &Bytes,
        asked: &[SessionRecord],
        all: &[SessionRecord],
    ) -> Result<()> {
        let known = all.iter().map(|session| request_name(session.sid)).collect::<Result<BTreeSet<_>>>()?;
        let stale: Vec<Name> = self.store.list_xattrs(file).await?;
        let stale: Vec<Name> = stale.into_iter().filter(|name| !known.contains(name)).collect();
        let asked = asked.iter().map(|session| request_name(session.sid)).collect::<Result<Vec<_>>>()?;
        let value = value.clone();
        self.transact(move |txn| {
            stale.iter().for_each(|name| txn.write(Write::DelXattr(file, name.clone())));
            asked.iter().for_each(|name| txn.write(Write::SetXattr(file, name.clone(), value.clone())));
            Ok(())
        })
        .await
    }

    async fn unanswered(&self, file: Ino, asked: Vec<SessionRecord>) -> Result<Vec<SessionRecord>> {
        let keys = asked.iter().map(|session| request_key(file, session.sid)).collect::<Result<Vec<_>>>()?;
        let found = self.store().read(&keys).await?;
        Ok(asked.into_iter().zip(found).filter(|(_, record)| record.is_some()).map(|(session, _)| session).collect())
    }

    /// Takes away requests that still are the ones of this value.
    async fn withdraw(&self, file: Ino, value: Bytes, sids: Vec<SessionId>) -> Result<()> {
        let names = sids.into_iter().map(request_name).collect::<Result<Vec<_>>>()?;
        self.transact(move |txn| {
            let keys: Vec<Key> = names.iter().map(|name| Key::Xattr(file, name.clone())).collect();
            txn.prime(&keys)?;
            for name in &names {
                if txn.xattr(file, name)?.as_ref() == Some(&value) {
                    txn.write(Write::DelXattr(file, name.clone()));
                }
            }
            Ok(())
        })
        .await
    }

    async fn is_related(&self, root: Ino, dirs: &[Ino]) -> Result<bool> {
        for dir in dirs {
            if self.is_below(root, *dir).await? || self.is_below(*dir, root).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn is_below(&self, mut ino: Ino, top: Ino) -> Result<bool> {
        loop {
            if ino == top {
                return Ok(true);
            }
            if ino == Ino::ROOT {
                return Ok(false);
            }
            match self.stored_attr(ino).await? {
                Some(attr) if attr.parent != Ino(0) && attr.parent != ino => ino = attr.parent,
                _ => return Ok(false),
            }
        }
    }
}

fn request_name(sid: SessionId) -> Result<Name> {
    Name::xattr(format!("{ATTRIBUTE}{sid}").as_bytes())
}

fn request_key(file: Ino, sid: SessionId) -> Result<Key> {
    Ok(Key::Xattr(file, request_name(sid)?))
}

fn root_of(session: &SessionRecord) -> Option<Ino> {
    let info: serde_json::Value = serde_json::from_slice(&session.info).ok()?;
    info.get(ROOT)?.as_u64().map(Ino)
}
