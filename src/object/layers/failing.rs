//! A store that fails as a test tells it to.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{Error, ObjectInfo, ObjectStore, Op, Result};

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The call fails and has no effect.
    Fail(Error),
    /// The call takes effect and then fails, as when the answer is lost.
    FailAfter(Error),
    /// The call waits first.
    Delay(Duration),
    /// The call does not end before [`Failing::heal`].
    Hang,
    /// Only so many bytes of the body are read or written, and nobody is told.
    Truncate(usize),
    /// Every byte of the body is inverted, and nobody is told.
    Corrupt,
}

/// When a [`Fault`] happens: at an operation, for keys (prefixes, for `list`) that contain a text, after some calls
/// that it leaves alone, and for a number of times.
#[derive(Clone, Debug)]
pub struct Rule {
    op: Op,
    key: String,
    skip: u32,
    times: u32,
    fault: Fault,
}

impl Rule {
    /// At every call of `op`. The fault is a temporary error until [`Rule::fault`] says otherwise.
    pub fn on(op: Op) -> Self {
        let fault = Fault::Fail(Error::Temporary { store: "failing".to_owned(), why: "as told".to_owned() });
        Self { op, key: String::new(), skip: 0, times: u32::MAX, fault }
    }

    /// Only for keys that contain `part`.
    #[must_use]
    pub fn key(mut self, part: impl Into<String>) -> Self {
        self.key = part.into();
        self
    }

    /// Not at the first `calls` calls that match.
    #[must_use]
    pub fn skip(mut self, calls: u32) -> Self {
        self.skip = calls;
        self
    }

    /// At most so many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// What happens.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// Counts a call; whether the fault happens at it.
    fn strikes(&mut self, op: Op, key: &str) -> bool {
        if self.op != op || !key.contains(&self.key) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.times != u32::MAX {
            self.times -= 1;
        }
        true
    }
}

/// A store that passes calls on except where a [`Rule`] says otherwise, and counts them. The first rule that strikes
/// wins.
#[derive(Debug)]
pub struct Failing {
    inner: Arc<dyn ObjectStore>,
    script: Mutex<Script>,
    healed: Notify,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    calls: HashMap<Op, usize>,
}

impl Failing {
    /// Without rules, that is, without faults.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, script: Mutex::default(), healed: Notify::new() }
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        self.script.lock().rules.push(rule);
    }

    /// Drops all rules; calls that hang go on.
    pub fn heal(&self) {
        self.script.lock().rules.clear();
        self.healed.notify_waiters();
    }

    /// How often `op` was called, faults included.
    pub fn calls(&self, op: Op) -> usize {
        self.script.lock().calls.get(&op).copied().unwrap_or(0)
    }

    fn strike(&self, op: Op, key: &str) -> Option<Fault> {
        let mut script = self.script.lock();
        *script.calls.entry(op).or_default() += 1;
        script.rules.iter_mut().find_map(|rule| rule.strikes(op, key).then(|| rule.fault.clone()))
    }

    /// What happens before the call, and what is left to happen to its body or answer.
    async fn before(&self, op: Op, key: &str) -> Result<After> {
        let healed = self.healed.notified();
        match self.strike(op, key) {
            None => Ok(After::Nothing),
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::FailAfter(error)) => Ok(After::Fail(error)),
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(After::Nothing)
            }
            Some(Fault::Hang) => {
                healed.await;
                Ok(After::Nothing)
            }
            Some(Fault::Truncate(keep)) => Ok(After::Truncate(keep)),
            Some(Fault::Corrupt) => Ok(After::Corrupt),
        }
    }
}

enum After {
    Nothing,
    Fail(Error),
    Truncate(usize),
    Corrupt,
}

impl After {
    fn body(&self, body: Bytes) -> Bytes {
        match self {
            Self::Truncate(keep) => body.slice(..body.len().min(*keep)),
            Self::Corrupt => body.iter().map(|byte| !byte).collect(),
            Self::Nothing | Self::Fail(_) => body,
        }
    }

    fn answer<T>(self, result: Result<T>) -> Result<T> {
        match self {
            Self::Fail(error) => Err(error),
            Self::Nothing | Self::Truncate(_) | Self::Corrupt => result,
        }
    }
}

#[async_trait]
impl ObjectStore for Failing {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes> {
        let after = self.before(Op::Get, key).await?;
        let body = self.inner.get(key, range).await.map(|body| after.body(body));
        after.answer(body)
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let after = self.before(Op::Put, key).await?;
        let done = self.inner.put(key, after.body(body)).await;
        after.answer(done)
    }

    async fn delete(&self, key: &str) -> Result<()> {
        let after = self.before(Op::Delete, key).await?;
        after.answer(self.inner.delete(key).await)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo> {
        let after = self.before(Op::Head, key).await?;
        after.answer(self.inner.head(key).await)
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>> {
        let then = self.before(Op::List, prefix).await?;
        then.answer(self.inner.list(prefix, after, limit).await)
    }

    async fn sync(&self) -> Result<()> {
        let after = self.before(Op::Sync, "").await?;
        after.answer(self.inner.sync().await)
    }

    async fn create_bucket(&self) -> Result<()> {
        let after = self.before(Op::CreateBucket, "").await?;
        after.answer(self.inner.create_bucket().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    const BODY: Bytes = Bytes::from_static(b"body");

    fn lost() -> Error {
        Error::Temporary { store: "test".into(), why: "lost".into() }
    }

    #[tokio::test]
    async fn rules_strike_at_their_key_after_their_skip_and_as_often_as_told() {
        let store = Failing::new(Arc::new(MemoryStore::new()));
        store.add(Rule::on(Op::Put).key("bad").skip(1).times(1));
        store.put("good", BODY).await.unwrap();
        store.put("bad", BODY).await.unwrap();
        store.put("bad", BODY).await.unwrap_err();
        store.put("bad", BODY).await.unwrap();
        assert_eq!(store.calls(Op::Put), 4);
    }

    #[tokio::test]
    async fn bodies_can_be_cut_and_spoilt_and_answers_lost() {
        let store = Failing::new(Arc::new(MemoryStore::new()));
        store.add(Rule::on(Op::Put).times(1).fault(Fault::FailAfter(lost())));
        store.add(Rule::on(Op::Get).times(1).fault(Fault::Truncate(2)));
        store.add(Rule::on(Op::Get).times(1).fault(Fault::Corrupt));
        store.put("k", BODY).await.unwrap_err();
        assert_eq!(store.get("k", None).await.unwrap(), "bo");
        assert_eq!(store.get("k", None).await.unwrap(), Bytes::from_static(&[!b'b', !b'o', !b'd', !b'y']));
        assert_eq!(store.get("k", None).await.unwrap(), BODY);
    }
}
