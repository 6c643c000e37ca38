//! `.accesslog`: one line per operation, made only while somebody reads it (format.md §6.1).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Local};
use parking_lot::Mutex;
use stead_base::{Errno, Ino, Timestamp};
use stead_meta::ops::Caller;
use stead_meta::records::Attr;
use tokio::sync::mpsc;

use crate::attr::st_mode;
use crate::operation::Op;

/// Lines that wait for one reader; those that come while it is full are lost to it.
const BACKLOG: usize = 10_240;

/// Where lines go.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    readers: AtomicUsize,
    senders: Mutex<Vec<mpsc::Sender<Bytes>>>,
}

impl AccessLog {
    /// Whether a line would be read: the one load that an operation pays otherwise.
    pub(crate) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// A new reader; it ends when it is dropped.
    pub(crate) fn subscribe(&self) -> LogReader {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut senders = self.senders.lock();
        senders.push(sender);
        self.readers.store(senders.len(), Ordering::Relaxed);
        LogReader { lines: tokio::sync::Mutex::new((receiver, Bytes::new())) }
    }

    pub(crate) fn write(&self, line: String) {
        let line = Bytes::from(line);
        let mut senders = self.senders.lock();
        senders.retain(|sender| !matches!(sender.try_send(line.clone()), Err(mpsc::error::TrySendError::Closed(_))));
        self.readers.store(senders.len(), Ordering::Relaxed);
    }
}

/// An open `.accesslog`.
#[derive(Debug)]
pub(crate) struct LogReader {
    /// The lines to come, and the rest of one that was read in part.
    lines: tokio::sync::Mutex<(mpsc::Receiver<Bytes>, Bytes)>,
}

impl LogReader {
    /// The next lines, `size` bytes at most; `#\n` when nothing happened for a second.
    pub(crate) async fn read(&self, size: usize) -> Bytes {
        let mut lines = self.lines.lock().await;
        let (receiver, rest) = &mut *lines;
        if rest.is_empty() {
            match tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await {
                Ok(Some(line)) => *rest = line,
                Ok(None) | Err(_) => *rest = Bytes::from_static(b"#\n"),
            }
        }
        let mut out = Vec::from(rest.split_to(size.min(rest.len())));
        while rest.is_empty()
            && let Ok(line) = receiver.try_recv()
        {
            *rest = line;
            out.extend_from_slice(&rest.split_to((size - out.len()).min(rest.len())));
        }
        out.into()
    }
}

/// One line. `shape` is what stands between the operation's name and the status.
pub(crate) fn line(
    started: Timestamp,
    caller: &Caller,
    op: Op,
    shape: &str,
    failed: Option<Errno>,
    took: Duration,
) -> String {
    let time = DateTime::from_timestamp(started.secs, started.nanos).unwrap_or_default();
    let time = time.with_timezone(&Local).format("%Y.%m.%d %H:%M:%S%.6f");
    let status = failed.map_or_else(|| "OK".to_owned(), |errno| errno.to_string().to_lowercase());
    format!(
        "{time} [uid:{},gid:{},pid:{}] {} {shape} - {status} <{:.6}>\n",
        caller.uid,
        caller.gid,
        caller.pid,
        op.name(),
        took.as_secs_f64()
    )
}

/// ` (ino,[-rw-r--r--:0100644,nlink,uid,gid,atime,mtime,ctime,length])`
pub(crate) fn entry(out: &mut String, ino: Ino, attr: &Attr) {
    let mode = st_mode(attr);
    let _infallible = write!(
        out,
        " ({ino},[{}:0{mode:06o},{},{},{},{},{},{},{}])",
        permissions(mode),
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.atime.secs,
        attr.mtime.secs,
        attr.ctime.secs,
        attr.length
    );
}

/// As ls(1) shows a mode.
fn permissions(mode: u32) -> String {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => 'd',
        libc::S_IFLNK => 'l',
        libc::S_IFIFO => 'p',
        libc::S_IFSOCK => 's',
        libc::S_IFBLK => 'b',
        libc::S_IFCHR => 'c',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, libc::S_ISUID, 's'), (3, libc::S_ISGID, 's'), (0, libc::S_ISVTX, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 > 0 { 'r' } else { '-' });
        text.push(if bits & 2 > 0 { 'w' } else { '-' });
        text.push(match (bits & 1 > 0, mode & special > 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_documented_shape() {
        let caller = Caller::new(1, 2, 3);
        let text = line(
            Timestamp::from_secs(0),
            &caller,
            Op::Lookup,
            "(1,a):",
            Some(Errno::ENOENT),
            Duration::from_micros(1500),
        );
        let (_time, rest) = text.split_once(" [").unwrap();
        assert_eq!(rest, "uid:1,gid:2,pid:3] lookup (1,a): - no such file or directory <0.001500>\n");
        assert_eq!(text.find(" [").unwrap(), "1970.01.01 00:00:00.000000".len());
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        assert_eq!(permissions(0o100_644), "-rw-r--r--");
        assert_eq!(permissions(0o041_777), "drwxrwxrwt");
        assert_eq!(permissions(0o104_644), "-rwSr--r--");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_gets_its_lines_and_a_sign_of_life() {
        let log = AccessLog::default();
        assert!(!log.is_read());
        let reader = log.subscribe();
        assert!(log.is_read());
        log.write("one\n".to_owned());
        log.write("two\n".to_owned());
        assert_eq!(reader.read(6).await, "one\ntw");
        assert_eq!(reader.read(6).await, "o\n");
        assert_eq!(reader.read(6).await, "#\n");
        drop(reader);
        log.write("three\n".to_owned());
        assert!(!log.is_read());
    }
}
