//! Controller and node service on unix sockets, and a client for them.
//!
//! The controller runs as an unprivileged user, the node service as root with workers that are unprivileged too: what
//! a cluster does.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use stead_csi::proto::controller_client::ControllerClient;
use stead_csi::proto::group_controller_client::GroupControllerClient;
use stead_csi::proto::node_client::NodeClient;
use stead_csi::proto::volume_capability::access_mode::Mode;
use stead_csi::proto::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use stead_csi::proto::{
    CapacityRange, CreateSnapshotRequest, CreateVolumeGroupSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest,
    DeleteVolumeGroupSnapshotRequest, DeleteVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeUnpublishVolumeRequest, Snapshot, Volume, VolumeCapability,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::mount::detach;
use crate::pods::Cluster;
use crate::process::{Process, eventually, files_below, signal_to, tail};
use crate::servers::{Minio, Redis, free_port};
use crate::tools;
use crate::volume::Engine;

/// The user that controller and workers run as.
pub const UNPRIVILEGED: u32 = 65532;

/// Members of a Secret or parameters of a class.
pub type Map = HashMap<String, String>;

/// Makes a map of string pairs.
pub fn map<const N: usize>(pairs: [(&str, &str); N]) -> Map {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Both services with the servers that their volumes lie on.
pub struct Services {
    controller: Process,
    node: Process,
    /// For calls.
    pub client: CsiClient,
    /// What a Secret for a file system here holds.
    pub secrets: Map,
    /// The object storage, if it is a server.
    pub minio: Option<Minio>,
    /// The engine, if it is a server.
    pub redis: Option<Redis>,
    _runner: Option<Process>,
    cluster: Option<Cluster>,
    workers: Workers,
    pages: Pages,
    dir: TempDir,
}

/// Ports on which the services tell of themselves.
#[derive(Clone, Copy, Debug)]
struct Pages {
    controller: u16,
    node: u16,
}

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// Below the node service.
    OfNode,
    /// Below a runner, which is as unprivileged as they are.
    OfRunner,
    /// In a pod each.
    InPods,
}

impl Services {
    /// Starts everything: Redis with `MinIO`, or SQLite with a directory.
    pub fn start(engine: Engine) -> Self {
        Self::start_with(engine, Workers::OfNode)
    }

    /// The same with a choice of where workers run.
    pub fn start_with(engine: Engine, workers: Workers) -> Self {
        let dir = tempfile::Builder::new().prefix("csi-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
        for name in ["controller", "data", "cache", "run"] {
            let made = dir.path().join(name);
            fs::create_dir(&made).expect("a new directory");
            chown(&made, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("tests of CSI run as root");
        }
        for name in ["node", "state", "targets"] {
            fs::create_dir(dir.path().join(name)).expect("a new directory");
        }
        let (redis, minio) = match engine {
            Engine::Redis => (Some(Redis::start()), Some(Minio::start())),
            Engine::Sqlite => (None, None),
        };
        let secrets = secrets(dir.path(), redis.as_ref(), minio.as_ref());
        configure(dir.path(), &secrets);
        let pages = Pages { controller: free_port(), node: free_port() };
        let mut controller = start_controller(dir.path(), pages, None);
        let runner = (workers == Workers::OfRunner).then(|| start_runner(dir.path()));
        let cluster = (workers == Workers::InPods).then(|| start_cluster(dir.path()));
        let mut node = start_node(dir.path(), pages, workers);
        let sockets = [socket(dir.path(), "controller"), socket(dir.path(), "node")];
        eventually("controller and node listen", Duration::from_secs(20), || {
            controller.expect_alive();
            node.expect_alive();
            sockets.iter().all(|socket| socket.exists()).then_some(())
        });
        let client = CsiClient::connect(&sockets[0], &sockets[1]);
        Self { controller, node, client, secrets, minio, redis, _runner: runner, cluster, workers, pages, dir }
    }

    /// Ends the node service and starts another one, which listens when this returns.
    pub fn restart_node(&mut self) {
        self.restart_node_after(|| {});
    }

    /// The same; `meanwhile` is done while there is none.
    pub fn restart_node_after(&mut self, meanwhile: impl FnOnce()) {
        assert!(self.node.stop(), "the node service ends when it is asked to");
        meanwhile();
        self.node = start_node(self.dir.path(), self.pages, self.workers);
        let socket = self.node_socket();
        eventually("the node service listens again", Duration::from_secs(20), || {
            self.node.expect_alive();
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
    }

    /// Replaces the controller, if it still lives, by one that dies as `plan` says.
    pub fn restart_controller(&mut self, plan: Option<&str>) {
        self.controller.kill();
        self.controller = start_controller(self.dir.path(), self.pages, plan);
        let socket = self.controller_socket();
        eventually("the controller listens again", Duration::from_secs(20), || {
            self.controller.expect_alive();
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        self.client = CsiClient::connect(&socket, &self.node_socket());
    }

    /// Whether the controller has died.
    pub fn controller_died(&mut self) -> bool {
        self.controller.wait(Duration::from_secs(20)).is_some()
    }

    /// Has every worker replaced by a new one, and waits for that.
    pub fn replace_worker(&self, volume: &Volume) {
        let before = self.worker(volume);
        self.node.signal(Signal::SIGHUP);
        eventually("another worker serves", Duration::from_secs(30), || {
            self.worker(volume).filter(|worker| Some(*worker) != before)
        });
    }

    /// Pods of workers; none when workers run elsewhere.
    pub fn pods(&self) -> Vec<String> {
        self.cluster.as_ref().map(Cluster::pods).unwrap_or_default()
    }

    /// The process that serves a volume.
    pub fn worker(&self, volume: &Volume) -> Option<u32> {
        self.worker_of(&volume.volume_id)
    }

    /// The names of what is mounted.
    pub fn mounts(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("state/workers")).expect("the node service made it");
        let names = entries.filter_map(|entry| entry.expect("readable").file_name().into_string().ok());
        let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// The process that serves what is mounted under a name.
    pub fn worker_of(&self, mount: &str) -> Option<u32> {
        let file = self.path("state/workers").join(format!("{mount}.json"));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        u32::try_from(json["pid"].as_u64()?).ok()
    }

    /// The controller's socket.
    pub fn controller_socket(&self) -> PathBuf {
        socket(self.dir.path(), "controller")
    }

    /// The node service's socket.
    pub fn node_socket(&self) -> PathBuf {
        socket(self.dir.path(), "node")
    }

    /// What the controller's page answers for a path.
    pub fn controller_page(&self, path: &str) -> String {
        page(self.pages.controller, path)
    }

    /// What the node service's page answers for a path.
    pub fn node_page(&self, path: &str) -> String {
        page(self.pages.node, path)
    }

    /// A path below the services' own directory.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Parameters that every volume here has: the workers' cache lies in the test's directory.
    pub fn parameters(&self) -> Map {
        map([("mountOptions", &format!("enable-xattr,cache-dir={}", self.path("cache").display()))])
    }

    /// A `CreateVolume` request with everything that it needs.
    pub fn request(&self, name: &str) -> CreateVolumeRequest {
        CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: 1 << 30, limit_bytes: 0 }),
            volume_capabilities: vec![mounted()],
            parameters: self.parameters(),
            secrets: self.secrets.clone(),
            ..CreateVolumeRequest::default()
        }
    }

    /// Creates a volume that has to succeed.
    pub fn create(&self, name: &str) -> Volume {
        self.client
            .create(self.request(name))
            .unwrap_or_else(|status| panic!("CreateVolume {name}: {status:?}\n{}", self.logs()))
    }

    /// A `NodePublishVolume` request for a volume.
    pub fn publication(&self, volume: &Volume, target: &Path) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: volume.volume_id.clone(),
            volume_context: volume.volume_context.clone(),
            target_path: target.display().to_string(),
            volume_capability: Some(mounted()),
            secrets: self.secrets.clone(),
            ..NodePublishVolumeRequest::default()
        }
    }

    /// Publishes a volume, which has to succeed, and gives where.
    pub fn publish(&self, volume: &Volume) -> PathBuf {
        let target = self.path("targets").join(volume.volume_id.replace('/', "_"));
        let published = self.client.publish(self.publication(volume, &target));
        published.unwrap_or_else(|status| panic!("NodePublishVolume: {status:?}\n{}", self.logs()));
        target
    }

    /// Takes a publication away, which has to succeed.
    pub fn unpublish(&self, volume: &Volume, target: &Path) {
        let unpublished = self.client.unpublish(&volume.volume_id, target);
        unpublished.unwrap_or_else(|status| panic!("NodeUnpublishVolume: {status:?}\n{}", self.logs()));
    }

    /// Deletes a volume.
    pub fn delete(&self, volume_id: &str) -> Result<(), Status> {
        self.client.delete(volume_id, &self.secrets)
    }

    /// The services' last words.
    pub fn logs(&self) -> String {
        let workers = files_below(&self.path("state/logs"));
        let workers: Vec<String> = workers.iter().map(|log| tail(log, 120)).collect();
        let (controller, node) = (self.controller.log_tail(), self.node.log_tail());
        format!("controller:\n{controller}\nnode:\n{node}\nworkers:\n{}", workers.join("\n"))
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.node.stop();
        for worker in fs::read_dir(self.path("state/workers")).into_iter().flatten().flatten() {
            let json = fs::read(worker.path()).ok().and_then(|json| serde_json::from_slice(&json).ok());
            let pid = json.and_then(|json: serde_json::Value| json["pid"].as_u64());
            // What a failed test leaves would keep its callers waiting.
            pid.and_then(|pid| u32::try_from(pid).ok()).into_iter().for_each(|pid| signal_to(pid, Signal::SIGKILL));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let left = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        left.filter(|path| path.starts_with(self.dir.path())).for_each(detach);
        // The node service protects the directories that it mounts on; what a failed test leaves has to go, too.
        let _unprotected = Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.dir.path()).status();
    }
}

fn page(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the page is served");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer.split_once("\r\n\r\n").expect("a head and a body").1.to_owned()
}

fn socket(dir: &Path, service: &str) -> PathBuf {
    dir.join(service).join("csi.sock")
}

fn secrets(dir: &Path, redis: Option<&Redis>, minio: Option<&Minio>) -> Map {
    let data = dir.join("data");
    let url = redis.map_or_else(|| format!("sqlite3://{}", data.join("meta.db").display()), |redis| redis.url(1));
    let mut secrets = map([("name", "tested"), ("metaurl", &url), ("trash-days", "0")]);
    match minio {
        Some(minio) => secrets.extend(map([
            ("storage", "s3"),
            ("bucket", &minio.url("tested")),
            ("access-key", Minio::ACCESS_KEY),
            ("secret-key", Minio::SECRET_KEY),
        ])),
        None => secrets.extend(map([("storage", "file"), ("bucket", &data.join("blocks").display().to_string())])),
    }
    secrets
}

/// The Secret as a cluster mounts it for the controller.
fn configure(dir: &Path, secrets: &Map) {
    let mounted = dir.join("file-systems").join("tested");
    fs::create_dir_all(&mounted).expect("a new directory");
    for (member, value) in secrets {
        fs::write(mounted.join(member), value).expect("written");
    }
}

fn start_controller(dir: &Path, pages: Pages, plan: Option<&str>) -> Process {
    let mut command = Command::new(tools::stead());
    command.args(["controller", "--endpoint", &format!("unix://{}", socket(dir, "controller").display())]);
    command.arg("--file-systems").arg(dir.join("file-systems"));
    command.args(["--metrics", &format!("127.0.0.1:{}", pages.controller)]);
    command.envs(plan.map(|plan| ("STEAD_FAILPOINTS", plan)));
    command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).current_dir("/");
    Process::start("stead controller", &mut command, &dir.join("controller.log"))
}

fn start_runner(dir: &Path) -> Process {
    let mut command = Command::new(tools::stead());
    command.args(["runner", "--socket"]).arg(runner_socket(dir));
    command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).current_dir("/");
    let mut runner = Process::start("stead runner", &mut command, &dir.join("runner.log"));
    eventually("the runner listens", Duration::from_secs(20), || {
        runner.expect_alive();
        runner_socket(dir).exists().then_some(())
    });
    runner
}

