use super::*;

/// The records of a chunk as (pos, id, len).
async fn records(v: &Volume, ino: Ino, index: u32) -> Vec<(u32, u64, u32)> {
    let found = v.chunk(ino, index).await.expect("read");
    found.iter().map(|slice| (slice.pos, slice.id.0, slice.len)).collect()
}

async fn compact(v: &Volume, ino: Ino) -> bool {
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("something to compact");
    let id = v.new_slice().await.expect("a slice");
    v.commit_compaction(&plan, id).await.expect("committed")
}

const MIB: u32 = 1 << 20;

#[tokio::test]
async fn records_become_one() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 0, 100, 1000).await.expect("written");
    assert!(v.compaction_plan(ino, 0).await.expect("read").is_none(), "one record is one record");
    v.write(ino, 0, 500, 1000).await.expect("written");
    v.truncate(&root(), ino, 1200).await.expect("cut");
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
    assert_eq!((plan.size(), plan.records(), plan.pieces().len()), (1100, 3, 2));
    assert!(compact(&v, ino).await);
    assert_eq!(records(&v, ino, 0).await, [(100, 3, 1100)]);
    v.audit().await;
    assert_eq!(*v.removed.slices.lock(), [(SliceId(1), 1000), (SliceId(2), 1000)]);
    assert_eq!(v.known_records(ino, 0), 1);
}

#[tokio::test]
async fn with_a_trash_the_replaced_slices_stay_as_long() {
    let v = Volume::with_trash().await;
    let ino = v.file(ROOT, "f").await;
    for pos in [0, 10, 20] {
        v.write(ino, 0, pos, 10).await.expect("written");
    }
    assert!(compact(&v, ino).await);
    v.audit().await;
    for (hours, left) in [(23, 0), (2, 3)] {
        v.clock.advance(Duration::from_secs(hours * 3600));
        v.run_job(crate::records::Job::CleanupTrash).await.expect("runs");
        assert_eq!(v.removed.slices.lock().len(), left);
        v.audit().await;
    }
}

#[tokio::test]
async fn what_was_written_meanwhile_stays_on_top() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 0, 0, 10).await.expect("written");
    v.write(ino, 0, 10, 10).await.expect("written");
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
    v.write(ino, 0, 5, 10).await.expect("written");
    assert!(v.commit_compaction(&plan, SliceId(99)).await.expect("committed"));
    assert_eq!(records(&v, ino, 0).await, [(0, 99, 20), (5, 3, 10)]);
    v.audit().await;
}

#[tokio::test]
async fn of_two_that_compact_one_wins() {
    for trash_days in [0, 1] {
        let v = Setup { store: MemoryStore::remote(), trash_days, ..Setup::default() }.volume().await;
        let ino = v.file(ROOT, "f").await;
        v.write(ino, 0, 0, 10).await.expect("written");
        v.write(ino, 0, 10, 10).await.expect("written");
        let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
        let other = v.second().await;
        assert!(other.commit_compaction(&plan, SliceId(98)).await.expect("committed"));
        assert!(!v.commit_compaction(&plan, SliceId(99)).await.expect("refused"));
        v.abandon_slice(SliceId(99), plan.size()).await.expect("abandoned");
        assert_eq!(*v.removed.slices.lock(), [(SliceId(99), 20)]);
        assert_eq!(records(&v, ino, 0).await, [(0, 98, 20)]);
        v.audit().await;
    }
}

#[tokio::test]
async fn an_abandoned_slice_is_removed_later_if_not_now() {
    let v = Volume::plain().await;
    v.removed.fails.store(true, Ordering::Relaxed);
    v.abandon_slice(SliceId(99), 20).await.expect("noted");
    v.removed.fails.store(false, Ordering::Relaxed);
    v.run_job(crate::records::Job::CleanupSlices).await.expect("runs");
    assert_eq!(*v.removed.slices.lock(), [(SliceId(99), 20)]);
    v.audit().await;
}

#[tokio::test]
async fn a_file_that_goes_meanwhile_is_not_compacted() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 0, 0, 10).await.expect("written");
    v.write(ino, 0, 10, 10).await.expect("written");
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.settle().await;
    assert!(!v.commit_compaction(&plan, SliceId(99)).await.expect("refused"));
    v.audit().await;
}

#[tokio::test]
async fn large_records_in_front_are_left_alone() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 0, 2 * MIB, 8 * MIB).await.expect("written");
    for pos in 0..4 {
        v.write(ino, 0, 20 * MIB + pos * MIB, MIB / 2).await.expect("written");
    }
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
    assert_eq!((plan.size(), plan.records()), (3 * MIB + MIB / 2, 4), "of five records four are worth it");
    v.write(ino, 0, 3 * MIB, 10).await.expect("written");
    let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
    assert_eq!(plan.records(), 6, "a large record that is written into is rewritten");
    assert!(compact(&v, ino).await);
    v.audit().await;
}

#[tokio::test]
async fn nothing_but_zeros_needs_no_slice() {
    for trash_days in [0, 1] {
        let v = Setup { trash_days, ..Setup::default() }.volume().await;
        let ino = v.file(ROOT, "f").await;
        for _round in 0..3 {
            v.write(ino, 0, 0, 100).await.expect("written");
            v.truncate(&root(), ino, 0).await.expect("cut");
        }
        let plan = v.compaction_plan(ino, 0).await.expect("read").expect("a plan");
        assert_eq!((plan.size(), plan.records()), (0, 6));
        assert!(compact(&v, ino).await);
        assert_eq!(records(&v, ino, 0).await, [(0, 0, 1)]);
        v.audit().await;
    }
}

#[tokio::test]
async fn zeros_behind_a_large_record_go() {
    let v = Volume::plain().await;
    let ino = v.file(ROOT, "f").await;
    v.write(ino, 0, 0, 2 * MIB).await.expect("written");
    v.write(ino, 0, 2 * MIB, 10).await.expect("written");
    v.truncate(&root(), ino, u64::from(2 * MIB)).await.expect("cut");
    assert!(compact(&v, ino).await);
    assert_eq!(records(&v, ino, 0).await, [(0, 1, 2 * MIB)]);
    assert_eq!(*v.removed.slices.lock(), [(SliceId(2), 10)]);
    v.audit().await;
}
