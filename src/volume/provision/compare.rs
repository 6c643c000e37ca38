//! Whether a clone is what its source is now.

use std::collections::BTreeMap;

use stead_base::Ino;
use stead_meta::ops::Meta;
use stead_meta::records::{Attr, Name};
use stead_meta::store::{Cursor, Listed};

const PAGE: usize = 1000;

/// Whether nothing has changed in the tree `source` since each part of it was cloned to `clone`: then the clone is what the
/// source was at the moment when this began.
pub(super) async fn is_unchanged(meta: &Meta, source: Ino, clone: Ino) -> stead_meta::error::Result<bool> {
    if !is_same(&meta.getattr(source).await?, &meta.getattr(clone).await?) {
        return Ok(false);
    }
    let mut waiting = vec![(source, clone)];
    while let Some((source, clone)) = waiting.pop() {
        let (now, mut then) = (entries(meta, source).await?, entries(meta, clone).await?);
        for (name, now) in now {
            let Some(then) = then.remove(&name) else { return Ok(false) };
            match (&now.attr, &then.attr) {
                (Some(attr), Some(cloned)) if is_same(attr, cloned) => {}
                _ => return Ok(false),
            }
            if then.attr.is_some_and(|attr| attr.is_dir()) {
                waiting.push((now.entry.ino, then.entry.ino));
            }
        }
        if !then.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A clone keeps all times, and every change of a file changes its `ctime`. Directories are compared by what is in them.
fn is_same(now: &Attr, cloned: &Attr) -> bool {
    let what = |attr: &Attr| (attr.kind, attr.mode, attr.uid, attr.gid);
    let when = |attr: &Attr| (attr.length, attr.mtime, attr.ctime);
    what(now) == what(cloned) && (now.is_dir() || when(now) == when(cloned))
}

async fn entries(meta: &Meta, dir: Ino) -> stead_meta::error::Result<BTreeMap<Name, Listed>> {
    let (mut found, mut from) = (BTreeMap::new(), Cursor::default());
    loop {
        let page = meta.list(dir, true, from, PAGE).await?;
        found.extend(page.items.into_iter().map(|item| (item.name.clone(), item)));
        match page.next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}