fn start_cluster(dir: &Path) -> Cluster {
    let cluster = Cluster::start(dir);
    fs::write(dir.join("kubeconfig"), cluster.kubeconfig()).expect("written");
    fs::write(dir.join("template"), "image: stead").expect("written");
    cluster
}

fn runner_socket(dir: &Path) -> PathBuf {
    dir.join("run").join("runner.sock")
}

fn start_node(dir: &Path, pages: Pages, workers: Workers) -> Process {
    let mut command = Command::new(tools::stead());
    command.args(["node", "--endpoint", &format!("unix://{}", socket(dir, "node").display())]);
    command.args(["--node-id", "node-1", "--state-dir"]).arg(dir.join("state"));
    command.args(["--worker-uid", "65532", "--worker-gid", "65532"]);
    command.args(["--metrics", &format!("127.0.0.1:{}", pages.node)]);
    match workers {
        Workers::OfNode => {}
        Workers::OfRunner => _ = command.arg("--runner-socket").arg(runner_socket(dir)),
        Workers::InPods => {
            command.args(["--mode", "pod", "--worker-template"]).arg(dir.join("template"));
            command.arg("--events").arg("--kubeconfig").arg(dir.join("kubeconfig"));
        }
    }
    Process::start("stead node", &mut command, &dir.join("node.log"))
}

