//! The caches of blocks, by path: fill them, empty them, look what is in them.

use std::collections::{BTreeMap, VecDeque};

use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use stead_base::{Errno, Ino};
use stead_meta::records::{Attr, CHUNK_SIZE, NodeType};
use stead_meta::store::Cursor;
use stead_meta::view::{Piece, view};
use tracing::warn;

use super::request::Request;
use super::{Answer, Done};
use crate::Vfs;
use crate::errno::{Result, fail};

/// Entries of a directory that are read at once.
const PAGE: usize = 1000;
/// More at the same time would only wait for the network.
const MOST_THREADS: u16 = 256;

/// What is to be done with the blocks of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Fill,
    Evict,
    Check,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    files: u64,
    slices: u64,
    bytes: u64,
    missing: u64,
    /// Bytes in each place.
    places: BTreeMap<String, u64>,
}

impl Vfs {
    /// Body: u32 length, paths below the mount's root one per line, u16 threads, u8 background, optionally u8 action.
    pub(super) async fn cache(&self, mut request: Request<'_>, done: &Done) -> Result<Answer> {
        let length = request.u32()? as usize;
        let paths = std::str::from_utf8(request.bytes(length)?).map_err(|_| Errno::EINVAL)?.to_owned();
        let (threads, background) = (request.u16()?.clamp(1, MOST_THREADS), request.u8()? != 0);
        let action = match request.u8_or(0) {
            0 => Action::Fill,
            1 => Action::Evict,
            2 => Action::Check,
            _ => return Err(Errno::EINVAL),
        };
        if background {
            let vfs = self.me.upgrade().ok_or(Errno::EIO)?;
            self.tasks.spawn("warm up", async move {
                if let Err(errno) = vfs.cache_all(&paths, threads, action, &Done::default()).await {
                    warn!(errno = errno.name(), "cannot fill the cache");
                }
            });
            return Ok(Answer::Json(Found::default().shown()));
        }
        Ok(Answer::Json(self.cache_all(&paths, threads, action, done).await?.shown()))
    }

    async fn cache_all(&self, paths: &str, threads: u16, action: Action, done: &Done) -> Result<Found> {
        let mut found = Found::default();
        for path in paths.lines().filter(|path| !path.is_empty()) {
            let (ino, attr) = match self.meta.resolve_path(path).await {
                Ok(there) => there,
                Err(error) => {
                    warn!(path, %error, "cannot be cached");
                    continue;
                }
            };
            let mut waiting = VecDeque::from([(ino, attr)]);
            while let Some((ino, attr)) = waiting.pop_front() {
                match attr.kind {
                    NodeType::Directory => {
                        self.cache_directory(ino, &mut waiting, threads, action, done, &mut found).await?
                    }
                    NodeType::File => self.cache_file(ino, &attr, threads, action, done, &mut found).await?,
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// The files of a directory; directories in it wait for their turn.
    async fn cache_directory(
        &self,
        dir: Ino,
        waiting: &mut VecDeque<(Ino, Attr)>,
        threads: u16,
        action: Action,
        done: &Done,
        found: &mut Found,
    ) -> Result<()> {
        let mut from = Cursor::default();
        loop {
            let page = self.meta.list(dir, true, from, PAGE).await.map_err(fail)?;
            let mut files = Vec::new();
            for listed in page.items {
                match listed.attr {
                    Some(attr) if attr.is_dir() => waiting.push_back((listed.entry.ino, attr)),
                    Some(attr) if attr.kind == NodeType::File => files.push((listed.entry.ino, attr)),
                    _ => {}
                }
            }
            let work = files.into_iter().map(|(ino, attr)| async move {
                let mut one = Found::default();
                self.cache_file(ino, &attr, 1, action, done, &mut one).await.map(|()| one)
            });
            let mut results = stream::iter(work).buffer_unordered(threads.into());
            while let Some(one) = results.try_next().await? {
                found.include(one);
            }
            match page.next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    async fn cache_file(
        &self,
        ino: Ino,
        attr: &Attr,
        threads: u16,
        action: Action,
        done: &Done,
        found: &mut Found,
    ) -> Result<()> {
        let last = u32::try_from(attr.length.div_ceil(CHUNK_SIZE)).unwrap_or(u32::MAX);
        for index in self.meta.store().list_chunks(ino, 0..last).await.map_err(fail)? {
            let pieces = view(&self.meta.chunk(ino, index).await.map_err(fail)?);
            let data = pieces.into_iter().filter(|piece| !piece.id.is_hole());
            let work = data.map(|piece| self.cache_piece(piece, action, done));
            let mut results = stream::iter(work).buffer_unordered(threads.into());
            while let Some(one) = results.try_next().await? {
                found.include(one);
            }
        }
        found.files += 1;
        done.add(1, 0);
        Ok(())
    }

    async fn cache_piece(&self, piece: Piece, action: Action, done: &Done) -> Result<Found> {
        let Piece { id, size, off, len, .. } = piece;
        let mut found = Found { slices: 1, bytes: len.into(), ..Found::default() };
        match action {
            Action::Fill => self.chunks.warm(id, size, off, len).await.map_err(fail)?,
            Action::Evict => self.chunks.evict(id, size, off, len),
            Action::Check => {}
        }
        if action != Action::Evict {
            for (place, bytes) in self.chunks.cached(id, size, off, len) {
                match place {
                    Some(place) => *found.places.entry(place).or_default() += bytes,
                    None => found.missing += bytes,
                }
            }
        }
        done.add(0, len.into());
        Ok(found)
    }
}

impl Found {
    fn include(&mut self, other: Self) {
        self.files += other.files;
        self.slices += other.slices;
        self.bytes += other.bytes;
        self.missing += other.missing;
        for (place, bytes) in other.places {
            *self.places.entry(place).or_default() += bytes;
        }
    }

    fn shown(&self) -> serde_json::Value {
        json!({
            "FileCount": self.files,
            "SliceCount": self.slices,
            "TotalBytes": self.bytes,
            "MissBytes": self.missing,
            "Locations": self.places,
        })
    }
}
