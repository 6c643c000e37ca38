//! A real Kubernetes of one node with Redis and `MinIO` beside it, in namespaces of its own (`tests/cluster/`), and the chart
//! installed in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Output, eventually, files_below, must, run, tail};
use crate::tools;

/// Where the chart is installed.
pub const NAMESPACE: &str = "steadfast";
/// Host and port of Redis, as pods see it.
pub const REDIS: &str = "10.244.0.1:6379";
/// Its password.
pub const REDIS_PASSWORD: &str = "red1s-Secret";
/// Address of `MinIO`, as pods see it.
pub const MINIO: &str = "http://10.244.0.1:9000";
/// Its access key.
pub const ACCESS_KEY: &str = "minio-user";
/// Its secret key.
pub const SECRET_KEY: &str = "minio-Secret";

const UP: Duration = Duration::from_secs(300);
const CALL: Duration = Duration::from_secs(180);
/// How long the cluster may take for what it does in seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster; it ends with its guard.
pub struct Cluster {
    namespace: String,
    upstream: bool,
    dir: TempDir,
}

impl Cluster {
    /// Starts one, with the image `stead:test` made of the binary under test.
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// The same, also with the images that upstream's suite needs.
    pub fn start_for_upstream() -> Self {
        Self::start_with(true)
    }

    fn start_with(upstream: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir().expect("a temporary directory");
        let mut cluster = Self { namespace: String::new(), upstream, dir };
        print!("{}", must(&mut cluster.script("up.sh"), UP));
        cluster.namespace = cluster.pid("namespace");
        cluster.image(&tools::stead(), "test");
        cluster
    }