/// A capability that asks for a mounted file system, shared and writable.
pub fn mounted() -> VolumeCapability {
    capability(AccessType::Mount(MountVolume::default()))
}

/// A capability that asks for a block device.
pub fn block() -> VolumeCapability {
    capability(AccessType::Block(BlockVolume {}))
}

fn capability(access_type: AccessType) -> VolumeCapability {
    let access_mode = AccessMode { mode: Mode::MultiNodeMultiWriter.into() };
    VolumeCapability { access_mode: Some(access_mode), access_type: Some(access_type) }
}

/// Calls to both services, one at a time, each with a deadline.
pub struct CsiClient {
    runtime: Runtime,
    controller: ControllerClient<Channel>,
    groups: GroupControllerClient<Channel>,
    node: NodeClient<Channel>,
}

impl CsiClient {
    /// Connects to both services.
    pub fn connect(controller: &Path, node: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let channel = |socket: &Path| {
            let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).expect("a socket's address");
            eventually("a connection", Duration::from_secs(10), || runtime.block_on(endpoint.connect()).ok())
        };
        let (controller, node) = (channel(controller), NodeClient::new(channel(node)));
        let groups = GroupControllerClient::new(controller.clone());
        Self { runtime, controller: ControllerClient::new(controller), groups, node }
    }

    fn call<T>(&self, future: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
        let limited = async { tokio::time::timeout(Duration::from_secs(60), future).await };
        let answered = self.runtime.block_on(limited).expect("an answer within 60 seconds");
        answered.map(tonic::Response::into_inner)
    }

    /// `CreateVolume`.
    pub fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        let answer = self.call(self.controller.clone().create_volume(request))?;
        Ok(answer.volume.expect("a created volume is described"))
    }

    /// `DeleteVolume`.
    pub fn delete(&self, volume_id: &str, secrets: &Map) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume_id.to_owned(), secrets: secrets.clone() };
        self.call(self.controller.clone().delete_volume(request)).map(|_empty| ())
    }

    /// `CreateSnapshot`.
    pub fn snapshot(&self, name: &str, volume_id: &str, secrets: &Map) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest {
            name: name.to_owned(),
            source_volume_id: volume_id.to_owned(),
            secrets: secrets.clone(),
            ..CreateSnapshotRequest::default()
        };
        let answer = self.call(self.controller.clone().create_snapshot(request))?;
        Ok(answer.snapshot.expect("a snapshot that was taken is described"))
    }

    /// `DeleteSnapshot`.
    pub fn delete_snapshot(&self, snapshot_id: &str, secrets: &Map) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot_id.to_owned(), secrets: secrets.clone() };
        self.call(self.controller.clone().delete_snapshot(request)).map(|_empty| ())
    }

    /// `CreateVolumeGroupSnapshot`; the snapshots in the order of their volumes.
    pub fn group_snapshot(&self, name: &str, volume_ids: &[&str], secrets: &Map) -> Result<Vec<Snapshot>, Status> {
        let request = CreateVolumeGroupSnapshotRequest {
            name: name.to_owned(),
            source_volume_ids: volume_ids.iter().map(|id| (*id).to_owned()).collect(),
            secrets: secrets.clone(),
            ..CreateVolumeGroupSnapshotRequest::default()
        };
        let answer = self.call(self.groups.clone().create_volume_group_snapshot(request))?;
        Ok(answer.group_snapshot.expect("a group that was taken is described").snapshots)
    }

    /// `DeleteVolumeGroupSnapshot`.
    pub fn delete_group_snapshot(&self, id: &str, secrets: &Map) -> Result<(), Status> {
        let request = DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id: id.to_owned(),
            secrets: secrets.clone(),
            ..DeleteVolumeGroupSnapshotRequest::default()
        };
        self.call(self.groups.clone().delete_volume_group_snapshot(request)).map(|_empty| ())
    }

    /// `NodePublishVolume`.
    pub fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.call(self.node.clone().node_publish_volume(request)).map(|_empty| ())
    }

    /// `NodeGetVolumeStats`: the bytes that a volume has.
    pub fn total_bytes(&self, volume_id: &str, path: &Path) -> Result<i64, Status> {
        let (volume_id, volume_path) = (volume_id.to_owned(), path.display().to_string());
        let request = NodeGetVolumeStatsRequest { volume_id, volume_path, ..NodeGetVolumeStatsRequest::default() };
        let answer = self.call(self.node.clone().node_get_volume_stats(request))?;
        Ok(answer.usage.first().expect("bytes come first").total)
    }

    /// `NodeUnpublishVolume`.
    pub fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Status> {
        let (volume_id, target_path) = (volume_id.to_owned(), target.display().to_string());
        let request = NodeUnpublishVolumeRequest { volume_id, target_path };
        self.call(self.node.clone().node_unpublish_volume(request)).map(|_empty| ())
    }
}
