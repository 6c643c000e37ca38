//! What others ask to be written back.

use std::time::Duration;

use stead_base::Ino;
use stead_object::{Op, Rule};

use super::Rig;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_is_only_in_memory_is_committed_when_somebody_asks() {
    let (rig, asks) = {
        let rig = Rig::new().await;
        let other = rig.second().await;
        (rig, other)
    };
    let (ino, fh) = rig.create("f").await;
    rig.write(fh, 0, b"not yet").await;
    assert_eq!(asks.meta.getattr(ino).await.unwrap().length, 0);
    assert!(asks.meta.request_flush(&[Ino::ROOT], PATIENCE).await.unwrap().is_empty(), "both answer");
    assert_eq!(asks.meta.getattr(ino).await.unwrap().length, 7);
    assert_eq!(asks.read(asks.open(ino).await, 0, 10).await, b"not yet"[..]);
    rig.close(fh).await.unwrap();
}

#[tokio::test]
async fn who_cannot_write_back_does_not_answer() {
    let rig = Rig::new().await;
    let asks = rig.second().await;
    let (ino, fh) = rig.create("f").await;
    rig.objects.add(Rule::on(Op::Put));
    rig.write(fh, 0, b"not yet").await;
    let silent = asks.meta.request_flush(&[Ino::ROOT], Duration::from_secs(2)).await.unwrap();
    assert_eq!(silent.iter().map(|session| session.sid).collect::<Vec<_>>(), [rig.meta.session()]);
    assert_eq!(asks.meta.getattr(ino).await.unwrap().length, 0);
}
