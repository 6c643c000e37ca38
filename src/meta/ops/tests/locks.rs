//! Locks between owners, sessions and clients.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ops::{FlockRequest, LOCK_EOF};
use crate::records::{LockKind, LockOwner, LockRange};

const READ: Option<LockKind> = Some(LockKind::Read);
const WRITE: Option<LockKind> = Some(LockKind::Write);

async fn two() -> (Volume, Volume, Ino) {
    let a = Volume::plain().await;
    let b = a.second().await;
    b.start_session().await.expect("starts");
    let ino = a.file(ROOT, "f").await;
    (a, b, ino)
}

async fn flock(v: &Volume, ino: Ino, owner: u64, request: FlockRequest) -> bool {
    v.meta.flock(ino, owner, request).await.expect("answered")
}

async fn plock(v: &Volume, ino: Ino, owner: u64, kind: Option<LockKind>, start: u64, end: u64) -> bool {
    v.meta.set_plock(ino, owner, kind, start, end, 7).await.expect("answered")
}

#[tokio::test]
async fn flocks_exclude_each_other_between_clients() {
    let (a, b, ino) = two().await;
    assert!(flock(&a, ino, 1, FlockRequest::Read).await);
    assert!(flock(&b, ino, 1, FlockRequest::Read).await, "readers share");
    assert!(!flock(&a, ino, 1, FlockRequest::Write).await, "another reader is in the way");
    assert!(flock(&b, ino, 1, FlockRequest::Unlock).await);
    assert!(flock(&a, ino, 1, FlockRequest::Write).await, "a lock of one's own is none in the way");
    assert!(!flock(&b, ino, 1, FlockRequest::Read).await);
    assert!(!flock(&a, ino, 2, FlockRequest::Read).await, "another owner of the same client");
    assert!(flock(&a, ino, 1, FlockRequest::Read).await);
    assert!(flock(&b, ino, 1, FlockRequest::Read).await);
}

#[tokio::test]
async fn the_two_kinds_know_nothing_of_each_other() {
    let (a, b, ino) = two().await;
    assert!(flock(&a, ino, 1, FlockRequest::Write).await);
    assert!(plock(&b, ino, 1, WRITE, 0, LOCK_EOF).await);
}

#[tokio::test]
async fn locks_go_with_the_session() {
    let (a, b, ino) = two().await;
    assert!(flock(&a, ino, 1, FlockRequest::Write).await);
    assert!(plock(&a, ino, 1, WRITE, 0, LOCK_EOF).await);
    assert!(!flock(&b, ino, 1, FlockRequest::Read).await);
    a.close_session().await.expect("closes");
    assert!(flock(&b, ino, 1, FlockRequest::Write).await);
    assert!(plock(&b, ino, 1, WRITE, 0, LOCK_EOF).await);
    refused!(a.meta.flock(ino, 1, FlockRequest::Read).await, Error::NoSession { .. });
}

#[tokio::test]
async fn locks_of_a_dead_session_go_when_it_is_cleaned() {
    let (a, b, ino) = two().await;
    assert!(flock(&a, ino, 1, FlockRequest::Write).await);
    a.clock.advance(Duration::from_secs(1000));
    b.beat().await;
    assert!(flock(&b, ino, 1, FlockRequest::Write).await);
}

#[tokio::test]
async fn ranges_are_split_and_merged() {
    let (a, _b, ino) = two().await;
    assert!(plock(&a, ino, 1, READ, 0, 99).await);
    assert!(plock(&a, ino, 1, WRITE, 20, 29).await);
    assert!(plock(&a, ino, 1, None, 50, 59).await);
    let range = |kind, start, end| LockRange { kind, pid: 7, start, end };
    let expected = vec![
        range(LockKind::Read, 0, 19),
        range(LockKind::Write, 20, 29),
        range(LockKind::Read, 30, 49),
        range(LockKind::Read, 60, 99),
    ];
    assert_eq!(ranges(&a, ino, 1), expected);
    assert!(plock(&a, ino, 1, READ, 20, 59).await);
    assert_eq!(ranges(&a, ino, 1), [range(LockKind::Read, 0, 99)]);
    assert!(plock(&a, ino, 1, None, 0, LOCK_EOF).await);
    assert!(a.store.snapshot().plocks.is_empty());
}

