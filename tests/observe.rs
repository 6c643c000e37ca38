//! What operators see: metrics, health, the list of volumes, logs, and why a mount was refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use stead_csi::proto::Volume;
use stead_tests::csi::{UNPRIVILEGED, map};
use stead_tests::process::{eventually, freeze, must, signal_to};
use stead_tests::{Engine, Services, tools};
use tonic::Code;

/// The longest message between node service and worker, with room for more figures.
const LARGEST_PAGE: usize = 100 << 10;

#[test]
fn on_redis() {
    observed(Engine::Redis);
}

#[test]
fn on_sqlite() {
    observed(Engine::Sqlite);
}

fn observed(engine: Engine) {
    let services = Services::start(engine);
    let volume = services.create("seen");
    let target = services.path("targets/seen");
    let mut request = services.publication(&volume, &target);
    let pod = [("csi.storage.k8s.io/pod.name", "web-0"), ("csi.storage.k8s.io/pod.namespace", "shop")];
    request.volume_context.extend(map(pod));
    services.client.publish(request).expect("published");
    fs::write(target.join("file"), "content").expect("written");
    assert_eq!(fs::read(target.join("file")).expect("there"), b"content");

    let first = services.worker(&volume).expect("it is served");
    signal_to(first, Signal::SIGKILL);
    let next = || services.worker(&volume).filter(|worker| *worker != first);
    eventually("another worker", Duration::from_secs(10), next);
    fs::write(target.join("file"), "more content").expect("the mount outlives its worker");
    services.replace_worker(&volume);
    fs::remove_file(target.join("file")).expect("removed");
    eventually("a heartbeat has told what the volume uses", Duration::from_secs(30), || {
        services.node_page("/metrics").contains("juicefs_used_space{").then_some(())
    });

    let (controller, node) = (services.controller_page("/metrics"), services.node_page("/metrics"));
    told(&services, &controller, &node);
    charted(&controller, &node);
    listed(&services, &volume, &target);
    logged(&services, &volume, &target);
    hangs(&services, &volume);
    services.unpublish(&volume, &target);
    services.delete(&volume.volume_id).expect("deleted");
}

