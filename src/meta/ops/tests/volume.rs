use super::*;
use crate::records::{Key, Record, Write};

async fn change(v: &Volume, with: impl FnOnce(&mut Format)) {
    let mut format = Meta::load_format(v.store.as_ref()).await.expect("formatted");
    with(&mut format);
    let json = Bytes::from(format.encode());
    v.transact(move |txn| {
        txn.write(Write::SetSetting(json.clone()));
        Ok(())
    })
    .await
    .expect("stored");
}

#[tokio::test]
async fn a_new_volume_has_its_roots() {
    let v = Volume::with_trash().await;
    let (root, trash) = (v.attr(ROOT).await, v.attr(Ino::TRASH).await);
    assert_eq!((root.mode, root.nlink, root.length, root.parent), (0o777, 2, 4096, ROOT));
    assert_eq!((trash.mode, trash.uid, trash.parent), (0o555, 0, ROOT));
    assert_eq!(root.mtime, Timestamp::from_secs(START));
    v.audit().await;
    let without = Volume::plain().await;
    assert!(without.stored_attr(Ino::TRASH).await.expect("read").is_none(), "no trash, no root for it");
}

#[tokio::test]
async fn formatting_again_keeps_what_is_there() {
    let v = Volume::plain().await;
    v.file(ROOT, "f").await;
    let mut again = Format::new("test-volume", "file", "/elsewhere/");
    again.trash_days = 7;
    let stored = Meta::write_format(v.store.as_ref(), &again, v.clock.as_ref()).await.expect("formats");
    assert_eq!(stored.uuid, v.format().uuid);
    assert_eq!((stored.bucket.as_str(), stored.trash_days), ("/elsewhere/", 7));
    assert_eq!(Meta::load_format(v.store.as_ref()).await.expect("formatted"), stored);
    assert_eq!(v.names(ROOT).await, ["f"]);
    v.lookup(ROOT, b".trash").await.expect("the trash has been made");

    again.block_size = 1024;
    let refused = Meta::write_format(v.store.as_ref(), &again, v.clock.as_ref()).await;
    refused!(refused, Error::Format { member: "BlockSize", .. });
    assert_eq!(Meta::load_format(v.store.as_ref()).await.expect("formatted"), stored, "nothing was written");
}

#[tokio::test]
async fn statistics_that_are_turned_on_again_start_anew() {
    let v = Volume::plain().await;
    let store = v.store.as_ref();
    let stale = async || {
        let write = [Write::InitDirStat(Ino(5)), Write::AddOwnerQuotaUsed(crate::records::Principal::User(0), 1, 1)];
        let write = move |txn: &mut crate::store::Txn<'_>| {
            write.iter().cloned().for_each(|write| txn.write(write));
            Ok(())
        };
        v.transact(write).await.expect("stored");
    };
    let left = async || {
        let stat = store.read(&[Key::DirStat(Ino(5))]).await.expect("read").remove(0);
        (stat.is_some(), store.list_owner_quotas().await.expect("listed").len())
    };
    let mut format = Format::new("test-volume", "file", "/data/");
    for (dir_stats, user_group_quota) in [(false, true), (true, true), (true, false), (false, true)] {
        let before = Meta::load_format(store).await.expect("formatted");
        stale().await;
        (format.dir_stats, format.user_group_quota) = (dir_stats, user_group_quota);
        Meta::write_format(store, &format, v.clock.as_ref()).await.expect("formats");
        let cleared = (dir_stats && !before.dir_stats, user_group_quota && !before.user_group_quota);
        assert_eq!(left().await, (!cleared.0, usize::from(!cleared.1)), "{before:?}");
    }
}

#[tokio::test]
async fn an_empty_engine_is_named() {
    let error = Meta::load_format(&MemoryStore::new()).await.expect_err("nothing there");
    assert_eq!(error.to_string(), "no volume is formatted in memory");
}

#[tokio::test]
async fn a_reload_applies_what_changed() {
    let v = Volume::plain().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    v.on_reload(Box::new(move |format| noted.lock().push(format.trash_days)));
    v.reload().await.expect("reloaded");
    assert!(seen.lock().is_empty(), "nothing changed");
    change(&v, |format| format.trash_days = 3).await;
    v.beat().await;
    assert_eq!(*seen.lock(), [3]);
    v.file(ROOT, "f").await;
    v.unlink(&root(), ROOT, b"f").await.expect("unlinked");
    v.hour().await;
}

#[tokio::test]
async fn a_volume_that_became_another_ends_the_client() {
    let v = Volume::plain().await;
    change(&v, |format| format.uuid = "11111111-2222-4333-8444-555555555555".to_owned()).await;
    refused!(v.reload().await, Error::Format { member: "UUID", .. });
    v.beat().await;
    assert!(matches!(v.gone().await, Error::Format { member: "UUID", .. }));

    let v = Volume::plain().await;
    v.store.erase().await.expect("erased");
    v.beat().await;
    assert!(matches!(v.gone().await, Error::NotFormatted { .. }));

    let v = Volume::plain().await;
    change(&v, |format| format.meta_version = 2).await;
    refused!(v.reload().await, Error::Format { member: "MetaVersion", .. });
}

