//! How many transactions a second; run by hand.

use std::time::{Duration, Instant};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, checks nothing"]
async fn transactions_per_second() {
    let server = RedisServer::start();
    for tasks in [1u64, 16, 64] {
        let store = server.store().await;
        let begun = Instant::now();
        let running: Vec<_> = (0..tasks)
            .map(|task| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let (dir, mut done) = (Ino(1000 + task), 0u64);
                    put(&store, vec![Write::SetAttr(dir, attr(NodeType::Directory, 4096))]).await;
                    while begun.elapsed() < Duration::from_secs(3) {
                        let name = name(&format!("file{done}"));
                        store.lookup(dir, &name).await.expect("lookup");
                        let ino = Ino(10_000_000 * (task + 1) + done);
                        let create = move |txn: &mut Txn<'_>| {
                            txn.prime(&[Key::Attr(dir), Key::Entry(dir, name.clone())])?;
                            txn.write(Write::SetAttr(ino, attr(NodeType::File, 0)));
                            txn.write(Write::SetEntry(dir, name.clone(), file(ino.0)));
                            txn.write(Write::AddCounter(Counter::UsedSpace, 4096));
                            txn.write(Write::AddCounter(Counter::TotalInodes, 1));
                            Ok(())
                        };
                        within(&store, create).await.expect("commits");
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in running {
            done += task.await.expect("no panic");
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{tasks} tasks: {:.0} × (lookup + create) a second",
            f64::from(u32::try_from(done).unwrap()) / seconds
        );
        store.erase().await.expect("erase");
    }
}
