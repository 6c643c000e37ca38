//! Publishing: one worker per volume, bound into every target.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stead_keeper::mount::root_of;
use stead_keeper::{Error as KeeperError, within};
use stead_volume::{VolumeId, VolumeMount, VolumeSecrets};
use tracing::{info, warn};

use super::events::User;
use super::state::{StateDir, TargetState, VolumeState};
use super::target;
use super::worker::Workers;
use crate::capability::Capability;
use crate::controller::parse_id;
use crate::error::{Error, Result};
use crate::proto::NodePublishVolumeRequest;
use crate::proto::volume_capability::access_mode::Mode;

/// A publication that is asked for.
pub(crate) struct Publication {
    pub(crate) id: VolumeId,
    pub(crate) target: PathBuf,
    pub(crate) wanted: TargetState,
    exclusive: bool,
    pub(crate) volume: VolumeMount,
}

impl Publication {
    /// Reads a request.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub(crate) fn parse(request: &NodePublishVolumeRequest) -> Result<Self> {
        let id = parse_id(&request.volume_id)?;
        let target = target::parse("target_path", &request.target_path)?;
        let capability = Capability::parse(request.volume_capability.as_ref())?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let volume = VolumeMount::new(&id, &secrets, &request.volume_context, &capability.mount_flags)?;
        let read_only = request.readonly || capability.read_only() || volume.config.options.read_only;
        let user = User::of(&request.volume_context);
        let wanted = TargetState { mode: capability.mode.into(), read_only, group: capability.group, user };
        Ok(Self { id, target: target::resolve(&target), wanted, exclusive: capability.exclusive(), volume })
    }
}

/// Publishes and takes back; the caller holds the volume's lock.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) state: StateDir,
    pub(crate) workers: Workers,
}

impl Publisher {
    /// Makes a volume visible at its target. A repeat is a success.
    ///
    /// # Errors
    /// Whatever fails, a new target, a new mount and a new worker are gone again.
    pub(crate) async fn publish(&self, publication: Publication) -> Result<()> {
        let Publication { id, target, wanted, exclusive, volume } = publication;
        let identity = volume.identity();
        let mut state = self.current(&id)?.unwrap_or_else(|| VolumeState::new(&id, identity.clone()));
        if let Some(existing) = state.targets.get(&target) {
            check_repeat(&target, existing, &wanted)?;
            if self.workers.is_serving(&id).await && root_of(&self.state.mount_point(&id))?.is_some() {
                return self.workers.refresh(&id, &volume).await;
            }
        }
        check_sharing(&state, &target, exclusive)?;
        if state.draining || (state.targets.is_empty() && state.identity != identity) {
            self.workers.stop(&id).await?;
            state = VolumeState::new(&id, identity.clone());
        }
        if state.identity != identity {
            let (volume, existing) = (id.to_string(), state.identity);
            return Err(Error::Elsewhere { volume, existing, requested: identity });
        }
        // Before anything is started: a target that cannot be used should cost nothing.
        target::unmount(&target).await?;
        let made = target::make(&target)?;
        target::check_empty(&target)?;
        let result = self.serve_and_bind(&id, &mut state, &target, &wanted, volume).await;
        if result.is_err() {
            self.undo(&id, state, &target, made).await;
        }
        result
    }

    async fn serve_and_bind(
        &self,
        id: &VolumeId,
        state: &mut VolumeState,
        target: &Path,
        wanted: &TargetState,
        volume: VolumeMount,
    ) -> Result<()> {
        let root = self.state.mount_point(id);
        if self.workers.is_serving(id).await && root_of(&root)?.is_some() {
            self.workers.refresh(id, &volume).await?;
        } else {
            self.workers.stop(id).await?;
            self.workers.start(id, volume).await?;
            self.state.save(id, state)?;
            self.bind_again(state, target, &root).await;
        }
        if let Some(group) = wanted.group.filter(|_| !wanted.read_only) {
            give_to_group(root.clone(), group).await?;
        }
        // On disk before the mount is there, so that no mount is ever unknown.
        state.targets.insert(target.to_owned(), wanted.clone());
        self.state.save(id, state)?;
        self.workers.figures().timed("bind", target::bind(root, target.to_owned(), wanted.read_only)).await
    }

    /// After the death of a worker, the other targets get the new mount.
    async fn bind_again(&self, state: &VolumeState, except: &Path, root: &Path) {
        for (target, wanted) in state.targets.iter().filter(|(target, _)| *target != except) {
            let bound = match target::unmount(target).await {
                Ok(()) => target::bind(root.to_owned(), target.clone(), wanted.read_only).await,
                Err(error) => Err(error),
            };
            match bound {
                Ok(()) => info!(volume = state.volume, target = %target.display(), "bound to the new worker"),
                Err(error) => warn!(volume = state.volume, target = %target.display(), %error, "stays broken"),
            }
        }
    }