fn told(services: &Services, controller: &str, node: &str) {
    assert_eq!((&*services.controller_page("/healthz"), &*services.node_page("/healthz")), ("ok\n", "ok\n"));
    let has = |page: &str, start: &str| {
        assert!(page.lines().any(|line| line.starts_with(start)), "{start} is not in\n{page}");
    };
    has(controller, r#"stead_csi_request_seconds_count{method="CreateVolume",code="OK"} 1"#);
    for line in [
        r#"stead_csi_request_seconds_count{method="NodePublishVolume",code="OK"} 1"#,
        r#"stead_publish_stage_seconds_count{stage="start"} 1"#,
        r#"stead_worker_start_stage_seconds_count{stage="object storage"} 3"#,
        "stead_mounts 1",
        "stead_publications 1",
        "stead_workers_started_total 3",
        "stead_worker_deaths_total 1",
        "stead_worker_handovers_total 1",
        r#"stead_volume_up{volume="seen"} 1"#,
        r#"juicefs_fuse_ops_total{volume="seen",mp=""#,
    ] {
        has(node, line);
    }
    for secret in services.secrets.iter().filter(|(member, _)| ["metaurl", "secret-key"].contains(&member.as_str())) {
        assert!(!controller.contains(secret.1) && !node.contains(secret.1), "{} is shown", secret.0);
    }
    let of_volume: usize = node.lines().filter(|line| line.contains("juicefs_")).map(str::len).sum();
    println!("figure: a page of {} bytes, {of_volume} of them for its volume", node.len());
    assert!(of_volume < LARGEST_PAGE, "{of_volume}");
}

/// Every metric that the dashboard asks for is one that we have.
fn charted(controller: &str, node: &str) {
    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/grafana/steadfast.json");
    let dashboard: Value = serde_json::from_slice(&fs::read(dashboard).expect("there")).expect("JSON");
    let mut asked = BTreeSet::new();
    expressions(&dashboard, &mut |expression| asked.extend(names(expression)));
    assert!(asked.len() > 20, "{asked:?}");
    let printed: BTreeSet<String> = controller.lines().chain(node.lines()).flat_map(names).collect();
    let missing: Vec<_> = asked.difference(&printed).collect();
    assert!(missing.is_empty(), "no page has {missing:?}");
}

/// Everything that a dashboard asks its datasource.
fn expressions(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if matches!(&**name, "expr" | "query" | "definition") => found(text),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// The names of metrics in a text.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("stead_") || word.starts_with("juicefs_")).map(str::to_owned).collect()
}

fn list(services: &Services, options: &[&str]) -> String {
    let mut command = Command::new(tools::stead());
    command.args(["node", "ls", "--state-dir"]).arg(services.path("state")).args(options);
    must(&mut command, Duration::from_secs(5))
}

fn listed(services: &Services, volume: &Volume, target: &Path) {
    let json: Value = serde_json::from_str(&list(services, &["--json"])).expect("JSON");
    let worker = services.worker(volume).expect("it is served");
    let found = &json[0];
    assert_eq!(found["volume"], "seen", "{json}");
    assert_eq!(
        (&found["health"], &found["worker"], &found["restarts"]),
        (&"serving".into(), &worker.into(), &2.into())
    );
    assert_eq!(found["targets"][0]["pod"], "shop/web-0", "{json}");
    let table = list(services, &[]);
    for word in ["VOLUME", "seen", "serving", "shop/web-0", &worker.to_string(), &target.display().to_string()] {
        assert!(table.contains(word), "{word} is not in\n{table}");
    }
}

fn logged(services: &Services, volume: &Volume, target: &Path) {
    let logs = services.logs();
    let publication = logs.lines().find(|line| line.contains("NodePublishVolume")).expect("a line of the call");
    for word in ["seen", "shop/web-0", &target.display().to_string()] {
        assert!(publication.contains(word), "{word} is not in {publication}");
    }
    let died = logs.lines().find(|line| line.contains("worker died")).expect("a line of the death");
    assert!(died.contains("shop/web-0"), "{died}");
    let worker = fs::read_to_string(services.path("state/logs").join(format!("{}.log", volume.volume_id)));
    let worker = worker.expect("its log");
    let serving: Vec<_> = worker.lines().filter(|line| line.contains("stage done")).collect();
    assert!(!serving.is_empty() && serving.iter().all(|line| line.contains("volume=\"seen\"")), "{worker}");
}

/// A worker that hangs keeps neither the page nor the list.
fn hangs(services: &Services, volume: &Volume) {
    let worker = services.worker(volume).expect("it is served");
    freeze(worker);
    let began = Instant::now();
    let page = services.node_page("/metrics");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(page.contains(r#"stead_volume_up{volume="seen"} 0"#), "{page}");
    eventually("it is listed as hung", Duration::from_secs(20), || {
        list(services, &["--json"]).contains("\"hung\"").then_some(())
    });
    signal_to(worker, Signal::SIGCONT);
    eventually("it is listed as serving", Duration::from_secs(20), || {
        list(services, &["--json"]).contains("\"serving\"").then_some(())
    });
}

/// Blocks that could not be written would fail when somebody fsyncs; the mount fails instead, unless it only reads.
#[test]
fn a_storage_that_workers_cannot_write_is_told_when_it_is_mounted() {
    let services = Services::start(Engine::Sqlite);
    let volume = services.create("denied");
    let target = services.path("targets/denied");
    let blocks = services.path("data/blocks");
    // Whoever made them has left the workers nothing but to read.
    let own = |uid: u32| {
        for directory in [blocks.clone(), blocks.join("tested")] {
            if directory.exists() {
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("ours");
                chown(&directory, Some(uid), Some(uid)).expect("ours");
            }
        }
    };
    own(0);
    let refused = services.client.publish(services.publication(&volume, &target)).expect_err("it cannot be written");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let bucket = blocks.display().to_string();
    for word in ["object storage", &bucket, "65532", "chown", "ro"] {
        assert!(refused.message().contains(word), "{word} is not in {refused}");
    }
    assert!(!target.exists());
    let mut reader = services.publication(&volume, &target);
    reader.volume_context.insert("mountOptions".to_owned(), "ro".to_owned());
    services.client.publish(reader).unwrap_or_else(|status| panic!("{status}\n{}", services.logs()));
    services.unpublish(&volume, &target);
    own(UNPRIVILEGED);
    services.client.publish(services.publication(&volume, &target)).expect("it can be written again");
    fs::write(target.join("file"), "content").expect("written");
    eventually("the probe leaves nothing behind", Duration::from_secs(5), || {
        let left = fs::read_dir(blocks.join("tested/testing")).map_or(0, Iterator::count);
        (left == 0).then_some(())
    });
    services.unpublish(&volume, &target);
    services.delete(&volume.volume_id).expect("deleted");
}
