//! What many do at the same time.

use super::scans::list_all;
use super::*;

/// Runs `work` in 16 tasks at the same time.
async fn together<T, F, Fut>(store: &Arc<dyn Store>, work: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(Arc<dyn Store>, u64) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = (0..16).map(|n| tokio::spawn(work(Arc::clone(store), n))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("no task panics"));
    }
    results
}

pub(super) async fn increments_are_not_lost(store: &Arc<dyn Store>) {
    let ino = Ino(26);
    put(store.as_ref(), vec![Write::SetAttr(ino, attr(NodeType::File, 0))]).await;
    together(store, |store, _n| async move {
        for _round in 0..5 {
            let step = move |txn: &mut Txn<'_>| {
                let mut attr = txn.attr(ino)?.ok_or(Error::NoInode { ino })?;
                attr.length += 1;
                txn.write(Write::SetAttr(ino, attr));
                txn.write(Write::AddCounter(Counter::UsedSpace, 1));
                Ok(())
            };
            transact(store.as_ref(), TxOptions::default(), step).await.expect("commits");
        }
    })
    .await;
    let Some(Record::Attr(last)) = get(store.as_ref(), Key::Attr(ino)).await else {
        panic!("the attributes are there");
    };
    assert_eq!(last.length, 80, "16 tasks with 5 increments each");
    assert_eq!(within(store.as_ref(), |txn| txn.counter(Counter::UsedSpace)).await, 80);
    put(store.as_ref(), vec![Write::DelAttr(ino), Write::AddCounter(Counter::UsedSpace, -80)]).await;
}

pub(super) async fn one_of_many_creates(store: &Arc<dyn Store>) {
    let dir = Ino(27);
    let won = together(store, |store, n| async move {
        let made = transact(store.as_ref(), TxOptions::default(), move |txn| {
            if let Some(found) = txn.entry(dir, &name("same"))? {
                return Ok((false, found.ino));
            }
            let ino = Ino(2000 + n);
            let entry = Entry { kind: NodeType::File, ino };
            txn.write(Write::SetEntry(dir, name("same"), entry));
            txn.write(Write::AddCounter(Counter::TotalInodes, 1));
            Ok((true, ino))
        });
        made.await.expect("ends well")
    })
    .await;
    let makers: Vec<Ino> = won.iter().filter(|(made, _ino)| *made).map(|(_made, ino)| *ino).collect();
    assert_eq!(makers.len(), 1, "{won:?}");
    assert!(won.iter().all(|(_made, ino)| *ino == makers[0]), "all see the same: {won:?}");
    assert_eq!(within(store.as_ref(), |txn| txn.counter(Counter::TotalInodes)).await, 1);
    put(store.as_ref(), vec![Write::DelEntry(dir, name("same")), Write::AddCounter(Counter::TotalInodes, -1)]).await;
}

/// Some remove an empty directory while others put names into it: never may a name be left in a removed one.
pub(super) async fn an_emptiness_check_holds(store: &Arc<dyn Store>) {
    for round in 0..8u64 {
        let dir = Ino(3000 + round);
        put(store.as_ref(), vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;
        together(store, |store, n| async move {
            let step = move |txn: &mut Txn<'_>| {
                txn.prime(&[Key::Attr(dir), Key::AnyEntry(dir)])?;
                let Some(attr) = txn.attr(dir)? else { return Ok(()) };
                if n % 2 == 0 {
                    let entry = Entry { kind: NodeType::File, ino: Ino(5000 + n) };
                    txn.write(Write::SetAttr(dir, attr));
                    txn.write(Write::SetEntry(dir, name(&format!("n{n}")), entry));
                } else if !txn.has_entries(dir)? {
                    txn.write(Write::DelAttr(dir));
                }
                Ok(())
            };
            transact(store.as_ref(), TxOptions::default(), step).await.expect("ends well");
        })
        .await;
        let removed = get(store.as_ref(), Key::Attr(dir)).await.is_none();
        let found = list_all(store.as_ref(), dir, false, 100).await;
        assert!(!removed || found.is_empty(), "round {round}: {} names are lost", found.len());
        let mut clean: Vec<Write> = found.into_keys().map(|name| Write::DelEntry(dir, name)).collect();
        clean.push(Write::DelAttr(dir));
        put(store.as_ref(), clean).await;
    }
}

pub(super) async fn numbers_are_given_once(store: &Arc<dyn Store>) {
    for (counter, count) in [(Counter::NextInode, 10), (Counter::NextChunk, 4096), (Counter::NextSession, 1)] {
        let given = together(store, |store, _n| async move {
            let mut firsts = Vec::new();
            for _round in 0..5 {
                firsts.push(store.allocate(counter, count).await.expect("allocate"));
            }
            firsts
        })
        .await;
        let mut firsts: Vec<u64> = given.into_iter().flatten().collect();
        firsts.sort_unstable();
        assert!(firsts[0] > 0 || counter == Counter::NextInode, "0 is no number: {counter:?}");
        for pair in firsts.windows(2) {
            assert!(pair[1] - pair[0] >= count, "{counter:?}: {pair:?} overlap");
        }
    }
}
