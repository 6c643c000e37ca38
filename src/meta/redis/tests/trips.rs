//! Round trips, counted on the server.

use std::collections::BTreeMap;

use super::*;

/// How often each command has been called by clients other than the one that asks.
async fn calls(server: &RedisServer) -> BTreeMap<String, u64> {
    let stats: String = ask(server, &[b"INFO", b"commandstats"]).await;
    let line = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((command.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    stats.lines().filter_map(line).collect()
}

async fn evals(server: &RedisServer) -> u64 {
    let calls = calls(server).await;
    assert!(!calls.contains_key("eval"), "scripts are called by digest");
    assert!(!calls.contains_key("watch"));
    calls.get("evalsha").copied().unwrap_or_default()
}

fn create(parent: Ino, name: Name, ino: Ino) -> impl FnMut(&mut Txn<'_>) -> Step<()> + Send + 'static {
    move |txn| {
        txn.prime(&[Key::Attr(parent), Key::Entry(parent, name.clone())])?;
        let dir = txn.attr(parent)?.ok_or(Error::NoInode { ino: parent })?;
        if txn.entry(parent, &name)?.is_some() {
            return Err(Error::Exists { parent, name: name.to_string() }.into());
        }
        txn.write(Write::SetAttr(ino, attr(NodeType::File, 0)));
        txn.write(Write::SetEntry(parent, name.clone(), file(ino.0)));
        txn.write(Write::SetAttr(parent, dir));
        txn.write(Write::AddCounter(Counter::TotalInodes, 1));
        Ok(())
    }
}

fn unlink(parent: Ino, name: Name, ino: Ino) -> impl FnMut(&mut Txn<'_>) -> Step<()> + Send + 'static {
    move |txn| {
        txn.prime(&[Key::Attr(parent), Key::Entry(parent, name.clone()), Key::Attr(ino)])?;
        let found = txn.entry(parent, &name)?.ok_or(Error::NoInode { ino })?;
        txn.attr(found.ino)?.ok_or(Error::NoInode { ino })?;
        txn.write(Write::DelAttr(ino));
        txn.write(Write::DelEntry(parent, name.clone()));
        Ok(())
    }
}

#[tokio::test]
async fn a_create_after_its_lookup_is_one_call() {
    let server = RedisServer::start();
    let store = server.store().await;
    let dir = Ino(2);
    put(
        &store,
        vec![
            Write::SetAttr(dir, attr(NodeType::Directory, 4096)),
            Write::SetEntry(Ino::ROOT, name("dir"), Entry { kind: NodeType::Directory, ino: dir }),
        ],
    )
    .await;
    let fresh = server.store().await;
    assert!(fresh.lookup(Ino::ROOT, &name("dir")).await.expect("lookup").is_some());
    assert!(fresh.lookup(dir, &name("new")).await.expect("lookup").is_none());

    let before = evals(&server).await;
    within(&fresh, create(dir, name("new"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "create");
    let before = evals(&server).await;
    within(&fresh, unlink(dir, name("new"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "unlink of what we made");
    let before = evals(&server).await;
    within(&fresh, create(dir, name("new"), Ino(4))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 1, "the name is known to be free");
}

#[tokio::test]
async fn unknown_records_cost_one_fetch_and_wrong_seeds_one_more_call() {
    let server = RedisServer::start();
    let (ours, theirs, dir) = (server.store().await, server.store().await, Ino(2));
    put(&theirs, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;

    let before = evals(&server).await;
    within(&ours, create(dir, name("a"), Ino(3))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 2, "a fetch of both and the commit");

    put(&theirs, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4097))]).await;
    assert!(ours.lookup(dir, &name("b")).await.expect("lookup").is_none());
    let before = evals(&server).await;
    within(&ours, create(dir, name("b"), Ino(4))).await.expect("commits");
    assert_eq!(evals(&server).await - before, 2, "the refusal brings the fresh value");
    let kept = theirs.read(&[Key::Attr(dir)]).await.expect("read");
    assert_eq!(kept, [Some(Record::Attr(attr(NodeType::Directory, 4097)))]);
}

#[tokio::test]
async fn outcomes_without_a_write_are_asked_for_once() {
    let server = RedisServer::start();
    let (store, dir) = (server.store().await, Ino(2));
    put(&store, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;
    within(&store, create(dir, name("a"), Ino(3))).await.expect("commits");

    let before = evals(&server).await;
    let again = within(&store, create(dir, name("a"), Ino(4))).await;
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    assert_eq!(evals(&server).await - before, 1, "seeds are verified, in one fetch");

    let before = evals(&server).await;
    let other = server.store().await;
    let read = within(&other, move |txn| txn.attr(dir)).await.expect("ends well");
    assert!(read.is_some());
    assert_eq!(evals(&server).await - before, 1, "what was fetched in this call needs no commit");
    let before = evals(&server).await;
    store.lookup(dir, &name("a")).await.expect("lookup");
    store.list_entries(dir, true, Default::default(), 100).await.expect("list_entries");
    store.read(&[Key::Attr(dir), Key::Entry(dir, name("a")), Key::DirStat(dir)]).await.expect("read");
    assert_eq!(evals(&server).await - before, 3, "one call each");
}
