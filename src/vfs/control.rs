//! `.control`: commands to the mount, and their answers (format.md §6.4).
//!
//! A handle is one stream: the request's bytes as they were written, then those of the answer. So a client that wrote n
//! bytes reads its answer from offset n on, and reads nothing until there is one. While a command works, frames tell how
//! far it is; it stops when its handle is closed.

mod cache;
mod info;
mod request;
mod tree;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use stead_base::Errno;
use stead_meta::ops::Caller;
use tokio::time::{MissedTickBehavior, interval};

use crate::Vfs;
use crate::errno::Result;
use request::Request;

/// Remove a tree.
const REMOVE: u32 = 1002;
/// Fill the cache, empty it, or look what is in it.
const CACHE: u32 = 1004;
/// What lies behind an inode.
const INFO: u32 = 1005;
/// Clone a file or a tree.
const CLONE: u32 = 1006;
/// Sums of a tree.
const SUMMARY: u32 = 1007;
/// Join the slices of files.
const COMPACT: u32 = 1008;
/// Command and length of the body.
const HEADER: usize = 8;
/// A list of paths may be long; nothing needs more.
const LONGEST_REQUEST: usize = 16 << 20;
/// Comes before two numbers: how much is done.
const PROGRESS_FOLLOWS: u8 = 0xfe;
/// Comes before the length of a JSON answer; anything else is an errno.
const JSON_FOLLOWS: u8 = 0xff;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(300);

/// An open `.control`.
#[derive(Debug, Default)]
pub(crate) struct Control(Mutex<Stream>);

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    complete: bool,
}

/// How far a command is: two numbers that mean what the command says.
#[derive(Debug, Default)]
struct Done {
    first: AtomicU64,
    second: AtomicU64,
}

impl Done {
    fn add(&self, first: u64, second: u64) {
        self.first.fetch_add(first, Ordering::Relaxed);
        self.second.fetch_add(second, Ordering::Relaxed);
    }

    fn frame(&self) -> Vec<u8> {
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_be_bytes();
        [&[PROGRESS_FOLLOWS][..], &number(&self.first), &number(&self.second)].concat()
    }
}

/// How a command ends when it does not fail.
enum Answer {
    /// There is nothing to say.
    Done,
    Json(Value),
}

impl Answer {
    fn frame(self) -> Vec<u8> {
        match self {
            Self::Done => vec![0],
            Self::Json(json) => framed(&json),
        }
    }
}

impl Control {
    /// Takes bytes of a request. Once it is complete: command and body.
    fn take(&self, data: &[u8]) -> Result<Option<(u32, Vec<u8>)>> {
        let mut stream = self.0.lock();
        if stream.complete {
            return Err(Errno::EBUSY);
        }
        if stream.bytes.len() + data.len() > LONGEST_REQUEST {
            return Err(Errno::E2BIG);
        }
        stream.bytes.extend_from_slice(data);
        let Some((header, body)) = stream.bytes.split_at_checked(HEADER) else { return Ok(None) };
        let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if body.len() < number(4) as usize {
            return Ok(None);
        }
        let request = (number(0), body.to_vec());
        stream.complete = true;
        Ok(Some(request))
    }

    fn answer(&self, answer: &[u8]) {
        self.0.lock().bytes.extend_from_slice(answer);
    }

    pub(crate) fn read(&self, offset: u64, size: usize) -> Bytes {
        let stream = self.0.lock();
        let start = usize::try_from(offset).map_or(stream.bytes.len(), |offset| offset.min(stream.bytes.len()));
        Bytes::copy_from_slice(&stream.bytes[start..stream.bytes.len().min(start.saturating_add(size))])
    }

    /// Waits for `work`, tells how far it is, and gives it up when nobody holds the handle any more.
    async fn follow<T>(self: &Arc<Self>, done: &Done, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    self.answer(&done.frame());
                    return Some(result);
                }
                _ = ticks.tick() => {
                    if Arc::strong_count(self) == 1 {
                        return None;
                    }
                    self.answer(&done.frame());
                }
            }
        }
    }
}

impl Vfs {
    /// Takes bytes of a request and starts the command when it is complete.
    pub(crate) fn command(&self, caller: &Caller, control: &Arc<Control>, data: &[u8]) -> Result<()> {
        let Some((command, body)) = control.take(data)? else { return Ok(()) };
        let (vfs, control, caller) = (self.me.upgrade().ok_or(Errno::EIO)?, Arc::clone(control), caller.clone());
        self.tasks.spawn("command", async move {
            let done = Done::default();
            let work = vfs.execute(&caller, command, &body, &done);
            let answer = match command {
                // Nothing to wait for, so nothing to tell meanwhile.
                INFO => Some(work.await),
                _ => control.follow(&done, work).await,
            };
            match answer {
                Some(Ok(answer)) => control.answer(&answer.frame()),
                Some(Err(errno)) => control.answer(&[u8::try_from(errno.0 & 0xff).unwrap_or(u8::MAX)]),
                None => {}
            }
        });
        Ok(())
    }

    async fn execute(&self, caller: &Caller, command: u32, body: &[u8], done: &Done) -> Result<Answer> {
        let request = Request(body);
        match command {
            REMOVE => self.remove(caller, request, done).await,
            CACHE => self.cache(request, done).await,
            INFO => self.info(body).await.map(Answer::Json),
            CLONE => self.clone(caller, request, done).await,
            COMPACT => self.compact_below(request, done).await,
            SUMMARY => self.summary(request, done).await.map(Answer::Json),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn framed(json: &Value) -> Vec<u8> {
    let text = json.to_string();
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&[JSON_FOLLOWS][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_may_come_in_parts_and_stays_in_front_of_its_answer() {
        let control = Control::default();
        let request = [&INFO.to_be_bytes()[..], &3u32.to_be_bytes(), b"abc"].concat();
        assert_eq!(control.take(&request[..5]), Ok(None));
        assert_eq!(control.take(&request[5..]), Ok(Some((INFO, b"abc".to_vec()))));
        assert_eq!(control.read(11, 100), Bytes::new());
        control.answer(&framed(&json!({})));
        assert_eq!(&control.read(0, 11)[..], &request[..]);
        assert_eq!(&control.read(11, 100)[..], b"\xff\0\0\0\x02{}");
        assert_eq!(control.take(b"x"), Err(Errno::EBUSY));
    }

    #[test]
    fn a_request_that_never_ends_is_refused() {
        let control = Control::default();
        assert_eq!(control.take(&[0xff; LONGEST_REQUEST + 1]), Err(Errno::E2BIG));
    }
}
