//! Every invariant that the stored records of a quiet volume keep, recomputed from scratch.

use std::collections::{BTreeMap, BTreeSet};

use stead_base::{Ino, SliceId};

use crate::format::Format;
use crate::memory::state::State;
use crate::records::{Attr, Counter, DirStat, NodeType, Principal};

/// Panics at the first thing that does not fit.
pub(super) fn audit(state: &State, format: &Format) {
    entries_lead_to_inodes(state);
    links_are_right(state);
    parents_are_right(state);
    counters_are_right(state);
    if format.dir_stats {
        statistics_are_right(state);
    }
    quotas_are_right(state);
    if format.user_group_quota {
        owners_are_right(state);
    }
    slices_are_counted(state);
    nothing_is_left_over(state);
}

fn roots() -> [Ino; 2] {
    [Ino::ROOT, Ino::TRASH]
}

/// Of each inode: its directories, once per name.
fn places(state: &State) -> BTreeMap<Ino, Vec<Ino>> {
    let mut places: BTreeMap<Ino, Vec<Ino>> = BTreeMap::new();
    for (dir, names) in &state.entries {
        for entry in names.values() {
            places.entry(entry.ino).or_default().push(*dir);
        }
    }
    places
}

fn entries_lead_to_inodes(state: &State) {
    for (dir, names) in &state.entries {
        let holder = state.attrs.get(dir).unwrap_or_else(|| panic!("directory {dir} has names and is gone"));
        assert!(holder.is_dir(), "{dir} has names and is no directory");
        for (name, entry) in names {
            let attr = state.attrs.get(&entry.ino);
            let attr = attr.unwrap_or_else(|| panic!("{name:?} in {dir} leads to {}, which is gone", entry.ino));
            assert_eq!(attr.kind, entry.kind, "{name:?} in {dir}");
        }
    }
    let places = places(state);
    for (ino, attr) in &state.attrs {
        let kept = state.sustained.iter().any(|(_sid, kept)| kept == ino);
        let named = places.contains_key(ino) || roots().contains(ino) || state.detached.contains_key(ino);
        assert!(named != kept, "inode {ino}: named {named}, kept without a name {kept}");
        assert_eq!(kept, attr.nlink == 0, "inode {ino}: kept only without a link");
    }
}

fn links_are_right(state: &State) {
    let places = places(state);
    for (ino, attr) in state.attrs.iter().filter(|(_ino, attr)| attr.nlink > 0) {
        let expected = if *ino == Ino::TRASH {
            2
        } else if state.detached.contains_key(ino) {
            continue;
        } else if attr.is_dir() {
            let names = state.entries.get(ino).into_iter().flatten();
            let dirs = names.filter(|(_name, entry)| entry.kind == NodeType::Directory).count();
            // Directories that move into the trash leave its attributes alone.
            if ino.is_trash() { 2 } else { 2 + dirs }
        } else {
            places[ino].len()
        };
        assert_eq!(attr.nlink as usize, expected, "links of {ino}");
        if attr.is_dir() {
            assert_eq!(attr.length, 4096, "length of directory {ino}");
        }
    }
}

fn parents_are_right(state: &State) {
    let places = places(state);
    for (ino, attr) in state.attrs.iter().filter(|(ino, attr)| attr.nlink > 0 && !roots().contains(ino)) {
        if state.detached.contains_key(ino) {
            assert_eq!(attr.parent, Ino(0), "{ino} is not attached");
            continue;
        }
        let mut counted: BTreeMap<Ino, i64> = BTreeMap::new();
        for dir in &places[ino] {
            *counted.entry(*dir).or_default() += 1;
        }
        if attr.parent.0 > 0 {
            assert_eq!(counted, BTreeMap::from([(attr.parent, 1)]), "the directory of {ino}");
            assert!(!state.parents.contains_key(ino), "{ino} has one directory and a list");
        } else {
            assert!(!attr.is_dir(), "directory {ino} has no parent");
            assert_eq!(state.parents.get(ino), Some(&counted), "the directories of {ino}");
        }
    }
}

fn counters_are_right(state: &State) {
    let counted = state.attrs.iter().filter(|(ino, _attr)| !roots().contains(ino));
    let (mut space, mut inodes) = (0, 0);
    for (_ino, attr) in counted {
        space += attr.space();
        inodes += 1;
    }
    let value = |counter| state.counters.get(&counter).copied().unwrap_or(0);
    assert_eq!(value(Counter::UsedSpace), space, "used space");
    assert_eq!(value(Counter::TotalInodes), inodes, "inodes");
    let hours = state.attrs.keys().filter(|ino| ino.0 > Ino::TRASH.0).map(|ino| ino.0 - Ino::TRASH.0);
    let last = hours.max().unwrap_or(0);
    assert!(value(Counter::NextTrash).unsigned_abs() >= last, "the number of the last trash directory");
}

fn statistics_are_right(state: &State) {
    for (ino, attr) in state.attrs.iter().filter(|(_ino, attr)| attr.is_dir()) {
        let mut expected = DirStat::default();
        for entry in state.entries.get(ino).into_iter().flat_map(BTreeMap::values) {
            let child = &state.attrs[&entry.ino];
            expected.inodes += 1;
            expected.space += child.space();
            if child.kind == NodeType::File {
                expected.length += child.length.cast_signed();
            }
        }
        match state.dir_stats.get(ino) {
            Some(stat) => assert_eq!(*stat, expected, "statistics of directory {ino}"),
            None => {
                let removed = *ino == Ino::TRASH || attr.parent.0 > Ino::TRASH.0;
                assert!(removed, "directory {ino} has no statistics");
            }
        }
    }
    for dir in state.dir_stats.keys() {
        assert!(state.attrs.contains_key(dir), "statistics of {dir}, which is gone");
    }
}

