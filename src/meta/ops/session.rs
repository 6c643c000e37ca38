//! The client's session: registration, heartbeat, end, and the clean-up of dead ones (format.md §2.14, §7.1).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use stead_base::{SessionId, Timestamp};
use tracing::{info, warn};

use crate::error::Result;
use crate::records::{Counter, Job, Write};
use crate::store::SessionRecord;

use super::Meta;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Stale sessions that one client cleans at a time.
const MOST_STALE: usize = 1000;

impl Meta {
    /// Registers this client. A read-only client has no session; a second call returns the first one's.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn start_session(&self) -> Result<SessionId> {
        if self.options.read_only || self.session() != SessionId::NONE {
            return Ok(self.session());
        }
        let sid = SessionId(self.store.allocate(Counter::NextSession, 1).await?);
        self.resume_session(sid).await
    }

    /// Goes on with the session of a client that is gone, with the locks and the files without a name that it kept, in
    /// place of [`Meta::start_session`]. If it has expired meanwhile, it is registered again and has nothing.
    ///
    /// # Errors
    /// Those of the engine.
    pub async fn resume_session(&self, sid: SessionId) -> Result<SessionId> {
        if self.options.read_only || sid == SessionId::NONE {
            return Ok(self.session());
        }
        if self.format().enable_acl {
            self.load_acls().await?;
        }
        let (info, expire) = (self.describe_session(), self.expiry());
        *self.session_info.lock() = info.clone();
        self.transact(move |txn| {
            txn.write(Write::PutSession(sid, expire, info.clone()));
            Ok(())
        })
        .await?;
        self.sid.store(sid.0, Ordering::Release);
        info!(%sid, "session started");
        Ok(sid)
    }

    /// Ends the session as the last act of the client: files without a name go, and the registration.
    ///
    /// # Errors
    /// Those of the engine; then another client cleans up once the session has expired.
    pub async fn close_session(&self) -> Result<()> {
        let sid = self.session();
        if sid != SessionId::NONE {
            self.clean_session(sid).await?;
            self.sid.store(0, Ordering::Release);
        }
        Ok(())
    }

    /// Starts the heartbeat and the background jobs. Once, after [`Meta::start_session`].
    pub fn start_background(self: &Arc<Self>) {
        let period = self.options.heartbeat;
        if period.is_zero() {
            return;
        }
        let me = Arc::downgrade(self);
        self.tasks.every("heartbeat", period, move || {
            let me = me.upgrade();
            async move {
                if let Some(me) = me {
                    me.beat().await;
                }
            }
        });
        if !self.options.no_bgjob && !self.options.read_only {
            self.start_jobs();
        }
    }

    /// Stops the background tasks and waits for them. Deleted files whose data is not yet gone wait for another client.
    pub async fn drain(&self) {
        self.tasks.drain().await;
    }

    /// One heartbeat; what fails is tried again with the next one.
    pub(super) async fn beat(&self) {
        if let Err(error) = self.touch_session().await {
            warn!(%error, "cannot renew the session");
        }
        self.reload_or_note().await;
        self.directories.forget_all();
        if let Err(error) = self.reload_quotas().await {
            warn!(%error, "cannot reload the quotas");
        }
        if !self.options.no_bgjob && !self.options.read_only {
            match self.clean_stale_sessions().await {
                Ok(0) => {}
                Ok(count) => info!(count, "cleaned dead sessions"),
                Err(error) => warn!(%error, "cannot clean dead sessions"),
            }
        }
    }

    async fn touch_session(&self) -> Result<()> {
        let sid = self.session();
        if sid == SessionId::NONE {
            return Ok(());
        }
        let (info, expire) = (self.session_info.lock().clone(), self.expiry());
        self.transact(move |txn| {
            txn.write(Write::TouchSession(sid, expire, info.clone()));
            Ok(())
        })
        .await
    }

    /// Cleans the sessions that have expired, if no other client does at the moment. Returns how many.
    pub(super) async fn clean_stale_sessions(&self) -> Result<usize> {
        let now = self.now().secs;
        let period = self.options.heartbeat.mul_f64(0.9).as_secs();
        if !self.store.claim_job(Job::CleanupSessions, now, i64::try_from(period).unwrap_or(i64::MAX)).await? {
            return Ok(0);
        }
        let own = self.session();
        let sessions = self.store.list_sessions().await?;
        let is_stale = |session: &SessionRecord| session.expire < now && session.sid != own;
        let stale: Vec<SessionId> =
            sessions.into_iter().filter(is_stale).map(|session| session.sid).take(MOST_STALE).collect();
        for sid in &stale {
            self.clean_session(*sid).await?;
        }
        Ok(stale.len())
    }

    /// Removes a session and what it kept alive.
    async fn clean_session(&self, sid: SessionId) -> Result<()> {
        for ino in self.store.list_sustained(sid).await? {
            self.release_for(sid, ino).await?;
        }
        self.store.clean_session(sid).await
    }

    fn expiry(&self) -> i64 {
        let lifetime = match self.options.heartbeat {
            Duration::ZERO => YEAR,
            period => period * 5,
        };
        self.now().plus(lifetime).secs
    }

    fn describe_session(&self) -> Bytes {
        let options = &self.options;
        let mut info = json!({
            "Version": options.version,
            "HostName": options.host_name,
            "MountPoint": options.mount_point.to_string_lossy(),
            "MountTime": rfc3339(self.now()),
            "ProcessID": options.pid,
        });
        if self.hears_flush_requests() {
            info[super::flush::ROOT] = self.root.0.into();
        }
        Bytes::from(info.to_string())
    }
}

fn rfc3339(time: Timestamp) -> String {
    let time = DateTime::<Utc>::from_timestamp(time.secs, time.nanos).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}