    /// Everything of the cluster lies here.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A file for this test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(tools::data("cluster").join(name));
        command.env("CLUSTER_RUN", self.run_dir()).env("CLUSTER_BIN", tools::cluster());
        command.env("CLUSTER_MINIO", tools::minio());
        if self.upstream {
            command.env("CLUSTER_E2E", tools::upstream());
        }
        command
    }

    fn pid(&self, name: &str) -> String {
        let pid = fs::read_to_string(self.run_dir().join("pids").join(name));
        pid.expect("the cluster is up").trim().to_owned()
    }

    /// Makes the image `stead:TAG` of a program.
    pub fn image(&self, program: &Path, tag: &str) {
        must(self.script("images.sh").arg("stead").arg(program).arg(tag), CALL);
    }

    /// Makes the image `test/load:1` of a program.
    pub fn load_image(&self, program: &Path) {
        must(self.script("images.sh").arg("load").arg(program), CALL);
    }

    /// A command in the cluster's namespaces.
    pub fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.namespace, "-m", "-n", "-p", "--"]).arg(program);
        command.env("KUBECONFIG", self.run_dir().join("admin.kubeconfig"));
        command
    }

    /// `kubectl`, whatever comes of it.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        run(self.inside(&tools::cluster().join("kubectl")).args(arguments), CALL)
    }

    /// `kubectl`; it has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        must(self.inside(&tools::cluster().join("kubectl")).args(arguments), CALL)
    }

    /// What `kubectl get` knows.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) {
        let file = self.file("manifest.yaml");
        fs::write(&file, manifest).expect("written");
        self.kubectl(&["apply", "-f", &file.display().to_string()]);
    }

    /// Waits until a `kubectl wait --for` is true.
    pub fn wait(&self, condition: &str, objects: &[&str]) {
        let condition = format!("--for={condition}");
        let waited = self.try_kubectl(&[&["wait", "--timeout=120s", &condition], objects].concat());
        assert!(waited.code == Some(0), "{objects:?} {condition}: {}\n{}", waited.text(), self.told());
    }

    /// What a shell in a pod prints.
    pub fn sh(&self, pod: &str, script: &str) -> String {
        self.kubectl(&["exec", pod, "--", "sh", "-c", script])
    }

    /// Installs or upgrades the chart with these values, and waits until it serves.
    pub fn helm(&self, values: &str) -> Duration {
        let file = self.file("values.yaml");
        fs::write(&file, values).expect("written");
        let chart = tools::data("../charts/steadfast").canonicalize().expect("the chart");
        let mut helm = self.inside(&tools::cluster().join("helm"));
        helm.args(["upgrade", "--install", "steadfast"]).arg(chart).args(["-n", NAMESPACE, "--create-namespace"]);
        helm.arg("-f").arg(file).args(["--wait", "--timeout", "120s"]);
        let installed = run(&mut helm, CALL);
        assert!(installed.code == Some(0), "helm: {}\n{}", installed.text(), self.told());
        eventually("the kubelet knows the driver", PATIENCE, || {
            let node = self.get(&["csinode", "node-1"]);
            node["spec"]["drivers"].as_array().is_some_and(|drivers| !drivers.is_empty()).then_some(())
        });
        installed.took
    }

    /// Removes the chart.
    pub fn uninstall(&self) {
        must(
            self.inside(&tools::cluster().join("helm")).args(["uninstall", "steadfast", "-n", NAMESPACE, "--wait"]),
            CALL,
        );
    }

    /// Messages of an object's Events, the newest last.
    pub fn events(&self, object: &str) -> Vec<String> {
        let (kind, name) = object.split_once('/').expect("kind/name");
        let selector = format!("--field-selector=involvedObject.name={name},involvedObject.kind={kind}");
        let list = self.get(&["events", &selector, "--sort-by=.lastTimestamp"]);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().filter_map(|event| event["message"].as_str()).map(str::to_owned).collect()
    }

    /// Redis' answer to one command.
    pub fn redis(&self, arguments: &[&str]) -> String {
        let mut command = self.inside(Path::new("/usr/bin/redis-cli"));
        must(command.env("REDISCLI_AUTH", REDIS_PASSWORD).args(arguments), CALL)
    }

    /// Names of the objects in a bucket.
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        let root = self.run_dir().join("minio").join(bucket);
        let files = files_below(&root).into_iter().filter(|file| file.ends_with("xl.meta"));
        let names = files.filter_map(|file| Some(file.parent()?.strip_prefix(&root).ok()?.display().to_string()));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// FUSE mounts that the node has.
    pub fn mounts(&self) -> Vec<String> {
        let mounts = must(self.inside(Path::new("/bin/cat")).arg("/proc/self/mountinfo"), CALL);
        mounts.lines().filter(|line| line.contains(" - fuse.")).map(str::to_owned).collect()
    }

    /// The node service's socket.
    pub fn node_socket(&self) -> PathBuf {
        self.run_dir().join("private/var/lib/kubelet/plugins/csi.steadfast.io/csi.sock")
    }

    /// Processes in the cluster by the beginning of their command lines.
    pub fn processes(&self, words: &[&str]) -> Vec<u32> {
        // The layers of a container's root are named with the directories that they lie in.
        let own = self.run_dir().join("containerd").display().to_string();
        let is_ours =
            |pid: &str| fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|all| all.contains(&own));
        let wanted: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let pids =
            fs::read_dir("/proc").expect("there").flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let theirs = pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).take(wanted.len()).eq(wanted.iter().copied()) && is_ours(pid)
        });
        theirs.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// A file below the node's state directory.
    pub fn node_state(&self, path: &str) -> PathBuf {
        self.run_dir().join("private/var/lib/steadfast").join(path)
    }

    /// Stops the API server.
    pub fn stop_api_server(&self) {
        let pid = self.pid("kube-apiserver").parse().expect("a process id");
        crate::process::signal_to(pid, nix::sys::signal::Signal::SIGTERM);
        eventually("the API server ends", PATIENCE, || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }

    /// Starts it again, and waits until it answers.
    pub fn start_api_server(&self) {
        must(&mut self.script("apiserver.sh"), CALL);
        eventually("the API server answers", PATIENCE, || {
            (self.try_kubectl(&["get", "--raw", "/readyz"]).code == Some(0)).then_some(())
        });
    }

    /// Requests that the API server has had of a user, by its audit log: `verb resource`.
    pub fn requests_of(&self, user: &str) -> Vec<String> {
        let log = fs::read_to_string(self.run_dir().join("logs/audit.log")).unwrap_or_default();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let theirs = events.filter(|event| event["user"]["username"] == user);
        theirs.map(|event| format!("{} {}", event["verb"], event["objectRef"]["resource"])).collect()
    }

    /// What may explain a failure.
    pub fn told(&self) -> String {
        let mut told = self.try_kubectl(&["get", "pods,pvc", "-A", "-o", "wide"]).text();
        told += &self.try_kubectl(&["get", "events", "-A", "--sort-by=.lastTimestamp"]).text();
        for component in ["controller", "node", "runner"] {
            let selector = format!("app.kubernetes.io/component={component}");
            let logs = ["-n", NAMESPACE, "logs", "--all-containers", "--tail=30", "-l", &selector];
            told += &format!("\n--- {component}\n{}", self.try_kubectl(&logs).text());
        }
        told +=
            &self.try_kubectl(&["-n", NAMESPACE, "describe", "pods", "-l", "app.kubernetes.io/component=node"]).text();
        for log in files_below(&self.node_state("logs")).into_iter().rev().take(5) {
            told += &format!("\n--- {}\n{}", log.display(), tail(&log, 20));
        }
        told
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = run(&mut self.script("down.sh"), UP);
        if down.code != Some(0) {
            eprintln!("down.sh: {}", down.text());
        }
    }
}
