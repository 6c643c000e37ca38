//! From inodes to paths.

use stead_base::Ino;
use stead_meta::Meta;
use stead_meta::records::Name;
use stead_meta::store::Cursor;

use crate::error::Result;

const PAGE: usize = 1000;

/// The path of a directory from the root, `/` for the root itself; `None` if it is not reachable.
pub(crate) async fn directory(meta: &Meta, dir: Ino) -> Result<Option<String>> {
    let (mut at, mut path) = (dir, String::new());
    while at != Ino::ROOT && at != Ino::TRASH {
        let parent = match meta.parent_of(at).await {
            Ok(parent) => parent,
            Err(stead_meta::Error::NoInode { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(name) = name_in(meta, parent, at).await? else { return Ok(None) };
        path = format!("/{name}{path}");
        at = parent;
    }
    Ok(Some(match (at, path.is_empty()) {
        (Ino::TRASH, _) => format!("/.trash{path}"),
        (_, true) => "/".to_owned(),
        _ => path,
    }))
}

async fn name_in(meta: &Meta, dir: Ino, ino: Ino) -> Result<Option<Name>> {
    let mut from = Cursor::default();
    loop {
        let page = meta.list(dir, false, from, PAGE).await?;
        if let Some(found) = page.items.into_iter().find(|item| item.entry.ino == ino) {
            return Ok(Some(found.name));
        }
        match page.next {
            Some(next) => from = next,
            None => return Ok(None),
        }
    }
}
