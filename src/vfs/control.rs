//! `.control`: commands to the mount, and their answers (format.md §6.4).
//!
//! A handle is one stream: the request's bytes as they were written, then those of the answer. So a client that wrote n
//! bytes reads its answer from offset n on, and reads nothing until there is one.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use stead_base::{Errno, Ino};
use stead_meta::records::{Attr, CHUNK_SIZE, Key, NodeType, Record};
use stead_meta::store::Cursor;
use stead_meta::view::{Piece, view};

use crate::Vfs;
use crate::errno::{Result, fail};

/// What lies behind an inode.
const INFO: u32 = 1005;
/// Command and length of the body.
const HEADER: usize = 8;
/// No command needs a longer request.
const LONGEST_REQUEST: usize = 64 << 10;
/// Comes before the length of a JSON answer; anything else is an errno.
const JSON_FOLLOWS: u8 = 0xff;
/// Entries read at a time when a name is looked for.
const PAGE: usize = 1000;

/// An open `.control`.
#[derive(Debug, Default)]
pub(crate) struct Control(Mutex<Stream>);

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    complete: bool,
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
}

impl Vfs {
    /// Takes bytes of a request and starts the command when it is complete.
    pub(crate) fn command(&self, control: &Arc<Control>, data: &[u8]) -> Result<()> {
        let Some((command, body)) = control.take(data)? else { return Ok(()) };
        let (vfs, control) = (self.me.upgrade().ok_or(Errno::EIO)?, Arc::clone(control));
        self.tasks.spawn("command", async move {
            let answer = match command {
                INFO => vfs.info(&body).await,
                _ => Err(Errno::EINVAL),
            };
            control.answer(&match answer {
                Ok(json) => framed(&json),
                Err(errno) => vec![u8::try_from(errno.0 & 0xff).unwrap_or(u8::MAX)],
            });
        });
        Ok(())
    }

    /// Body: u64 inode, then optional flags: recursive, raw (slices instead of objects), strict.
    async fn info(&self, body: &[u8]) -> Result<Value> {
        let (ino, flags) = body.split_first_chunk::<8>().ok_or(Errno::EINVAL)?;
        let ino = Ino(u64::from_be_bytes(*ino));
        let flag = |at: usize| flags.get(at).is_some_and(|flag| *flag != 0);
        let attr = match self.meta.getattr(ino).await {
            Ok(attr) => attr,
            Err(error) => return Ok(json!({"Ino": ino.0, "Failed": true, "Reason": error.to_string()})),
        };
        let summary = if attr.is_dir() && flag(0) {
            let sum = self.meta.summary(ino).await.map_err(fail)?;
            json!({"Length": sum.length, "Size": sum.size, "Files": sum.files, "Dirs": sum.dirs})
        } else {
            let (files, dirs) = if attr.is_dir() { (0, 1) } else { (1, 0) };
            json!({"Length": attr.length, "Size": attr.space(), "Files": files, "Dirs": dirs})
        };
        let (chunks, objects) = self.content(ino, &attr, flag(1)).await?;
        Ok(json!({
            "Ino": ino.0,
            "Failed": false,
            "Reason": "",
            "Summary": summary,
            "Paths": self.paths(ino, &attr).await?,
            "Chunks": chunks,
            "Objects": objects,
            "PLocks": [],
            "FLocks": [],
        }))
    }

    /// The slices of a file, or the objects they lie in.
    async fn content(&self, ino: Ino, attr: &Attr, raw: bool) -> Result<(Vec<Value>, Vec<Value>)> {
        let (mut chunks, mut objects) = (Vec::new(), Vec::new());
        if attr.kind != NodeType::File {
            return Ok((chunks, objects));
        }
        let last = u32::try_from(attr.length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        for index in self.meta.store().list_chunks(ino, 0..last).await.map_err(fail)? {
            for piece in view(&self.meta.chunk(ino, index).await.map_err(fail)?) {
                let Piece { id, size, off, len, .. } = piece;
                if raw {
                    chunks.push(json!({"ChunkIndex": index, "Id": id.0, "Size": size, "Off": off, "Len": len}));
                } else {
                    objects.extend(self.objects(index, &piece));
                }
            }
        }
        Ok((chunks, objects))
    }

    fn objects(&self, index: u32, piece: &Piece) -> Vec<Value> {
        if piece.id.is_hole() {
            return vec![json!({"ChunkIndex": index, "Key": "", "Size": piece.len, "Off": 0, "Len": piece.len})];
        }
        let (block, end) = (self.chunks.block_size(), piece.off + piece.len);
        let name = &self.meta.format().name;
        (piece.off / block..end.div_ceil(block))
            .map(|number| {
                let (start, size) = (number * block, block.min(piece.size - number * block));
                let from = piece.off.max(start);
                let key = format!("{name}/{}", self.chunks.block_key(piece.id, number, size));
                let len = end.min(start + size) - from;
                json!({"ChunkIndex": index, "Key": key, "Size": size, "Off": from - start, "Len": len})
            })
            .collect()
    }

    /// Every path of an inode, from the root that is mounted.
    async fn paths(&self, ino: Ino, attr: &Attr) -> Result<Vec<String>> {
        if ino == Ino::ROOT {
            return Ok(vec!["/".to_owned()]);
        }
        let mut parents = vec![attr.parent];
        if attr.parent.0 == 0 {
            let stored = self.meta.store().read(&[Key::Parents(ino)]).await.map_err(fail)?.pop().flatten();
            let Some(Record::Parents(directories)) = stored else { return Ok(Vec::new()) };
            parents = directories.into_keys().collect();
        }
        let mut paths = Vec::new();
        for parent in parents {
            let directory = self.directory_path(parent).await?;
            let names = self.names_of(parent, ino).await?;
            paths.extend(names.into_iter().map(|name| format!("{directory}/{name}")));
        }
        Ok(paths)
    }

    /// The path of a directory without a slash at its end.
    async fn directory_path(&self, mut dir: Ino) -> Result<String> {
        let mut path = String::new();
        while dir != Ino::ROOT && dir != Ino::TRASH {
            let parent = self.meta.parent_of(dir).await.map_err(fail)?;
            let name = self.names_of(parent, dir).await?.pop().ok_or(Errno::ENOENT)?;
            path = format!("/{name}{path}");
            dir = parent;
        }
        Ok(if dir == Ino::TRASH { format!("/.trash{path}") } else { path })
    }

    async fn names_of(&self, dir: Ino, ino: Ino) -> Result<Vec<String>> {
        let (mut names, mut from) = (Vec::new(), Cursor::default());
        loop {
            let page = self.meta.list(dir, false, from, PAGE).await.map_err(fail)?;
            let found = page.items.iter().filter(|item| item.entry.ino == ino);
            names.extend(found.map(|item| item.name.to_string()));
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }
}

fn framed(json: &Value) -> Vec<u8> {
    let text = json.to_string();
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&[JSON_FOLLOWS][..], &length.to_be_bytes(), text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
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
