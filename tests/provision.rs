//! The controller is killed in the middle of what it does: the next one finishes it, and nothing is left behind. What a
//! mount has not written back is in a snapshot all the same.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stead_csi::proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
use stead_csi::proto::{CreateVolumeRequest, Volume, VolumeContentSource};
use stead_tests::process::{eventually, files_below, freeze, must, signal_to};
use stead_tests::{Engine, Services, tools};

const DIRS: usize = 10;
const FILES: usize = 60;

#[test]
fn a_killed_controller_on_redis() {
    killed(Engine::Redis);
}

#[test]
fn a_killed_controller_on_sqlite() {
    killed(Engine::Sqlite);
}

fn killed(engine: Engine) {
    let mut services = Services::start(engine);
    let volume = services.create("v");
    let target = services.publish(&volume);
    fill(&target);
    let written = content(&target);
    services.unpublish(&volume, &target);

    killed_at(&mut services, "meta.clone.before-batch=kill@3", |services| snapshot(services).is_ok());
    assert!(snapshot(&services).expect("taken again"), "it is complete");

    for plan in ["meta.clone.before-batch=kill@3", "meta.clone.before-attach=kill", "meta.clone.after-attach=kill"] {
        let request = restored(&services);
        killed_at(&mut services, plan, |services| services.client.create(request.clone()).is_ok());
        let copy = services.client.create(request).expect("finished");
        let target = services.publish(&copy);
        assert_eq!(content(&target), written, "{plan}");
        services.unpublish(&copy, &target);
        killed_at(&mut services, "meta.delete.before-chunk=kill@5", |services| services.delete("copy").is_ok());
        services.delete("copy").expect("a repeat is a success");
    }

    let group = |services: &Services| services.client.group_snapshot("g", &["v", "w"], &services.secrets);
    services.create("w");
    for plan in ["meta.clone.before-attach=kill@2", "meta.clone.after-attach=kill@2", "meta.delete.before-chunk=kill@5"]
    {
        if plan.starts_with("meta.delete") {
            group(&services).expect("finished");
            let delete = |services: &Services| services.client.delete_group_snapshot("g", &services.secrets).is_ok();
            services.delete("w").expect("deleted");
            services.delete("v").expect("deleted");
            services.client.delete_snapshot("s", &services.secrets).expect("deleted");
            killed_at(&mut services, plan, delete);
        } else {
            killed_at(&mut services, plan, |services| group(services).is_ok());
        }
    }
    services.client.delete_group_snapshot("g", &services.secrets).expect("a repeat is a success");

    services.client.delete_snapshot("s", &services.secrets).expect("deleted");
    services.delete("v").expect("deleted");
    nothing_is_left(&services);
}

#[test]
fn snapshots_have_what_mounts_hold_on_redis() {
    held(Engine::Redis);
}

#[test]
fn snapshots_have_what_mounts_hold_on_sqlite() {
    held(Engine::Sqlite);
}

#[test]
fn a_file_system_of_its_own_on_redis() {
    own_file_system(Engine::Redis, &[("databases", "5-5")]);
}

#[test]
fn a_file_system_of_its_own_on_sqlite() {
    own_file_system(Engine::Sqlite, &[]);
}

/// It lives and goes with all its objects, whose place and name are free then.
fn own_file_system(engine: Engine, parameters: &[(&str, &str)]) {
    let services = Services::start(engine);
    let mut request = services.request("own");
    request.parameters.insert("provisioning".to_owned(), "filesystem".to_owned());
    request.parameters.extend(parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    for _again in 0..2 {
        let made = || services.client.create(request.clone()).inspect_err(|status| println!("not yet: {status}")).ok();
        let volume = eventually("the name is free", Duration::from_secs(60), made);
        let target = services.publish(&volume);
        assert!(!target.join("d0").exists(), "it begins empty");
        fill(&target);
        services.unpublish(&volume, &target);
        let refused = services.client.snapshot("s", &volume.volume_id, &services.secrets).expect_err("not offered");
        assert!(refused.message().contains("file system of its own"), "{refused}");
        let group = services.client.group_snapshot("g", &[&volume.volume_id], &services.secrets).expect_err("neither");
        assert!(group.message().contains("cannot be in a group"), "{group}");
        for _repeat in 0..2 {
            services.delete(&volume.volume_id).unwrap_or_else(|status| panic!("{status:?}\n{}", services.logs()));
        }
    }
}

/// What was written and neither fsynced nor closed is in snapshots, groups of them and clones.
fn held(engine: Engine) {
    let services = Services::start(engine);
    let (volume, other) = (services.create("v"), services.create("other"));
    let (target, elsewhere) = (services.publish(&volume), services.publish(&other));
    let mut file = fs::File::create(target.join("open")).expect("new");
    let mut second = fs::File::create(elsewhere.join("open")).expect("new");
    file.write_all(b"one").expect("written");
    let begun = Instant::now();
    snapshot(&services).expect("taken");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}: did the mount answer?", begun.elapsed());
    file.write_all(b"two").expect("written");
    second.write_all(b"2").expect("written");
    let group = services.client.group_snapshot("g", &["v", "other"], &services.secrets).expect("taken");
    file.write_all(b"three").expect("written");
    for (name, source, content) in [
        ("of-snapshot", of_snapshot("s"), "one"),
        ("of-member", of_snapshot(&group[0].snapshot_id), "2"),
        ("of-other-member", of_snapshot(&group[1].snapshot_id), "onetwo"),
        ("of-volume", Type::Volume(VolumeSource { volume_id: "v".to_owned() }), "onetwothree"),
    ] {
        assert_eq!(read_copy(&services, name, source), content, "{name}\n{}", services.logs());
    }

    // A mount that hangs costs its time and nothing else.
    file.write_all(b"four").expect("written");
    let worker = services.worker(&volume).expect("it serves");
    freeze(worker);
    let begun = Instant::now();
    let late = services.client.snapshot("late", "v", &services.secrets);
    let took = begun.elapsed();
    signal_to(worker, Signal::SIGCONT);
    late.expect("taken all the same");
    assert!((Duration::from_secs(5)..Duration::from_secs(9)).contains(&took), "{took:?}\n{}", services.logs());
    assert!(services.logs().contains("has not written back in time"), "{}", services.logs());
    drop((file, second));
    assert_eq!(read_copy(&services, "of-late", of_snapshot("late")), "onetwothree");
    assert_eq!(fs::read_to_string(target.join("open")).expect("readable"), "onetwothreefour");
    services.unpublish(&volume, &target);
    services.unpublish(&other, &elsewhere);
}

