//! The Node service: volumes mounted on this machine.

mod events;
mod figures;
mod keeper;
mod launcher;
mod list;
mod mount_id;
mod pods;
mod process;
mod publish;
mod resume;
mod sole;
mod state;
mod stats;
mod target;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use std::sync::Arc;

use stead_base::SystemClock;
use stead_k8s::Events;
use stead_keeper::mount;
use stead_telemetry::{Exposition, Kind};
use stead_volume::VolumeId;
use tonic::{Request, Response, Status};

use crate::config::NodeConfig;
use crate::controller::{parse_id, required};
use crate::error::{Error, Result};
use crate::locks::{Guard, Locks};
use crate::proto;
use crate::proto::NodeServiceCapability;
use crate::proto::node_server::Node;
use crate::proto::node_service_capability::rpc::Type as RpcType;
use crate::proto::node_service_capability::{Rpc, Type};
use crate::rpc::{About, answer};

use events::{Reporter, User};
use figures::MountFigures;
use launcher::Launcher;
pub(crate) use list::volumes;
pub use list::{NodeTarget, NodeVolume, VolumeHealth};
use mount_id::MountId;
pub use pods::PodMode;
use publish::{Publication, Publisher};
pub(crate) use sole::{PATIENCE, Sole};
use state::StateDir;
use stats::Stats;
use worker::Workers;

const PUBLISH: Duration = Duration::from_secs(90);
const STATS: Duration = Duration::from_secs(15);
/// How long a worker may take to tell its metrics: whoever asks for them does not wait for long.
const MEASURE: Duration = Duration::from_secs(1);

/// Without VOLUME_MOUNT_GROUP: the kubelet gives a volume to a pod's `fsGroup` itself, as its `fsGroupChangePolicy` says,
/// which no call tells.
const CAPABILITIES: [RpcType; 2] = [RpcType::GetVolumeStats, RpcType::SingleNodeMultiWriter];

/// The Node service.
#[derive(Clone)]
pub(crate) struct NodeService {
    node_id: String,
    topology: HashMap<String, String>,
    publisher: Publisher,
    stats: Stats,
    locks: Locks,
    /// Of mounts: taken after that of a volume, and one at a time.
    mount_locks: Locks,
}

/// Nobody else works on a volume and the mount that it is a part of.
struct Turn {
    _volume: Guard,
    mount: Guard,
}

impl NodeService {
    /// Opens the state directory; goes on with the mounts that are there.
    pub(crate) fn open(config: NodeConfig) -> Result<Self> {
        let state = StateDir::open(&config.state_dir)?;
        let clock = Arc::new(SystemClock);
        let events = config.events.map(|cluster| Events::start(cluster, &config.driver_name, &config.node_id, clock));
        let launcher = Launcher::new(config.mode, config.worker, state.root(), &config.node_id)?;
        launcher.prepare()?;
        let workers = Workers::new(launcher, Reporter::new(events, state.clone()), state.clone());
        resume::listen(&workers)?;
        tokio::spawn(workers.clone().update_on());
        let publisher = Publisher { state, workers };
        let (stats, locks, mount_locks) = (Stats::default(), Locks::default(), Locks::default());
        Ok(Self { node_id: config.node_id, topology: config.topology, publisher, stats, locks, mount_locks })
    }

    /// Replaces every worker by one of the program that is configured.
    pub(crate) async fn replace_workers(&self) {
        self.publisher.workers.replace_all().await;
    }

    async fn publish(self, request: proto::NodePublishVolumeRequest) -> Result<proto::NodePublishVolumeResponse> {
        let figures = self.publisher.workers.figures();
        let publication = figures.timed("parse", async { Publication::parse(&request) }).await?;
        drop(request);
        let Publication { id, mount, target, .. } = &publication;
        let (mut turn, now) = figures.timed("queue", self.turn(id, mount, target)).await?;
        if now != *mount {
            if self.publisher.stays(&now, &publication).await? {
                return Ok(proto::NodePublishVolumeResponse {});
            }
            drop(turn.mount);
            turn.mount = self.mount_locks.lock(mount.as_str()).await;
        }
        self.publisher.publish(publication).await?;
        Ok(proto::NodePublishVolumeResponse {})
    }

    async fn unpublish(self, request: proto::NodeUnpublishVolumeRequest) -> Result<proto::NodeUnpublishVolumeResponse> {
        let id = parse_id(&request.volume_id)?;
        let target = target::resolve(&target::parse("target_path", &request.target_path)?);
        let (_turn, mount) = self.turn(&id, &MountId::of_volume(&id), &target).await?;
        self.publisher.unpublish(&mount, &target).await?;
        Ok(proto::NodeUnpublishVolumeResponse {})
    }