fn quotas_are_right(state: &State) {
    for (dir, quota) in &state.dir_quotas {
        let (space, inodes) = below(state, *dir);
        assert_eq!((quota.used_space, quota.used_inodes), (space, inodes), "quota usage of {dir}");
    }
}

fn owners_are_right(state: &State) {
    let mut expected: BTreeMap<Principal, (i64, i64)> = BTreeMap::new();
    for (_ino, attr) in state.attrs.iter().filter(|(ino, _attr)| !roots().contains(ino)) {
        for of in [Principal::User(attr.uid), Principal::Group(attr.gid)] {
            let used = expected.entry(of).or_default();
            *used = (used.0 + attr.space(), used.1 + 1);
        }
    }
    let stored = state.owner_quotas.iter().map(|(of, quota)| (*of, (quota.used_space, quota.used_inodes)));
    let stored: BTreeMap<_, _> = stored.filter(|(_of, used)| *used != (0, 0)).collect();
    assert_eq!(stored, expected, "what users and groups own");
}

fn below(state: &State, dir: Ino) -> (i64, i64) {
    let (mut space, mut inodes) = (0, 0);
    for entry in state.entries.get(&dir).into_iter().flat_map(BTreeMap::values) {
        space += state.attrs[&entry.ino].space();
        inodes += 1;
        if entry.kind == NodeType::Directory {
            let (more_space, more_inodes) = below(state, entry.ino);
            space += more_space;
            inodes += more_inodes;
        }
    }
    (space, inodes)
}

fn slices_are_counted(state: &State) {
    let mut used: BTreeMap<(SliceId, u32), i64> = BTreeMap::new();
    for slice in state.chunks.values().flatten().filter(|slice| !slice.id.is_hole()) {
        *used.entry((slice.id, slice.size)).or_default() += 1;
    }
    for slices in state.delayed.values() {
        for slice in slices {
            *used.entry(*slice).or_default() += 1;
        }
    }
    let known: BTreeMap<_, _> = state.slice_refs.clone().into_iter().filter(|(_slice, refs)| *refs != 0).collect();
    assert_eq!(known, used, "references of slices");
}

fn nothing_is_left_over(state: &State) {
    let deleted: BTreeSet<Ino> = state.deleted.keys().map(|(ino, _length)| *ino).collect();
    for ino in &deleted {
        assert!(!state.attrs.contains_key(ino), "{ino} waits for its removal and is there");
    }
    for (ino, index) in state.chunks.keys() {
        let file = state.attrs.get(ino).is_some_and(|attr: &Attr| attr.kind == NodeType::File);
        assert!(file || deleted.contains(ino), "chunk {index} of {ino} belongs to no file");
    }
    for ino in state.symlinks.keys() {
        assert!(state.attrs.get(ino).is_some_and(|attr| attr.kind == NodeType::Symlink), "target of {ino}");
    }
    for (ino, attr) in &state.attrs {
        assert_eq!(attr.kind == NodeType::Symlink, state.symlinks.contains_key(ino), "symbolic link {ino}");
    }
    for ino in state.xattrs.keys().chain(state.parents.keys()) {
        assert!(state.attrs.contains_key(ino), "something is known of {ino}, which is gone");
    }
}

#[tokio::test]
async fn an_audit_finds_every_kind_of_damage() {
    use super::{NewNode, ROOT, Volume, root};
    use crate::records::{Name, Write};
    use crate::store::{Store, TxOptions, transact};

    let v = Volume::plain().await;
    let (dir, file) = (v.dir(ROOT, "d").await, v.filled(ROOT, "f", 10).await);
    v.link(&root(), file, dir, b"g").await.expect("linked");
    v.mknod(&root(), dir, b"p", NewNode::file(0o644, 0)).await.expect("made");
    v.set_quota(dir, Some(1 << 30), None).await.expect("set");
    v.audit().await;
    let attr = v.attr(file).await;
    let one = DirStat { length: 0, space: 0, inodes: 1 };
    let damage = [
        Write::AddCounter(Counter::UsedSpace, 4096),
        Write::AddCounter(Counter::TotalInodes, -1),
        Write::AddDirStat(dir, one),
        Write::DelDirStat(dir),
        Write::AddDirQuotaUsed(dir, 0, 1),
        Write::AddSliceRef(SliceId(1), 10, 1),
        Write::AddParent(file, dir, 1),
        Write::SetAttr(file, Attr { nlink: 1, ..attr.clone() }),
        Write::SetAttr(file, Attr { parent: dir, ..attr }),
        Write::DelEntry(ROOT, Name::entry(b"f").expect("valid")),
        Write::DelAttr(file),
        Write::AddDeleted(file, 10, 0),
        Write::AddSustained(v.session(), file),
    ];
    for write in damage {
        let damaged = crate::memory::MemoryStore::holding(v.store.snapshot());
        let store: &dyn Store = &damaged;
        let name = format!("{write:?}");
        transact(store, TxOptions::default(), move |txn| {
            txn.write(write.clone());
            Ok(())
        })
        .await
        .expect("damaged");
        let (state, format) = (damaged.snapshot(), v.format());
        let found = std::panic::catch_unwind(|| audit(&state, &format));
        assert!(found.is_err(), "{name} goes unnoticed");
    }
}
