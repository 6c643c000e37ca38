//! Names, attributes and virtual files.

use std::time::Duration;

use bytes::Bytes;
use stead_base::{Errno, Ino};
use stead_meta::ops::{MetaOptions, SetAttr, XattrFlag};

use super::Rig;
use crate::VfsConfig;

async fn read_all(rig: &Rig, name: &[u8]) -> Bytes {
    let ino = rig.vfs.lookup(&rig.caller, Ino::ROOT, name).await.unwrap().attributes.ino;
    let opened = rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap();
    assert!(opened.direct_io);
    let all = rig.read(opened.fh, 0, 1 << 20).await;
    rig.vfs.release(&rig.caller, opened.fh).await.unwrap();
    all
}

#[tokio::test]
async fn config_tells_what_is_mounted_without_secrets() {
    let rig = Rig::new().await;
    rig.vfs.publish("Port", serde_json::json!({"PrometheusAgent": "127.0.0.1:9567"}));
    let text = read_all(&rig, b".config").await;
    let listed = rig.vfs.lookup(&rig.caller, Ino::ROOT, b".config").await.unwrap().attributes.attr;
    assert_eq!(listed.length, text.len() as u64);
    let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(document["Format"]["Name"], "test");
    assert_eq!(document["AttrTimeout"], 1_000_000_000);
    assert_eq!(document["Port"]["PrometheusAgent"], "127.0.0.1:9567");
    assert_eq!(document["Pid"], std::process::id());
    assert!(text.starts_with(b"{\n \"Meta\": {\n  \""), "one space of indentation");
}

#[tokio::test]
async fn stats_count_operations() {
    let rig = Rig::new().await;
    let (_, fh) = rig.create("a").await;
    rig.write(fh, 0, b"x").await;
    let text = String::from_utf8(read_all(&rig, b".stats").await.to_vec()).unwrap();
    assert!(text.lines().any(|line| line == "juicefs_fuse_ops_total_write 1"), "{text}");
    assert!(text.lines().any(|line| line == "juicefs_fuse_open_handlers 1"), "{text}");
    assert!(text.lines().any(|line| line == "juicefs_fuse_written_size_bytes_sum 1"), "{text}");
    let metrics = rig.vfs.metrics("mp=\"/m\"");
    assert!(metrics.contains("juicefs_fuse_ops_total{method=\"write\",mp=\"/m\"} 1\n"), "{metrics}");
    assert!(metrics.contains("# TYPE juicefs_fuse_ops_durations_histogram_seconds histogram\n"), "{metrics}");
}

#[tokio::test]
async fn the_access_log_shows_what_happens_while_it_is_read() {
    let rig = Rig::new().await;
    rig.create("before").await;
    let ino = rig.vfs.lookup(&rig.caller, Ino::ROOT, b".accesslog").await.unwrap().attributes.ino;
    let log = rig.vfs.open(&rig.caller, ino, libc::O_RDONLY).await.unwrap().fh;
    let (file, fh) = rig.create("during").await;
    rig.write(fh, 5, b"abc").await;
    let _ = rig.vfs.lookup(&rig.caller, Ino::ROOT, b"nothing").await;
    let text = String::from_utf8(rig.read(log, 0, 1 << 16).await.to_vec()).unwrap();
    let mut lines = text.lines().map(|line| line.split_once("] ").unwrap().1);
    let open = lines.next().unwrap();
    assert!(open.starts_with("open (9223372032559808513,0x0)") || open.starts_with("create"), "{open}");
    let text = text.replace("[uid:0,gid:0,pid:0] ", "");
    assert!(text.contains(&format!("create (1,during,0644): ({file},[-rw-r--r--:0100644,1,0,0,")), "{text}");
    assert!(text.contains(&format!(" write ({file},3,5,{fh}) - OK <0.")), "{text}");
    assert!(text.contains(" lookup (1,nothing): - no such file or directory <0."), "{text}");
    assert!(!text.contains("before") && !text.contains(" read "), "{text}");
}

