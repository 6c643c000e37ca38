//! Volumes go back and forth between this client and the Go client of the same format.

use std::fs;
use std::path::Path;

use stead_tests::tree::{assert_same, scan};
use stead_tests::{Client, Engine, Mount, Services, TempVolume, odd};

/// Both clients then see a change of the other one at once.
const NO_CACHES: [&str; 6] = ["--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0"];

#[test]
fn the_go_client_reads_ours_on_redis() {
    one_writes_the_other_reads(Engine::Redis, Client::Stead, Client::Go, &[]);
}

#[test]
fn the_go_client_reads_ours_on_sqlite() {
    one_writes_the_other_reads(Engine::Sqlite, Client::Stead, Client::Go, &[]);
}

#[test]
fn we_read_the_go_clients_on_redis() {
    one_writes_the_other_reads(Engine::Redis, Client::Go, Client::Stead, &[]);
}

#[test]
fn we_read_the_go_clients_on_sqlite() {
    one_writes_the_other_reads(Engine::Sqlite, Client::Go, Client::Stead, &[]);
}

#[test]
fn the_go_client_reads_ours_compressed_and_hashed() {
    let options = ["--compress", "lz4", "--hash-prefix", "--block-size", "1M"];
    one_writes_the_other_reads(Engine::Redis, Client::Stead, Client::Go, &options);
}

#[test]
fn we_read_the_go_clients_compressed() {
    one_writes_the_other_reads(Engine::Sqlite, Client::Go, Client::Stead, &["--compress", "zstd"]);
}

#[test]
fn both_in_turns_on_redis() {
    in_turns(Engine::Redis);
}

#[test]
fn both_in_turns_on_sqlite() {
    in_turns(Engine::Sqlite);
}

#[test]
fn both_at_once_on_redis() {
    at_once(Engine::Redis);
}

#[test]
fn both_at_once_on_sqlite() {
    at_once(Engine::Sqlite);
}

#[test]
fn the_go_client_reads_a_provisioned_volume_on_redis_and_minio() {
    provisioned(Engine::Redis);
}

#[test]
fn the_go_client_reads_a_provisioned_volume_on_sqlite() {
    provisioned(Engine::Sqlite);
}

fn one_writes_the_other_reads(engine: Engine, writer: Client, reader: Client, options: &[&str]) {
    let volume = TempVolume::format(engine, writer, options);
    let mount = Mount::start(writer, &volume, "writer", &[]);
    odd::fill(&mount.path().join("odd"), 1);
    let written = scan(mount.path());
    mount.unmount();
    let mount = Mount::start(reader, &volume, "reader", &[]);
    assert_same(&format!("{reader:?} reads what {writer:?} wrote"), &written, &scan(mount.path()));
    mount.unmount();
    volume.assert_sound();
}

/// Each client changes what the other one made.
fn in_turns(engine: Engine) {
    let volume = TempVolume::format(engine, Client::Go, &[]);
    let mut expected = None;
    for (turn, client) in (0..).zip([Client::Stead, Client::Go, Client::Stead, Client::Go]) {
        let mount = Mount::start(client, &volume, &format!("turn-{turn}"), &[]);
        if let Some(expected) = &expected {
            assert_same(&format!("{client:?} in turn {turn}"), expected, &scan(mount.path()));
        }
        odd::fill(&mount.path().join(format!("turn-{turn}")), turn);
        if turn > 0 {
            change(&mount.path().join(format!("turn-{}", turn - 1)));
        }
        if turn > 1 {
            fs::remove_dir_all(mount.path().join(format!("turn-{}", turn - 2))).expect("removed");
        }
        expected = Some(scan(mount.path()));
        mount.unmount();
        volume.assert_sound();
    }
}

fn change(dir: &Path) {
    fs::remove_file(dir.join("kinds/twin")).expect("one of three links removed");
    fs::rename(dir.join("names/日本"), dir.join("moved")).expect("a directory moved");
    fs::write(dir.join("large/sparse"), "short now").expect("written over");
    let dense = fs::OpenOptions::new().write(true).open(dir.join("large/dense")).expect("opened");
    dense.set_len(65 << 20).expect("cut");
    xattr::remove(dir.join("attributes/extended"), "user.empty").expect("an attribute removed");
    fs::remove_dir_all(dir.join("many")).expect("a large directory removed");
}

/// Close-to-open: what one client closed, the other one opens.
fn at_once(engine: Engine) {
    let volume = TempVolume::format(engine, Client::Stead, &[]);
    let ours = Mount::start(Client::Stead, &volume, "ours", &NO_CACHES);
    let theirs = Mount::start(Client::Go, &volume, "theirs", &NO_CACHES);
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&ours, &theirs) } else { (&theirs, &ours) };
        let content = vec![round; 100_000 * usize::from(round + 1)];
        fs::write(writer.path().join("shared"), &content).expect("written");
        assert!(fs::read(reader.path().join("shared")).expect("read") == content, "round {round}: other content");
        fs::create_dir(writer.path().join(format!("dir-{round}"))).expect("made");
        fs::write(reader.path().join(format!("dir-{round}/file")), "from the other").expect("written");
        fs::rename(writer.path().join(format!("dir-{round}/file")), writer.path().join(format!("file-{round}")))
            .expect("renamed");
        assert!(!reader.path().join(format!("dir-{round}/file")).exists(), "round {round}: the old name is there");
        fs::remove_dir(reader.path().join(format!("dir-{round}"))).expect("removed");
    }
    assert_same("both at once", &scan(ours.path()), &scan(theirs.path()));
    ours.unmount();
    theirs.unmount();
    volume.assert_sound();
}

fn provisioned(engine: Engine) {
    let services = Services::start(engine);
    let volume = services.create("pvc-compat");
    let target = services.publish(&volume);
    odd::fill(&target.join("odd"), 2);
    let written = scan(&target);
    services.unpublish(&volume, &target);
    let existing = TempVolume::existing("tested", &services.secrets["metaurl"]);
    let mount = Mount::start(Client::Go, &existing, "go", &[]);
    let path = mount.path().join(volume.volume_context.get("path").unwrap_or(&volume.volume_id));
    assert_same("the Go client reads what was published", &written, &scan(&path));
    mount.unmount();
    existing.assert_sound();
    services.delete(&volume.volume_id).unwrap_or_else(|status| panic!("DeleteVolume: {status:?}"));
    existing.assert_sound();
    let mount = Mount::start(Client::Go, &existing, "after", &[]);
    assert!(!path.exists(), "{} is still there after DeleteVolume", path.display());
    mount.unmount();
}
