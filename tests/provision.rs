//! The controller is killed in the middle of what it does: the next one finishes it, and nothing is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stead_csi::proto::volume_content_source::{SnapshotSource, Type};
use stead_csi::proto::{CreateVolumeRequest, Volume, VolumeContentSource};
use stead_tests::process::{eventually, files_below, must};
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

    services.client.delete_snapshot("s", &services.secrets).expect("deleted");
    services.delete("v").expect("deleted");
    nothing_is_left(&services);
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
    let source = Type::Snapshot(SnapshotSource { snapshot_id: "s".to_owned() });
    let volume_content_source = Some(VolumeContentSource { r#type: Some(source) });
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
    for dir in ["deleting", "snapshots", "snapshot-records", "volumes"] {
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
