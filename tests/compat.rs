//! Volumes go back and forth between this client and the Go client of the same format.

mod compat {
    mod commands;
    mod locks;
    mod running;
}

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use stead_tests::process::files_below;
use stead_tests::tree::{Tree, assert_same, scan};
use stead_tests::{Client, Engine, Mount, Services, Setup, TempVolume, eventually, odd};

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
fn the_go_client_reads_ours_encrypted() {
    encrypted(Client::Stead, Client::Go, "aes256gcm-rsa", &[]);
    encrypted(Client::Stead, Client::Go, "chacha20-rsa", &["--compress", "lz4"]);
}

#[test]
fn we_read_the_go_clients_encrypted() {
    encrypted(Client::Go, Client::Stead, "aes256gcm-rsa", &["--compress", "zstd"]);
    encrypted(Client::Go, Client::Stead, "chacha20-rsa", &[]);
}

#[test]
fn the_go_client_finds_nothing_wrong_with_copies_and_compactions_on_redis() {
    copied_and_compacted(Engine::Redis);
}

#[test]
fn the_go_client_finds_nothing_wrong_with_copies_and_compactions_on_sqlite() {
    copied_and_compacted(Engine::Sqlite);
}

#[test]
fn the_go_client_uploads_what_we_staged() {
    one_stages_the_other_uploads(Client::Stead, Client::Go);
}

#[test]
fn we_upload_what_the_go_client_staged() {
    one_stages_the_other_uploads(Client::Go, Client::Stead);
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

/// With a key that itself is encrypted; its passphrase is in the environment of every client that is started.
fn encrypted(writer: Client, reader: Client, algorithm: &str, more: &[&str]) {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/object/encryption/testdata/p1-aes.pem");
    let options = [&["--encrypt-rsa-key", key, "--encrypt-algo", algorithm], more].concat();
    one_writes_the_other_reads(Engine::Sqlite, writer, reader, &options);
}

/// Copies share slices and compactions replace them; without a trash what is replaced is gone at once.
fn copied_and_compacted(engine: Engine) {
    for trash_days in [0, 1] {
        let setup = Setup { trash_days, ..Setup::default() };
        let volume = TempVolume::format_with(engine, setup, Client::Stead, &["--block-size", "64K"]);
        let mount = Mount::start(Client::Stead, &volume, "writer", &[]);
        let path = |name: &str| mount.path().join(name);
        pieces(&path("base"), 0, 220);
        fs::copy(path("base"), path("copy")).expect("copied");
        pieces(&path("copy"), 1, 110);
        fs::copy(path("copy"), path("second")).expect("copied");
        fs::remove_file(path("base")).expect("removed");
        pieces(&path("second"), 2, 110);
        let expected = scan(mount.path());
        mount.unmount();
        let mount = Mount::start(Client::Go, &volume, "reader", &[]);
        assert_same("the Go client reads copies and compacted chunks", &expected, &scan(mount.path()));
        fs::remove_file(mount.path().join("second")).expect("removed");
        mount.unmount();
        volume.assert_clean_after_gc();
        let mount = Mount::start(Client::Stead, &volume, "again", &[]);
        assert!(fs::read(mount.path().join("copy")).expect("read").len() > 1 << 20, "what is shared is still there");
        mount.unmount();
    }
}

/// Writes into a file piece by piece, each of them a slice of its own.
fn pieces(path: &Path, round: u8, count: u64) {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("opened");
    for n in 0..count {
        let data = vec![round.wrapping_mul(91) ^ u8::try_from(n % 251).expect("a byte"); 9000];
        file.write_all_at(&data, n * 8000 + u64::from(round) * 100).expect("written");
        file.sync_data().expect("synced");
    }
}

/// Blocks that one client left on the local disk are read and uploaded by the other one, which stages nothing itself.
fn one_stages_the_other_uploads(stager: Client, uploader: Client) {
    // The Go client may upload a block at once, when its disk is slow: then there is less to upload.
    let attempts = if stager == Client::Go { 3 } else { 1 };
    let staged = (0..attempts).find_map(|_attempt| staged(stager));
    let (volume, written) = staged.unwrap_or_else(|| panic!("{stager:?} uploaded though it was to wait"));
    let uploads = |client| if client == Client::Go { vec!["--writeback"] } else { Vec::new() };
    let mount = Mount::start(uploader, &volume, "shared", &uploads(uploader));
    assert_same(&format!("{uploader:?} reads what {stager:?} staged"), &written, &scan(mount.path()));
    eventually("everything is uploaded", Duration::from_secs(60), || volume.fsck().code.filter(|code| *code == 0));
    mount.unmount();
    let mount = Mount::start(uploader, &volume, "elsewhere", &[]);
    assert_same("read from the store", &written, &scan(mount.path()));
    mount.unmount();
    volume.assert_sound();
}

/// A volume and what was written into it, if it waits on the local disk: all that is ours, most of what is the Go client's.
fn staged(stager: Client) -> Option<(TempVolume, Tree)> {
    let volume = TempVolume::format(Engine::Redis, Client::Go, &[]);
    // Both clients upload at once what they have no room to stage: a test's machine may have little.
    let staging = ["--writeback", "--upload-delay", "1h", "--free-space-ratio", "0.01"];
    let mount = Mount::start(stager, &volume, "shared", &staging);
    odd::fill(&mount.path().join("odd"), 3);
    let written = scan(mount.path());
    // A killed Go client has not written its statistics yet, which its fsck would tell.
    if stager == Client::Stead {
        mount.crash()
    } else {
        mount.unmount()
    }
    let blocks = volume.bucket().join(&volume.name).join("chunks");
    let cached = files_below(&volume.path().join("cache-shared"));
    let waiting = cached.iter().filter(|file| file.components().any(|part| part.as_os_str() == "rawstaging")).count();
    let uploaded = if blocks.exists() { files_below(&blocks).len() } else { 0 };
    println!("figure: {stager:?}: {waiting} blocks wait, {uploaded} were uploaded");
    let kept = waiting > uploaded && (stager == Client::Go || uploaded == 0);
    kept.then_some((volume, written))
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