#[tokio::test]
async fn clients_that_are_too_old_are_refused() {
    let v = Volume::plain().await;
    change(&v, |format| format.min_client_version = "9.0.0".to_owned()).await;
    let format = Meta::load_format(v.store.as_ref()).await.expect("formatted");
    let store: Arc<dyn Store> = Arc::clone(&v.store) as Arc<dyn Store>;
    refused!(Meta::new(store, format, options(&v.clock)).await, Error::Format { .. });
}

#[tokio::test]
async fn a_read_only_client_changes_nothing() {
    let v = Volume::plain().await;
    let file = v.filled(ROOT, "f", 10).await;
    let settings = MetaOptions { read_only: true, enable_xattr: true, ..options(&v.clock) };
    let reader = Volume::open(Arc::clone(&v.store), Arc::clone(&v.clock), settings).await;
    assert_eq!(reader.start_session().await.expect("none"), SessionId::NONE);
    let caller = root();
    refused!(reader.mkdir(&caller, ROOT, b"d", 0, 0).await, Error::ReadOnly);
    refused!(reader.create(&caller, ROOT, b"g", 0, 0, true).await, Error::ReadOnly);
    refused!(reader.unlink(&caller, ROOT, b"f").await, Error::ReadOnly);
    refused!(reader.rmdir(&caller, ROOT, b"f").await, Error::ReadOnly);
    refused!(reader.rename(&caller, ROOT, b"f", ROOT, b"g", 0).await, Error::ReadOnly);
    refused!(reader.link(&caller, file, ROOT, b"g").await, Error::ReadOnly);
    refused!(reader.setattr(&caller, file, SetAttr::default()).await, Error::ReadOnly);
    refused!(reader.truncate(&caller, file, 0).await, Error::ReadOnly);
    refused!(reader.fallocate(&caller, file, 0, 0, 1).await, Error::ReadOnly);
    refused!(reader.write(file, 0, 0, 1).await, Error::ReadOnly);
    refused!(reader.set_xattr(&caller, file, b"user.a", b"", XattrFlag::Any).await, Error::ReadOnly);
    refused!(reader.remove_xattr(&caller, file, b"user.a").await, Error::ReadOnly);
    refused!(reader.set_quota(ROOT, Some(1), None).await, Error::ReadOnly);
    refused!(reader.remove_tree(&caller, ROOT, b"f", true, &|_count| ()).await, Error::ReadOnly);
    refused!(reader.meta.open(&caller, file, 1).await, Error::ReadOnly);
    reader.meta.open(&caller, file, 0).await.expect("reading");
    assert!(matches!(reader.read_one(Key::Attr(file)).await, Ok(Some(Record::Attr(_)))));
}

#[tokio::test]
async fn a_reload_learns_the_usage_without_a_round_trip_of_its_own() {
    let v = Setup { store: MemoryStore::remote(), ..Setup::default() }.volume().await;
    assert_eq!(v.known_usage(), None);
    v.filled(ROOT, "f", 5000).await;
    v.settle().await;
    let before = v.store.trips();
    v.reload().await.expect("formatted");
    assert_eq!(v.store.trips(), before + 1);
    assert_eq!(v.known_usage(), Some(Usage { space: 8192, inodes: 1 }));
}

#[tokio::test]
async fn a_sub_directory_is_shown_as_the_root() {
    let v = Volume::with_trash().await;
    let (a, sub) = (v.dir(ROOT, "a").await, v.make_dirs("/a/b", 0o755, 0, 0).await.expect("made"));
    let settings = MetaOptions { subdir: Some("a/b/".to_owned()), ..options(&v.clock) };
    let shown = Volume::open(Arc::clone(&v.store), Arc::clone(&v.clock), settings).await;
    let file = shown.file(ROOT, "f").await;
    assert_eq!(v.attr(file).await.parent, sub);
    assert_eq!(shown.names(ROOT).await, ["f"]);
    assert_eq!(shown.attr(ROOT).await, v.attr(sub).await);
    let (dir, _attr) = shown.mkdir(&root(), ROOT, b"d", 0o755, 0).await.expect("made");
    assert_eq!(shown.parent_of(dir).await.expect("up"), ROOT);
    assert_eq!(shown.parent_of(ROOT).await.expect("up"), ROOT, "nothing above");
    assert_eq!(v.parent_of(sub).await.expect("up"), a);
    refused!(shown.lookup(ROOT, b".trash").await, Error::NoEntry { .. });
    shown.file(ROOT, ".trash").await;
    assert_eq!(shown.summary(ROOT).await.expect("summed").files, 2);

    let store: Arc<dyn Store> = Arc::clone(&v.store) as Arc<dyn Store>;
    for (path, is_missing) in [("a/x", true), ("a/b/f", false)] {
        let settings = MetaOptions { subdir: Some(path.to_owned()), ..options(&v.clock) };
        match Meta::new(Arc::clone(&store), Format::clone(&v.format()), settings).await {
            Err(Error::NoEntry { .. }) if is_missing => {}
            Err(Error::NotDirectory { .. }) if !is_missing => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    assert_eq!(v.names(a).await, ["b"], "nothing was made");
}