fn ranges(v: &Volume, ino: Ino, owner: u64) -> Vec<LockRange> {
    let owner = LockOwner { sid: v.session(), owner };
    v.store.snapshot().plocks.get(&ino).and_then(|owners| owners.get(&owner)).cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_conflict_is_told_with_its_process_only_to_the_same_client() {
    let (a, b, ino) = two().await;
    assert!(plock(&a, ino, 1, WRITE, 10, 19).await);
    let asked = |kind, start, end| (kind, start, end);
    for (v, pid) in [(&a, 7), (&b, 0)] {
        let (kind, start, end) = asked(LockKind::Read, 0, LOCK_EOF);
        let found = v.meta.get_plock(ino, 2, kind, start, end).await.expect("answered");
        assert_eq!(found, Some(LockRange { kind: LockKind::Write, pid, start: 10, end: 19 }));
    }
    assert_eq!(b.meta.get_plock(ino, 2, LockKind::Write, 20, 30).await.expect("answered"), None);
    assert_eq!(a.meta.get_plock(ino, 1, LockKind::Write, 0, 30).await.expect("answered"), None, "one's own");
}

#[tokio::test]
async fn impossible_ranges_and_clients_are_refused() {
    let (a, _b, ino) = two().await;
    refused!(a.meta.set_plock(ino, 1, READ, 5, 4, 7).await, Error::Invalid { field: "lock range", .. });
    refused!(a.meta.set_plock(ino, 1, READ, 5, u64::MAX, 7).await, Error::Invalid { field: "lock range", .. });
    let settings = MetaOptions { read_only: true, ..options(&a.clock) };
    let reader = Volume::open(Arc::clone(&a.store), Arc::clone(&a.clock), settings).await;
    refused!(reader.meta.flock(ino, 1, FlockRequest::Read).await, Error::ReadOnly);
}

/// Bytes of the model's file.
const BYTES: u64 = 24;

#[derive(Clone, Debug)]
struct Request {
    owner: usize,
    kind: Option<LockKind>,
    start: u64,
    end: u64,
}

fn request() -> impl Strategy<Value = Request> {
    let kind = prop_oneof![Just(READ), Just(WRITE), Just(None)];
    (0..4_usize, kind, 0..BYTES, 0..BYTES).prop_map(|(owner, kind, a, b)| Request {
        owner,
        kind,
        start: a.min(b),
        end: a.max(b),
    })
}

/// What each owner holds on each byte.
type Model = BTreeMap<usize, Vec<Option<LockKind>>>;

fn allowed(model: &Model, request: &Request) -> bool {
    let Some(kind) = request.kind else { return true };
    let span = usize::try_from(request.start).expect("small")..=usize::try_from(request.end).expect("small");
    let others = model.iter().filter(|(owner, _bytes)| **owner != request.owner);
    let mut held = others.flat_map(|(_owner, bytes)| bytes[span.clone()].iter().flatten());
    !held.any(|held| kind == LockKind::Write || *held == LockKind::Write)
}

/// The four owners: two of each client.
fn who(clients: &[Volume; 2], owner: usize) -> (&Volume, u64) {
    (&clients[owner % 2], if owner < 2 { 1 } else { 0xFFFF_0000_0000_0001 })
}

async fn behaves_as_an_array(requests: Vec<Request>) {
    let (a, b, ino) = two().await;
    let clients = [a, b];
    let mut model: Model = (0..4).map(|owner| (owner, vec![None; usize::try_from(BYTES).expect("small")])).collect();
    for request in requests {
        let (client, owner) = who(&clients, request.owner);
        let expected = allowed(&model, &request);
        let granted = plock(client, ino, owner, request.kind, request.start, request.end).await;
        assert_eq!(granted, expected, "{request:?} with {model:?}");
        if granted {
            let bytes = model.get_mut(&request.owner).expect("one of four");
            for byte in request.start..=request.end {
                bytes[usize::try_from(byte).expect("small")] = request.kind;
            }
        }
        for (owner, bytes) in &model {
            let (client, id) = who(&clients, *owner);
            assert_eq!(ranges(client, ino, id), runs(bytes), "after {request:?}");
        }
    }
}

/// The shortest list of ranges that says the same.
fn runs(bytes: &[Option<LockKind>]) -> Vec<LockRange> {
    let mut runs: Vec<LockRange> = Vec::new();
    for (at, kind) in bytes.iter().enumerate() {
        let (at, Some(kind)) = (at as u64, *kind) else { continue };
        match runs.last_mut() {
            Some(last) if last.end + 1 == at && last.kind == kind => last.end = at,
            _ => runs.push(LockRange { kind, pid: 7, start: at, end: at }),
        }
    }
    runs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn locks_of_ranges_behave_as_an_array_of_bytes(requests in prop::collection::vec(request(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(behaves_as_an_array(requests));
    }
}
