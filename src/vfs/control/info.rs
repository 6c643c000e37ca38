//! What lies behind an inode: sums, paths, slices or objects, locks.

use serde_json::{Value, json};
use stead_base::{Errno, Ino};
use stead_meta::records::{Attr, CHUNK_SIZE, Key, LockKind, NodeType, Record};
use stead_meta::store::Cursor;
use stead_meta::view::{Piece, view};

use crate::Vfs;
use crate::errno::{Result, fail};

/// Entries read at a time when a name is looked for.
const PAGE: usize = 1000;

impl Vfs {
    /// Body: u64 inode, then optional flags: recursive, raw (slices instead of objects), strict.
    pub(super) async fn info(&self, body: &[u8]) -> Result<Value> {
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
        let (plocks, flocks) = self.locks(ino).await?;
        Ok(json!({
            "Ino": ino.0,
            "Failed": false,
            "Reason": "",
            "Summary": summary,
            "Paths": self.paths(ino, &attr).await?,
            "Chunks": chunks,
            "Objects": objects,
            "PLocks": plocks,
            "FLocks": flocks,
            "Tier": {"ID": attr.tier, "StorageClass": "", "Tag": ""},
            "RestoreStatus": "",
        }))
    }

    /// Locks on ranges, and on the whole file.
    async fn locks(&self, ino: Ino) -> Result<(Vec<Value>, Vec<Value>)> {
        let (mut plocks, mut flocks) = (Vec::new(), Vec::new());
        for record in self.meta.store().read(&[Key::Plocks(ino), Key::Flocks(ino)]).await.map_err(fail)? {
            match record {
                Some(Record::Plocks(owners)) => plocks.extend(owners.iter().flat_map(|(owner, ranges)| {
                    ranges.iter().map(|range| {
                        json!({
                            "Sid": owner.sid.0,
                            "Owner": owner.owner,
                            "Type": range.kind as u32,
                            "Pid": range.pid,
                            "Start": range.start,
                            "End": range.end,
                        })
                    })
                })),
                Some(Record::Flocks(owners)) => flocks.extend(owners.iter().map(|(owner, kind)| {
                    let letter = if *kind == LockKind::Write { "W" } else { "R" };
                    json!({"Sid": owner.sid.0, "Owner": owner.owner, "Type": letter})
                })),
                _ => {}
            }
        }
        Ok((plocks, flocks))
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
