//! Publishing: a mount with one worker, which is bound into every target.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stead_keeper::mount::{parts, root_of};
use stead_keeper::{Error as KeeperError, within};
use stead_volume::{Share, VolumeId, VolumeMount, VolumeSecrets};
use tracing::{info, warn};

use super::events::User;
use super::mount_id::MountId;
use super::state::{MountState, StateDir, TargetState};
use super::target::{self, Source};
use super::worker::Workers;
use crate::capability::Capability;
use crate::controller::parse_id;
use crate::error::{Error, Result};
use crate::proto::NodePublishVolumeRequest;
use crate::proto::volume_capability::access_mode::Mode;

/// A publication that is asked for.
pub(crate) struct Publication {
    pub(crate) id: VolumeId,
    /// What it is to be a part of.
    pub(crate) mount: MountId,
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
        let target = target::resolve(&target::parse("target_path", &request.target_path)?);
        let capability = Capability::parse(request.volume_capability.as_ref())?;
        let secrets = VolumeSecrets::parse(&request.secrets)?;
        let volume = VolumeMount::new(&id, &secrets, &request.volume_context, &capability.mount_flags)?;
        let user = User::of(&request.volume_context);
        let wanted = TargetState {
            volume: (volume.share == Share::FileSystem).then(|| id.clone()),
            directory: volume.directory.clone(),
            mode: capability.mode.into(),
            read_only: request.readonly || capability.read_only() || volume.read_only,
            group: capability.group,
            user,
        };
        let pod = wanted.user.as_ref().and_then(|user| user.uid.as_deref());
        let mount = MountId::of(&volume, &id, pod, &target);
        Ok(Self { id, mount, target, wanted, exclusive: capability.exclusive(), volume })
    }

    /// What is known of its mount before anything is.
    fn new_state(&self) -> MountState {
        let volume = if self.volume.share == Share::FileSystem { self.mount.as_str() } else { self.id.as_str() };
        MountState::new(volume, self.volume.share, self.volume.identity())
    }
}

/// Publishes and takes back; the caller holds the locks of volume and mount.
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
        let Publication { mount: id, target, wanted, volume, .. } = &publication;
        let new = publication.new_state();
        let mut state = self.current(id)?.unwrap_or_else(|| new.clone());
        if let Some(existing) = state.targets.get(target) {
            check_repeat(target, existing, wanted)?;
            if self.is_served(id, volume).await? {
                return self.workers.refresh(id, volume).await;
            }
        }
        self.check_sharing(&publication)?;
        let is_other = (&state.volume, state.share, &state.identity) != (&new.volume, new.share, &new.identity);
        if state.draining || (state.targets.is_empty() && is_other) {
            self.workers.stop(id).await?;
            state = new;
        } else if is_other {
            let (volume, existing, requested) = (publication.id.to_string(), described(&state), described(&new));
            return Err(Error::Elsewhere { volume, existing, requested });
        }
        // Before anything is started: a target that cannot be used should cost nothing.
        target::unmount(target).await?;
        let made = target::make(target)?;
        target::check_empty(target)?;
        let result = self.serve_and_bind(&mut state, &publication).await;
        if result.is_err() {
            self.undo(id, state, target, made).await;
        }
        result
    }

    async fn serve_and_bind(&self, state: &mut MountState, publication: &Publication) -> Result<()> {
        let Publication { mount: id, target, wanted, volume, .. } = publication;
        // On disk before anything is there, so that no mount is ever unknown.
        state.targets.insert(target.clone(), wanted.clone());
        self.state.save(id, state)?;
        if self.is_served(id, volume).await? {
            self.workers.refresh(id, volume).await?;
            // What the volume holds counts from the first byte on.
            if volume.share == Share::FileSystem {
                self.workers.learn_limits(id).await?;
            }
        } else {
            self.workers.stop(id).await?;
            self.workers.start(id, volume.clone()).await?;
            self.bind_again(id, state, target).await;
        }
        let source = self.source(id, wanted);
        if let Some(group) = wanted.group.filter(|_| !wanted.read_only) {
            give_to_group(source.clone(), group).await?;
        }
        self.workers.figures().timed("bind", target::bind(source, target.clone(), wanted.read_only)).await
    }

    /// Whether a volume is published already by another mount than the one it would get now, since the address of its engine
    /// or the defaults of options have changed: then it stays there. If that mount is not served any more, it is taken back.
    ///
    /// # Errors
    /// It was published in another way.
    pub(crate) async fn stays(&self, other: &MountId, publication: &Publication) -> Result<bool> {
        let Publication { id, mount, target, wanted, .. } = publication;
        let existing = self.current(other)?.and_then(|mut state| state.targets.remove(target));
        if let Some(existing) = existing
            && self.is_served(other, &publication.volume).await?
        {
            check_repeat(target, &existing, wanted)?;
            info!(volume = %id, %other, %mount, "stays in its mount until it is taken back");
            self.workers.refresh(other, &publication.volume).await?;
            return Ok(true);
        }
        target::unmount(target).await?;
        self.leave(other, target).await?;
        Ok(false)
    }

    /// Whether a mount is served. Between two workers it may be new credentials that the next one needs.
    async fn is_served(&self, id: &MountId, volume: &VolumeMount) -> Result<bool> {
        self.workers.offer(id, volume).await;
        Ok(self.workers.is_serving(id).await? && root_of(&self.state.mount_point(id))?.is_some())
    }

    fn source(&self, id: &MountId, target: &TargetState) -> Source {
        Source { root: self.state.mount_point(id), directory: target.directory.clone() }
    }

    /// After the death of a worker, the other targets get the new mount.
    async fn bind_again(&self, id: &MountId, state: &MountState, except: &Path) {
        for (target, wanted) in state.targets.iter().filter(|(target, _)| *target != except) {
            let bound = match target::unmount(target).await {
                Ok(()) => target::bind(self.source(id, wanted), target.clone(), wanted.read_only).await,
                Err(error) => Err(error),
            };
            let volume = state.volume_of(wanted);
            match bound {
                Ok(()) => info!(volume, target = %target.display(), "bound to the new worker"),
                Err(error) => warn!(volume, target = %target.display(), %error, "stays broken"),
            }
        }
    }

    async fn undo(&self, id: &MountId, state: MountState, target: &Path, made: bool) {
        let undone = async {
            target::unmount(target).await?;
            if made {
                target::remove(target)?;
            }
            self.settle(id, state, target).await
        };
        if let Err(error) = undone.await {
            warn!(volume = %id, target = %target.display(), %error, "cannot undo a failed publication");
        }
    }

    /// Takes a volume back from a target. With the last one its worker ends. What is not published is a success.
    ///
    /// # Errors
    /// A target that cannot be unmounted or holds files of its own; a worker that still flushes. A repeat goes on.
    pub(crate) async fn unpublish(&self, id: &MountId, target: &Path) -> Result<()> {
        target::unmount(target).await?;
        target::remove(target)?;
        self.leave(id, target).await
    }

    async fn leave(&self, id: &MountId, target: &Path) -> Result<()> {
        match self.state.load(id)? {
            Some(state) => self.settle(id, state, target).await,
            None => Ok(()),
        }
    }

    /// Notes the targets that are left, or ends the worker when there are none. Until that has ended the last one stays noted:
    /// by it the mount is found again.
    async fn settle(&self, id: &MountId, mut state: MountState, left: &Path) -> Result<()> {
        if state.targets.keys().any(|target| target != left) {
            state.targets.remove(left);
            return self.state.save(id, &state);
        }
        state.draining = true;
        self.state.save(id, &state)?;
        self.workers.stop(id).await?;
        self.state.remove(id)
    }

    /// What is known of a mount, without targets on which nothing is mounted any more (the machine was restarted).
    fn current(&self, id: &MountId) -> Result<Option<MountState>> {
        let Some(mut state) = self.state.load(id)? else { return Ok(None) };
        let mounted = parts()?;
        state.targets.retain(|target, _| mounted.contains_key(target));
        Ok(Some(state))
    }

    /// ReadWriteOncePod: one target at a time, in both directions, whichever mounts a volume has.
    fn check_sharing(&self, publication: &Publication) -> Result<()> {
        let (id, mounted) = (&publication.id, parts()?);
        for (_, state) in self.state.readable()? {
            let of_volume = state.volumes().remove(id.as_str()).unwrap_or_default();
            let mut others = of_volume
                .into_iter()
                .filter(|(target, _)| *target != publication.target && mounted.contains_key(*target));
            let single = i32::from(Mode::SingleNodeSingleWriter);
            if let Some((target, _)) = others.find(|(_, other)| publication.exclusive || other.mode == single) {
                let (volume, target) = (id.to_string(), target.display().to_string());
                let why = "and may be used at one target only (ReadWriteOncePod)";
                return Err(Error::Occupied { volume, target, why });
            }
        }
        Ok(())
    }
}