fn of_snapshot(id: &str) -> Type {
    Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() })
}

fn read_copy(services: &Services, name: &str, source: Type) -> String {
    let source = Some(VolumeContentSource { r#type: Some(source) });
    let request = CreateVolumeRequest { volume_content_source: source, ..services.request(name) };
    let copy = services.client.create(request).unwrap_or_else(|status| panic!("{name}: {status}\n{}", services.logs()));
    let target = services.publish(&copy);
    let content = fs::read_to_string(target.join("open")).expect("there");
    services.unpublish(&copy, &target);
    content
}

/// Calls a controller that dies before it can answer, and starts another one.
fn killed_at(services: &mut Services, plan: &str, answered: impl FnOnce(&Services) -> bool) {
    services.restart_controller(Some(plan));
    assert!(!answered(services), "{plan}: an answer although the controller was to die\n{}", services.logs());
    assert!(services.controller_died(), "{plan}: the controller lives on\n{}", services.logs());
    services.restart_controller(None);
}

fn snapshot(services: &Services) -> Result<bool, tonic::Status> {
    services.client.snapshot("s", "v", &services.secrets).map(|snapshot| snapshot.ready_to_use)
}

fn restored(services: &Services) -> CreateVolumeRequest {
    let volume_content_source = Some(VolumeContentSource { r#type: Some(of_snapshot("s")) });
    CreateVolumeRequest { volume_content_source, ..services.request("copy") }
}

fn fill(target: &Path) {
    for dir in 0..DIRS {
        let dir = target.join(format!("d{dir}"));
        fs::create_dir(&dir).expect("new");
        for file in 0..FILES {
            fs::write(dir.join(format!("f{file}")), format!("{}/{file}", dir.display())).expect("written");
        }
    }
}

fn content(target: &Path) -> BTreeMap<String, Vec<u8>> {
    // Not everything: a mount's own virtual files have no end.
    let files = (0..DIRS).flat_map(|dir| files_below(&target.join(format!("d{dir}"))));
    let read = files.map(|file| {
        let name = file.strip_prefix(target).expect("below").display().to_string();
        (name, fs::read(&file).expect("readable"))
    });
    let read: BTreeMap<_, _> = read.collect();
    assert_eq!(read.len(), DIRS * FILES);
    read
}

/// As the whole file system shows it, mounted as a volume that somebody made by hand.
fn nothing_is_left(services: &Services) {
    let whole = Volume { volume_id: "whole".to_owned(), ..Volume::default() };
    let target = services.publish(&whole);
    for dir in ["deleting", "group-records", "snapshots", "snapshot-records", "volumes"] {
        let dir = target.join(".stead").join(dir);
        eventually("what was deleted is removed", Duration::from_secs(30), || {
            (fs::read_dir(&dir).expect("there").count() == 0).then_some(())
        });
    }
    services.unpublish(&whole, &target);
    if services.minio.is_none() {
        let blocks = services.path("data/blocks");
        eventually("the data is removed", Duration::from_secs(30), || {
            let left = files_below(&blocks).into_iter().filter(|file| file.display().to_string().contains("/chunks/"));
            (left.count() == 0).then_some(())
        });
    }
    must(Command::new(tools::stead()).args(["fsck", &services.secrets["metaurl"]]), Duration::from_secs(60));
}
