use super::*;
use crate::store::SessionRecord;

const PATIENCE: Duration = Duration::from_secs(5);

impl Volume {
    /// A mount of a directory, which hears of requests or does not.
    async fn mounted(&self, subdir: Option<&str>, hears: bool) -> Self {
        let options = MetaOptions { subdir: subdir.map(str::to_owned), ..options(&self.clock) };
        let mount = Self::open(Arc::clone(&self.store), Arc::clone(&self.clock), options).await;
        if hears {
            mount.hear_flush_requests().await;
        }
        mount.start_session().await.expect("starts");
        mount
    }

    /// Answers `times` requests.
    fn answers(&self, times: usize) -> tokio::task::JoinHandle<()> {
        let meta = Arc::clone(&self.meta);
        tokio::spawn(async move {
            for _time in 0..times {
                let request = meta.flush_requested().await;
                meta.flushed(request).await.expect("answered");
            }
        })
    }

    async fn requests(&self) -> usize {
        let (file, _) = self.resolve_path(".stead/flush").await.expect("there");
        self.store.list_xattrs(file).await.expect("listed").len()
    }
}

fn sids(sessions: &[SessionRecord]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.sid).collect()
}

#[tokio::test(start_paused = true)]
async fn those_who_show_a_directory_are_asked_and_nobody_else() {
    let v = Volume::plain().await;
    let (dir, other) = (v.dir(ROOT, "v").await, v.dir(ROOT, "w").await);
    let below = v.dir(dir, "below").await;
    assert!(v.request_flush(&[dir], PATIENCE).await.expect("asked").is_empty(), "who does not hear is not waited for");
    let dead = v.mounted(None, true).await;
    v.clock.advance(Duration::from_secs(61));
    let mounts = [
        v.mounted(None, true).await,
        v.mounted(Some("v"), true).await,
        v.mounted(Some("v/below"), true).await,
        v.mounted(Some("w"), true).await,
        v.mounted(Some("v"), false).await,
    ];
    let [whole, same, inner, elsewhere, deaf] = mounts.each_ref().map(|mount| mount.session());
    let silent = async |dirs: &[Ino]| {
        let before = tokio::time::Instant::now();
        let silent = v.request_flush(dirs, PATIENCE).await.expect("asked");
        assert!(before.elapsed() <= PATIENCE + Duration::from_secs(1), "{:?}", before.elapsed());
        sids(&silent)
    };
    assert_eq!(silent(&[dir]).await, [whole, same, inner]);
    assert_eq!(silent(&[below]).await, [whole, same, inner]);
    assert_eq!(silent(&[other]).await, [whole, elsewhere]);
    assert_eq!(silent(&[other, below]).await, [whole, same, inner, elsewhere]);
    assert_eq!(v.requests().await, 0, "what is not answered is withdrawn");
    assert!(![dead.session(), deaf].contains(&whole));
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_the_waiting_and_a_later_one_is_no_answer_to_others() {
    let v = Volume::plain().await;
    let (one, two) = (v.mounted(None, true).await, v.mounted(None, true).await);
    let answering = [one.answers(2), two.answers(1)];
    let before = tokio::time::Instant::now();
    assert!(v.request_flush(&[ROOT], PATIENCE).await.expect("asked").is_empty());
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    let silent = v.request_flush(&[ROOT], PATIENCE).await.expect("asked");
    assert_eq!(sids(&silent), [two.session()]);
    for answers in answering {
        answers.await.expect("answered");
    }
    // An answer that comes when somebody else asks does not count for them.
    let (meta, late) = (
        Arc::clone(&v.meta),
        tokio::spawn({
            let one = Arc::clone(&one.meta);
            async move {
                let request = one.flush_requested().await;
                tokio::time::sleep(PATIENCE * 2).await;
                one.flushed(request).await.expect("not wrong");
            }
        }),
    );
    let first = meta.request_flush(&[ROOT], PATIENCE).await.expect("asked");
    assert_eq!(sids(&first), [one.session(), two.session()]);
    tokio::time::sleep(PATIENCE - Duration::from_secs(2)).await;
    let second = meta.request_flush(&[ROOT], PATIENCE).await.expect("asked");
    assert_eq!(sids(&second), [one.session(), two.session()]);
    late.await.expect("ended");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_controller_asked_is_taken_away_by_the_next_one() {
    let v = Volume::plain().await;
    let gone = v.mounted(None, true).await;
    let asking = tokio::spawn({
        let meta = Arc::clone(&v.meta);
        async move { meta.request_flush(&[ROOT], PATIENCE).await.map(|_| ()) }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    asking.abort();
    assert_eq!(v.requests().await, 1);
    gone.close_session().await.expect("closed");
    let next = v.mounted(None, true).await;
    next.answers(1);
    assert!(v.request_flush(&[ROOT], PATIENCE).await.expect("asked").is_empty());
    assert_eq!(v.requests().await, 0);
    v.audit().await;
}