#[tokio::test]
async fn the_names_of_virtual_files_are_taken() {
    let rig = Rig::new().await;
    let (vfs, root) = (&rig.vfs, Ino::ROOT);
    let made = vfs.create(&rig.caller, root, b".config", (0o644, 0), 0).await;
    assert_eq!(made.unwrap_err(), Errno::EEXIST);
    assert_eq!(vfs.unlink(&rig.caller, root, b".stats").await, Err(Errno::EPERM));
    assert_eq!(vfs.rmdir(&rig.caller, root, b".trash").await, Err(Errno::EPERM));
    assert_eq!(vfs.rename(&rig.caller, (root, b".stats"), (root, b"x"), 0).await, Err(Errno::EPERM));
    let config = vfs.lookup(&rig.caller, root, b".config").await.unwrap().attributes.ino;
    assert_eq!(vfs.open(&rig.caller, config, libc::O_RDWR).await.unwrap_err(), Errno::EACCES);
    let chmod = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    assert_eq!(vfs.setattr(&rig.caller, config, chmod, None).await.unwrap_err(), Errno::EPERM);
}

#[tokio::test]
async fn names_are_limited() {
    let rig = Rig::new().await;
    let (fits, long) = ([b'n'; 255], [b'n'; 256]);
    assert!(rig.vfs.mkdir(&rig.caller, Ino::ROOT, &fits, 0o755, 0).await.is_ok());
    assert_eq!(rig.vfs.lookup(&rig.caller, Ino::ROOT, &long).await.unwrap_err(), Errno::ENAMETOOLONG);
    assert_eq!(rig.vfs.mkdir(&rig.caller, Ino::ROOT, &long, 0o755, 0).await.unwrap_err(), Errno::ENAMETOOLONG);
}

#[tokio::test]
async fn extended_attributes_are_off_unless_asked_for() {
    let rig = Rig::new().await;
    let (ino, _) = rig.create("a").await;
    assert_eq!(rig.vfs.getxattr(&rig.caller, ino, b"user.x").await, Err(Errno::ENOSYS));
    let on = MetaOptions { enable_xattr: true, ..MetaOptions::default() };
    let rig = Rig::with(VfsConfig::default(), on).await;
    let (vfs, (ino, _)) = (&rig.vfs, rig.create("a").await);
    vfs.setxattr(&rig.caller, ino, b"user.x", b"1", XattrFlag::Create).await.unwrap();
    let again = vfs.setxattr(&rig.caller, ino, b"user.x", b"2", XattrFlag::Create).await;
    assert_eq!(again, Err(Errno::EEXIST));
    assert_eq!(vfs.getxattr(&rig.caller, ino, b"user.x").await.unwrap(), "1");
    assert_eq!(vfs.listxattr(&rig.caller, ino).await.unwrap(), "user.x\0");
    vfs.removexattr(&rig.caller, ino, b"user.x").await.unwrap();
    assert_eq!(vfs.getxattr(&rig.caller, ino, b"user.x").await, Err(Errno::ENODATA));
    assert_eq!(vfs.getxattr(&rig.caller, ino, b"security.capability").await, Err(Errno::ENODATA));
}

#[tokio::test]
async fn attributes_of_an_open_file_are_kept_no_longer_than_allowed() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    let trips = rig.store.trips();
    let first = rig.vfs.getattr(&rig.caller, ino).await.unwrap();
    assert!(first.timeout <= Duration::from_secs(1));
    assert_eq!(rig.store.trips(), trips, "what create returned is young enough");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    rig.vfs.getattr(&rig.caller, ino).await.unwrap();
    assert!(rig.store.trips() > trips);
    rig.close(fh).await.unwrap();
}

#[tokio::test]
async fn a_read_only_mount_changes_nothing() {
    let rig = Rig::new().await;
    let (ino, fh) = rig.create("a").await;
    rig.write(fh, 0, b"x").await;
    rig.close(fh).await.unwrap();
    let options = MetaOptions { read_only: true, ..MetaOptions::default() };
    let reader = Rig::mount(rig.store, rig.objects, VfsConfig::default(), options).await;
    assert_eq!(reader.vfs.open(&reader.caller, ino, libc::O_RDWR).await.unwrap_err(), Errno::EROFS);
    let made = reader.vfs.mkdir(&reader.caller, Ino::ROOT, b"d", 0o755, 0).await;
    assert_eq!(made.unwrap_err(), Errno::EROFS);
    let fh = reader.vfs.open(&reader.caller, ino, libc::O_RDONLY).await.unwrap().fh;
    assert_eq!(reader.read(fh, 0, 10).await, "x");
}