fn described(state: &MountState) -> String {
    match state.share {
        Share::Volume => state.identity.clone(),
        share => format!("{} (share: {})", state.identity, share.as_str()),
    }
}

fn check_repeat(target: &Path, existing: &TargetState, wanted: &TargetState) -> Result<()> {
    let mode = |number| Mode::try_from(number).map_or("unknown", |mode: Mode| mode.as_str_name()).to_owned();
    let directory = |state: &TargetState| state.directory.clone().unwrap_or_default();
    let members = [
        ("directory", directory(existing), directory(wanted)),
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

/// Gives the volume's root to a group (CSI `volume_mount_group`): what is made below inherits it.
async fn give_to_group(source: Source, group: u32) -> Result<()> {
    let given = within("chgrp", target::SYSCALL, move || {
        // Held open until it is done.
        let held = source.open()?;
        give(&held.path(), group).map_err(|error| KeeperError::Call {
            what: "give to a group",
            path: source.root.join(source.directory.unwrap_or_default()),
            errno: stead_base::Errno(error.raw_os_error().unwrap_or(stead_base::Errno::EIO.0)),
        })
    });
    Ok(given.await?)
}

fn give(root: &Path, group: u32) -> std::io::Result<()> {
    let found = std::fs::metadata(root)?;
    if found.gid() != group {
        std::os::unix::fs::chown(root, None, Some(group))?;
    }
    let mode = found.mode() & 0o7777;
    let wanted = mode | 0o2070;
    if mode != wanted || found.gid() != group {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(wanted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_gets_the_volume_and_what_is_made_in_it() {
        let dir = tempfile::tempdir().expect("a place");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o701)).expect("ours");
        give(dir.path(), 1234).expect("tests need root");
        let found = std::fs::metadata(dir.path()).expect("there");
        assert_eq!((found.gid(), found.mode() & 0o7777), (1234, 0o2771));
        std::fs::create_dir(dir.path().join("below")).expect("new");
        assert_eq!(std::fs::metadata(dir.path().join("below")).expect("there").gid(), 1234);
    }
}