    /// Waits for a volume, and for the mount by which it is published at a target, or else for `mount`.
    async fn turn(&self, id: &VolumeId, mount: &MountId, target: &Path) -> Result<(Turn, MountId)> {
        let volume = self.locks.lock(id.as_str()).await;
        let known = self.publisher.state.find(id, target)?;
        let mount = known.map_or_else(|| mount.clone(), |(id, _)| id);
        let turn = Turn { _volume: volume, mount: self.mount_locks.lock(mount.as_str()).await };
        Ok((turn, mount))
    }

    /// The pod is known from the publication.
    fn about(&self, request: &proto::NodeUnpublishVolumeRequest) -> About {
        let target = target::resolve(Path::new(&request.target_path));
        let known = VolumeId::parse(&request.volume_id)
            .ok()
            .and_then(|id| self.publisher.state.find(&id, &target).ok().flatten());
        let pod = known.and_then(|(_, state)| state.targets.get(&target)?.user.as_ref().map(User::to_string));
        About { volume: request.volume_id.clone(), pod, target: Some(request.target_path.clone()) }
    }

    async fn volume_stats(
        self,
        request: proto::NodeGetVolumeStatsRequest,
    ) -> Result<proto::NodeGetVolumeStatsResponse> {
        let id = parse_id(&request.volume_id)?;
        required("volume_path", &request.volume_path)?;
        // Whatever it is: where we have published nothing there is nothing to tell.
        let path = target::resolve(Path::new(&request.volume_path));
        if !self.is_published(&id, &path)? {
            return Err(Error::NotPublished { volume: id.to_string(), path });
        }
        let usage = self.stats.usage(&path).await?;
        Ok(proto::NodeGetVolumeStatsResponse { usage, volume_condition: None })
    }

    /// Ends a page with what this node and its workers count.
    pub(crate) async fn show(&self, mut page: Exposition) -> String {
        let Publisher { state, workers } = &self.publisher;
        let mounts = workers.mounts() as f64;
        page.single("stead_mounts", Kind::Gauge, "Mounts on this node; each has a worker.", mounts);
        let targets: usize = state.readable().iter().flatten().map(|(_, state)| state.targets.len()).sum();
        page.single("stead_publications", Kind::Gauge, "Places where volumes are published.", targets as f64);
        workers.figures().show(&mut page);
        let measured = workers.measured(MEASURE).await.into_iter().map(|(id, measured)| {
            let known = state.load(&id).ok().flatten();
            MountFigures::new(id, known.as_ref(), measured)
        });
        let metrics = figures::show_volumes(&mut page, &measured.collect::<Vec<_>>());
        page.into_text() + &metrics
    }

    fn is_published(&self, id: &VolumeId, path: &Path) -> Result<bool> {
        Ok(self.publisher.state.find(id, path)?.is_some() && mount::part_of(path)?.is_some())
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<proto::NodePublishVolumeRequest>,
    ) -> Result<Response<proto::NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let about = About {
            pod: User::of(&request.volume_context).map(|user| user.to_string()),
            target: Some(request.target_path.clone()),
            volume: request.volume_id.clone(),
        };
        answer("NodePublishVolume", about, PUBLISH, self.clone().publish(request)).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<proto::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<proto::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let about = self.about(&request);
        answer("NodeUnpublishVolume", about, PUBLISH, self.clone().unpublish(request)).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<proto::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<proto::NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let id = request.volume_id.clone();
        answer("NodeGetVolumeStats", &id, STATS, self.clone().volume_stats(request)).await
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<proto::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<proto::NodeGetCapabilitiesResponse>, Status> {
        let capability = |rpc: RpcType| NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })) };
        let capabilities = CAPABILITIES.map(capability).to_vec();
        Ok(Response::new(proto::NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _request: Request<proto::NodeGetInfoRequest>,
    ) -> Result<Response<proto::NodeGetInfoResponse>, Status> {
        Ok(Response::new(proto::NodeGetInfoResponse {
            node_id: self.node_id.clone(),
            // No limit: a worker is a process, not a device.
            max_volumes_per_node: 0,
            accessible_topology: (!self.topology.is_empty())
                .then(|| proto::Topology { segments: self.topology.clone() }),
        }))
    }
}