    async fn undo(&self, id: &VolumeId, mut state: VolumeState, target: &Path, made: bool) {
        state.targets.remove(target);
        let undone = async {
            target::unmount(target).await?;
            if made {
                target::remove(target)?;
            }
            self.settle(id, state).await
        };
        if let Err(error) = undone.await {
            warn!(volume = %id, target = %target.display(), %error, "cannot undo a failed publication");
        }
    }

    /// Takes a volume back from a target. With the last one its worker ends. What is not published is a success.
    ///
    /// # Errors
    /// A target that cannot be unmounted or holds files of its own; a worker that still flushes. A repeat goes on.
    pub(crate) async fn unpublish(&self, id: &VolumeId, target: &Path) -> Result<()> {
        target::unmount(target).await?;
        target::remove(target)?;
        let Some(mut state) = self.state.load(id)? else { return Ok(()) };
        state.targets.remove(target);
        self.settle(id, state).await
    }

    /// Notes the targets that are left, or ends the worker when there are none.
    async fn settle(&self, id: &VolumeId, mut state: VolumeState) -> Result<()> {
        if !state.targets.is_empty() {
            return self.state.save(id, &state);
        }
        state.draining = true;
        self.state.save(id, &state)?;
        self.workers.stop(id).await?;
        self.state.remove(id)
    }

    /// What is known of a volume, without targets on which nothing is mounted any more (the machine was restarted).
    pub(crate) fn current(&self, id: &VolumeId) -> Result<Option<VolumeState>> {
        let Some(mut state) = self.state.load(id)? else { return Ok(None) };
        let mounted = |target: &Path| root_of(target).map(|entry| entry.is_some());
        let mut targets = std::mem::take(&mut state.targets);
        for (target, wanted) in std::mem::take(&mut targets) {
            if mounted(&target)? {
                state.targets.insert(target, wanted);
            }
        }
        Ok(Some(state))
    }
}

fn check_repeat(target: &Path, existing: &TargetState, wanted: &TargetState) -> Result<()> {
    let mode = |number| Mode::try_from(number).map_or("unknown", |mode: Mode| mode.as_str_name()).to_owned();
    let members = [
        ("access mode", mode(existing.mode), mode(wanted.mode)),
        ("readonly", existing.read_only.to_string(), wanted.read_only.to_string()),
        ("volume_mount_group", format!("{:?}", existing.group), format!("{:?}", wanted.group)),
    ];
    match members.into_iter().find(|(_, existing, requested)| existing != requested) {
        None => Ok(()),
        Some((what, existing, requested)) => {
            Err(Error::Incompatible { target: target.to_owned(), what, existing, requested })
        }
    }
}

/// ReadWriteOncePod: one target at a time, in both directions.
fn check_sharing(state: &VolumeState, target: &Path, exclusive: bool) -> Result<()> {
    let mut others = state.targets.iter().filter(|(other, _)| *other != target);
    let conflict = others.find(|(_, other)| exclusive || other.mode == i32::from(Mode::SingleNodeSingleWriter));
    match conflict {
        None => Ok(()),
        Some((other, _)) => {
            let (volume, target) = (state.volume.clone(), other.display().to_string());
            Err(Error::Occupied { volume, target, why: "and may be used at one target only (ReadWriteOncePod)" })
        }
    }
}

/// Gives the volume's root to a group (CSI `volume_mount_group`): what is made below inherits it.
async fn give_to_group(root: PathBuf, group: u32) -> Result<()> {
    let given = within("chgrp", target::SYSCALL, move || {
        let failed = |error: std::io::Error| KeeperError::Call {
            what: "give to a group",
            path: root.clone(),
            errno: stead_base::Errno(error.raw_os_error().unwrap_or(stead_base::Errno::EIO.0)),
        };
        let found = std::fs::metadata(&root).map_err(failed)?;
        if found.gid() != group {
            std::os::unix::fs::chown(&root, None, Some(group)).map_err(failed)?;
        }
        let mode = found.mode() & 0o7777;
        let wanted = mode | 0o2070;
        if mode != wanted || found.gid() != group {
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(wanted)).map_err(failed)?;
        }
        Ok(())
    });
    Ok(given.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_group_gets_the_volume_and_what_is_made_in_it() {
        let dir = tempfile::tempdir().expect("a place");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o701)).expect("ours");
        give_to_group(dir.path().to_owned(), 1234).await.expect("tests need root");
        let found = std::fs::metadata(dir.path()).expect("there");
        assert_eq!((found.gid(), found.mode() & 0o7777), (1234, 0o2771));
        std::fs::create_dir(dir.path().join("below")).expect("new");
        assert_eq!(std::fs::metadata(dir.path().join("below")).expect("there").gid(), 1234);
    }
}
