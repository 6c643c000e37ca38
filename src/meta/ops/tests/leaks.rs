use std::collections::HashSet;

use super::*;
use crate::records::{Counter, DirStat, Write};
use crate::store::{TxOptions, transact};

async fn damage(v: &Volume, writes: Vec<Write>) {
    let store: &dyn Store = v.store.as_ref();
    transact(store, TxOptions::default(), move |txn| {
        for write in &writes {
            txn.write(write.clone());
        }
        Ok(())
    })
    .await
    .expect("damaged");
}

#[tokio::test]
async fn a_healthy_volume_has_no_leaks() {
    let v = Volume::with_trash().await;
    let dir = v.dir(ROOT, "d").await;
    let file = v.filled(dir, "f", 10).await;
    v.link(&root(), file, ROOT, b"g").await.expect("linked");
    v.filled(dir, "gone", 10).await;
    v.unlink(&root(), dir, b"gone").await.expect("unlinked");
    let open = v.filled(dir, "open", 10).await;
    v.meta.open(&root(), open, 2).await.expect("opened");
    v.remove_tree(&root(), dir, b"open", true, &|_count| ()).await.expect("unlinked");
    v.clock.advance(Duration::from_secs(48 * 3600));
    let leaks = v.find_leaks(LeakAges::default()).await.expect("looked");
    let found = (leaks.inodes.len(), leaks.entries.len(), leaks.chunks.len(), leaks.detached.len());
    assert_eq!((found, leaks.corrupt.len()), ((0, 0, 0, 0), 0), "{leaks:?}");
    for dir in [ROOT, dir] {
        assert_eq!(v.check_directory(dir, false).await.expect("checked"), []);
    }
    let (stored, counted) = v.check_usage(false).await.expect("counted");
    assert_eq!(stored, counted);
}

#[tokio::test]
async fn what_does_not_belong_to_the_tree_is_found_and_removed() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    let (file, lost) = (v.filled(dir, "f", 10).await, v.filled(ROOT, "lost", 20).await);
    let (stray, nowhere) = (v.filled(ROOT, "stray", 30).await, v.file(ROOT, "nowhere").await);
    let name = |name: &[u8]| Name::entry(name).expect("valid");
    let attr = v.attr(stray).await;
    damage(
        &v,
        vec![
            Write::DelEntry(ROOT, name(b"d")),
            Write::DelEntry(ROOT, name(b"lost")),
            Write::DelEntry(ROOT, name(b"stray")),
            Write::DelAttr(stray),
            Write::DelAttr(nowhere),
            Write::AddCounter(Counter::UsedSpace, -attr.space() - 4096),
            Write::AddCounter(Counter::TotalInodes, -2),
        ],
    )
    .await;
    let young = v.find_leaks(LeakAges::default()).await.expect("looked");
    assert_eq!(young.inodes, [], "somebody may be about to name them");
    v.clock.advance(Duration::from_secs(3601));
    let leaks = v.find_leaks(LeakAges::default()).await.expect("looked");
    let mut inodes: Vec<Ino> = leaks.inodes.iter().map(|(ino, _attr)| *ino).collect();
    inodes.sort();
    assert_eq!(inodes, [dir, lost], "not {file}, which lies in a directory");
    assert_eq!(leaks.chunks, [(stray, 0)]);
    assert_eq!(leaks.entries.len(), 1);
    assert_eq!(v.remove_leaks(&leaks).await.expect("removed"), 4);
    v.check_directory(ROOT, true).await.expect("repaired");
    v.audit().await;
    assert_eq!(v.removed.slices.lock().len(), 3);
    assert!(v.names(ROOT).await.is_empty());
}

#[tokio::test]
async fn directories_and_counters_are_set_right() {
    let v = Volume::plain().await;
    let dir = v.dir(ROOT, "d").await;
    v.dir(dir, "sub").await;
    v.filled(dir, "f", 10).await;
    let attr = v.attr(dir).await;
    let more = DirStat { length: 5, space: 4096, inodes: 1 };
    damage(
        &v,
        vec![
            Write::SetAttr(dir, Attr { nlink: 7, ..attr }),
            Write::AddDirStat(dir, more),
            Write::AddCounter(Counter::UsedSpace, 8192),
            Write::AddCounter(Counter::TotalInodes, -3),
        ],
    )
    .await;
    let found = v.check_directory(dir, true).await.expect("repaired");
    assert!(matches!(found[..], [Damage::DirLinks { found: 7, right: 3 }, Damage::DirStat { .. }]), "{found:?}");
    let (stored, counted) = v.check_usage(true).await.expect("repaired");
    assert_eq!((stored.space - counted.space, stored.inodes - counted.inodes), (8192, -3));
    v.audit().await;
}

#[tokio::test]
async fn every_slice_in_use_is_met() {
    let v = Volume::with_trash().await;
    let file = v.file(ROOT, "f").await;
    for pos in [0, 10, 20] {
        v.write(file, 0, pos, 10).await.expect("written");
    }
    let plan = v.compaction_plan(file, 0).await.expect("read").expect("a plan");
    assert!(v.commit_compaction(&plan, SliceId(50)).await.expect("committed"));
    v.filled(ROOT, "g", 10).await;
    v.unlink(&root(), ROOT, b"g").await.expect("unlinked");
    let mut met = HashSet::new();
    let corrupt = v
        .each_slice(&mut |id, size, used| {
            met.insert((id.0, size, format!("{used:?}")));
        })
        .await;
    assert_eq!(corrupt.expect("scanned").len(), 0);
    let mut ids: Vec<_> = met.iter().map(|(id, size, _used)| (*id, *size)).collect();
    ids.sort_unstable();
    assert_eq!(ids, [(1, 10), (2, 10), (3, 10), (4, 10), (50, 30)]);
    let asked = HashSet::from([SliceId(1), SliceId(4), SliceId(50), SliceId(77)]);
    assert_eq!(v.unused(&asked).await.expect("scanned"), HashSet::from([SliceId(77)]));
}
