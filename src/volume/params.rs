//! The parameters of a StorageClass, and the attributes of a PersistentVolume, read once.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tracing::info;

use crate::claim::{ByClaim, CLAIM_SETTINGS, ClaimMetadata, ClaimSettings};
use crate::error::{Error, Result};
use crate::mount::MountOptions;
use crate::names::VolumePath;
use crate::pattern::{Name, PATH_PATTERN, Pattern};
use crate::share::Share;
use crate::worker::WorkerSettings;

/// Keys that external-provisioner and kubelet add, and what Kubernetes keeps for itself.
const KUBERNETES: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];
const PVC_NAME: &str = "csi.storage.k8s.io/pvc/name";
const PVC_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const PV_NAME: &str = "csi.storage.k8s.io/pv/name";
const UNREAD: &str = "usable: the controller does not read labels and annotations of claims; start it with --claims \
                      (controller.claims: true in the chart)";
/// The attribute of a volume that names its directory.
pub(crate) const PATH: &str = "path";
pub(crate) const MOUNT_OPTIONS: &str = "mountOptions";
pub(crate) const PROVISIONING: &str = "provisioning";
pub(crate) const SHARE: &str = "share";

/// The claim that a volume was made for, for people who look for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Where it is.
    pub namespace: String,
    /// What it is called there.
    pub name: String,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provisioning {
    /// A directory with a quota in the file system of the Secret.
    Directory {
        /// Where; `None` = a directory with the volume's name in the root.
        path: Option<VolumePath>,
    },
    /// A file system of its own: prefix, Format, trash.
    FileSystem {
        /// The Redis databases that it may take.
        databases: Option<Databases>,
    },
}

/// Redis databases that this driver may format and erase: both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Databases {
    /// The first.
    pub first: u32,
    /// The last, not below the first.
    pub last: u32,
}

impl Databases {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
        (range.first <= range.last && range.last < 65_536).then_some(range)
    }
}

impl std::fmt::Display for Databases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "databases {}-{}", self.first, self.last)
    }
}

/// The parameters of a StorageClass.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeParams {
    /// What to make.
    pub provisioning: Provisioning,
    /// Mode of the volume's root, `0 ..= 0o7777`; 0777 by default, as the Go driver has it.
    pub mode: u16,
    /// Its owner, 0 by default.
    pub uid: u32,
    /// Its group, 0 by default.
    pub gid: u32,
    /// Limit of inodes; `None` = none.
    pub inodes: Option<u64>,
    /// Mount options for every use of the volume, checked, as they were written.
    pub mount_options: String,
    /// What its workers are shared by.
    pub share: Share,
    /// For the pods of its workers.
    pub worker: WorkerSettings,
    /// The claim, if external-provisioner says it (`--extra-create-metadata`).
    pub claim: Option<Claim>,
    /// What of this the claim has chosen.
    pub(crate) by_claim: ByClaim,
}

impl VolumeParams {
    /// The claim whose labels and annotations [`Self::parse`] needs, if it needs any and knows whose.
    pub fn needs_claim(parameters: &HashMap<String, String>) -> Option<Claim> {
        let given = Given { parameters };
        let in_path = Pattern::parse(given.value(PATH_PATTERN)).is_ok_and(|pattern| pattern.needs_metadata());
        (in_path || !given.value(CLAIM_SETTINGS).is_empty()).then(|| given.claim()).flatten()
    }

    /// Reads the parameters of a CreateVolume call, with what the claim says where [`Self::needs_claim`].
    ///
    /// # Errors
    /// Names the parameter, label or annotation that is unknown or wrong, its value and what would be right.
    pub fn parse(parameters: &HashMap<String, String>, metadata: Option<&ClaimMetadata>) -> Result<Self> {
        let given = Given { parameters };
        let mut kind = "directory";
        let (mut pattern, mut databases) = (None, None);
        let (mut mode, mut uid, mut gid, mut inodes, mut mount_options) = (0o777, 0, 0, None, String::new());
        let (mut share, mut worker) = (Share::default(), WorkerSettings::default());
        let mut settings = ClaimSettings::default();
        for (name, value) in given.sorted() {
            match name {
                PROVISIONING => kind = value,
                PATH_PATTERN => pattern = Some(Pattern::parse(value)?),
                CLAIM_SETTINGS => settings = ClaimSettings::parse(value)?,
                "databases" => databases = Some(given.parsed(name, Databases::parse, "a range such as 1-15")?),
                "mode" => mode = given.parsed(name, octal, "an octal mode such as 0755")?,
                "uid" => uid = given.parsed(name, number, "a user id")?,
                "gid" => gid = given.parsed(name, number, "a group id")?,
                "inodes" => inodes = Some(given.parsed(name, number, "a number of inodes")?),
                MOUNT_OPTIONS => value.clone_into(&mut mount_options),
                SHARE => share = given.parsed(name, Share::parse, Share::VALUES)?,
                _ if worker.set(name, value)? => {}
                _ => accept_other(name)?,
            }
        }
        MountOptions::default().apply(mount_options.split(','))?;
        match metadata {
            Some(metadata) => {
                settings.apply(metadata, pattern.as_ref(), &mut mount_options, &mut share, &mut worker)?
            }
            None if settings.is_empty() => {}
            None => return Err(given.unread(CLAIM_SETTINGS)),
        }
        let by_claim = ByClaim { path: pattern.as_ref().is_some_and(Pattern::needs_metadata), settings };
        let provisioning = match (kind, pattern, databases) {
            ("directory", pattern, None) => {
                let path = pattern.map(|pattern| given.resolve(&pattern, metadata)).transpose()?;
                Provisioning::Directory { path }
            }
            ("filesystem", None, databases) => Provisioning::FileSystem { databases },
            ("directory", ..) => return Err(given.wrong("databases", "allowed: it goes with provisioning: filesystem")),
            ("filesystem", ..) => {
                return Err(given.wrong(PATH_PATTERN, "allowed: it goes with provisioning: directory"));
            }
            _ => return Err(given.wrong(PROVISIONING, "directory or filesystem")),
        };
        let claim = given.claim();
        Ok(Self { provisioning, mode, uid, gid, inodes, mount_options, share, worker, claim, by_claim })
    }
}

/// Whether the parameters of a VolumeSnapshotClass can be followed. A snapshot has no settings of its own.
///
/// # Errors
/// [`Error::UnknownParameter`] for any that Kubernetes and its sidecars do not add.
pub fn check_snapshot_parameters(parameters: &HashMap<String, String>) -> Result<()> {
    let given = Given { parameters };
    let unknown = given.sorted().into_iter().find(|(name, _)| !is_of_kubernetes(name));
    unknown.map_or(Ok(()), |(name, _)| Err(Error::UnknownParameter { name: name.to_owned() }))
}

pub(crate) fn is_of_kubernetes(name: &str) -> bool {
    KUBERNETES.iter().any(|prefix| name.starts_with(prefix))
}

/// Parameters that say nothing here, or what this version can do.
fn accept_other(name: &str) -> Result<()> {
    match name {
        "secretFinalizer" | "capacity" => Ok(()),
        _ if is_of_kubernetes(name) => Ok(()),
        _ if name.starts_with("juicefs/") => {
            info!(parameter = name, "concerns mount pods, which this driver does not have; ignored");
            Ok(())
        }
        _ => Err(Error::UnknownParameter { name: name.to_owned() }),
    }
}

fn octal(text: &str) -> Option<u16> {
    u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// In the order of their names, so that the same mistakes give the same error.
pub(crate) fn sorted(parameters: &HashMap<String, String>) -> Vec<(&str, &str)> {
    let mut pairs: Vec<_> = parameters.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
    pairs.sort_unstable();
    pairs
}

struct Given<'a> {
    parameters: &'a HashMap<String, String>,
}

impl<'a> Given<'a> {
    fn sorted(&self) -> Vec<(&'a str, &'a str)> {
        sorted(self.parameters)
    }

    fn value(&self, name: &str) -> &'a str {
        self.parameters.get(name).map_or("", |value| value.trim())
    }

    fn claim(&self) -> Option<Claim> {
        let (namespace, name) = (self.value(PVC_NAMESPACE), self.value(PVC_NAME));
        let known = !namespace.is_empty() && !name.is_empty();
        known.then(|| Claim { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    fn wrong(&self, name: &str, expected: &str) -> Error {
        Error::parameter(name, self.value(name), expected)
    }

    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>, expected: &str) -> Result<T> {
        parse(self.value(name)).ok_or_else(|| self.wrong(name, expected))
    }

    fn resolve(&self, pattern: &Pattern<'_>, metadata: Option<&ClaimMetadata>) -> Result<VolumePath> {
        pattern.resolve(|name| self.sent(name), || metadata.ok_or_else(|| self.unread(PATH_PATTERN)))
    }

    /// A name that external-provisioner sends. It is one component: no name makes new ones.
    fn sent(&self, name: Name) -> Result<&'a str> {
        let key = match name {
            Name::Claim => PVC_NAME,
            Name::Namespace => PVC_NAMESPACE,
            Name::Volume => PV_NAME,
        };
        match self.value(key) {
            "" => Err(self.unsent(PATH_PATTERN, key)),
            name if name.contains('/') => Err(Error::parameter(key, name, "a name without '/'")),
            name => Ok(name),
        }
    }

    fn unsent(&self, parameter: &str, key: &str) -> Error {
        self.wrong(parameter, &format!("usable: external-provisioner does not send {key} (--extra-create-metadata)"))
    }

    /// Why labels and annotations that `parameter` needs are not known.
    fn unread(&self, parameter: &str) -> Error {
        match [PVC_NAMESPACE, PVC_NAME].into_iter().find(|key| self.value(key).is_empty()) {
            Some(key) => self.unsent(parameter, key),
            None => self.wrong(parameter, UNREAD),
        }
    }
}

/// The attributes of a PersistentVolume (CSI `volume_context`): of ours, or written by hand for a static volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeContext {
    /// The directory that is the volume; `None` = the whole file system.
    pub path: Option<VolumePath>,
    /// Mount options, comma-separated.
    pub mount_options: String,
    /// What its workers are shared by.
    pub share: Share,
    /// For the pods of its workers.
    pub worker: WorkerSettings,
    /// The claim, if it is known.
    pub claim: Option<Claim>,
}

impl VolumeContext {
    /// Reads what a NodePublishVolume call brings.
    ///
    /// # Errors
    /// Names the attribute that is unknown or wrong.
    pub fn parse(attributes: &HashMap<String, String>) -> Result<Self> {
        let given = Given { parameters: attributes };
        let mut context = Self { claim: given.claim(), ..Self::default() };
        for (name, value) in given.sorted() {
            match name {
                PATH | "subPath" if value.is_empty() => {}
                PATH | "subPath" => context.path = Some(VolumePath::parse(value)?),
                MOUNT_OPTIONS => value.clone_into(&mut context.mount_options),
                SHARE => context.share = given.parsed(name, Share::parse, Share::VALUES)?,
                _ if context.worker.set(name, value)? => {}
                // Only what makes a volume; its use is the same.
                PROVISIONING | PATH_PATTERN | CLAIM_SETTINGS | "databases" | "mode" | "uid" | "gid" | "inodes" => {}
                _ => accept_other(name)?,
            }
        }
        Ok(context)
    }

    /// As CreateVolume hands it out.
    pub(crate) fn attributes(&self, provisioning: &'static str) -> HashMap<String, String> {
        let mut attributes = HashMap::from([(PROVISIONING.to_owned(), provisioning.to_owned())]);
        if let Some(path) = &self.path {
            attributes.insert(PATH.to_owned(), path.as_str().to_owned());
        }
        if !self.mount_options.is_empty() {
            attributes.insert(MOUNT_OPTIONS.to_owned(), self.mount_options.clone());
        }
        if !self.share.is_default() {
            attributes.insert(SHARE.to_owned(), self.share.as_str().to_owned());
        }
        attributes.extend(self.worker.attributes());
        if let Some(claim) = &self.claim {
            attributes.insert(PVC_NAMESPACE.to_owned(), claim.namespace.clone());
            attributes.insert(PVC_NAME.to_owned(), claim.name.clone());
        }
        attributes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_parameters_of_a_storage_class_are_read() {
        let params = VolumeParams::parse(
            &map(&[
                ("csi.storage.k8s.io/provisioner-secret-name", "s"),
                (PVC_NAME, "claim"),
                (PVC_NAMESPACE, "team"),
                ("pathPattern", "data/${.PVC.namespace}-${.pvc.name}"),
                ("mode", "0750"),
                ("gid", "1000"),
                ("inodes", "5000"),
                ("mountOptions", "cache-size=512, attr-cache=0"),
                ("juicefs/mount-cpu-limit", "2"),
                ("share", "filesystem"),
            ]),
            None,
        )
        .expect("right");
        let path = Some(VolumePath::parse("data/team-claim").expect("right"));
        assert_eq!(params.provisioning, Provisioning::Directory { path });
        let claim = Claim { namespace: "team".to_owned(), name: "claim".to_owned() };
        assert_eq!(params.claim, Some(claim));
        assert_eq!(params.share, Share::FileSystem);
        assert_eq!((params.mode, params.uid, params.gid, params.inodes), (0o750, 0, 1000, Some(5000)));
        let own =
            VolumeParams::parse(&map(&[("provisioning", "filesystem"), ("databases", "1-15")]), None).expect("right");
        let databases = Some(Databases { first: 1, last: 15 });
        assert_eq!(own.provisioning, Provisioning::FileSystem { databases });
    }

    #[test]
    fn wrong_parameters_are_named() {
        for (parameters, named) in [
            (map(&[("pathPatern", "x")]), "unknown parameter \"pathPatern\""),
            (map(&[("provisioning", "dir")]), "\"dir\" is not directory or filesystem"),
            (map(&[("mode", "rwx")]), "parameter mode: \"rwx\" is not an octal mode"),
            (map(&[("mode", "17777")]), "mode"),
            (map(&[("uid", "-1")]), "uid"),
            (map(&[("gid", "users")]), "gid"),
            (map(&[("inodes", "many")]), "inodes"),
            (map(&[("databases", "1-15")]), "goes with provisioning: filesystem"),
            (map(&[("provisioning", "filesystem"), ("databases", "9-1")]), "databases"),
            (map(&[("provisioning", "filesystem"), ("pathPattern", "x")]), "goes with provisioning: directory"),
            (map(&[("mountOptions", "cache-sise=1")]), "cache-sise"),
            (map(&[("share", "node")]), "share: \"node\" is not pod, volume or filesystem"),
            (map(&[("workerCpuLimit", "lots")]), "\"lots\" is not a number of processors"),
            (map(&[("pathPattern", "${.pvc.name}")]), "--extra-create-metadata"),
            (map(&[("pathPattern", "${.pvc.labels.}")]), "made of text and"),
            (map(&[("pathPattern", "${.pvc.labels.x}")]), "--extra-create-metadata"),
            (map(&[("pathPattern", "${.pvc.labels.x}"), (PVC_NAMESPACE, "n"), (PVC_NAME, "c")]), "--claims"),
            (map(&[("claimSettings", "mountOptions"), (PVC_NAMESPACE, "n"), (PVC_NAME, "c")]), "--claims"),
            (map(&[("claimSettings", "mountOptions,mode")]), "\"mountOptions,mode\" is not a list of some of"),
            (map(&[("pathPattern", "${.pvc.namespace}-${.pvc.labels.x}")]), "no other variable stands beside"),
            (map(&[("pathPattern", "${}")]), "made of text and"),
            (map(&[("pathPattern", "${.pvc.name")]), "closed"),
            (map(&[("pathPattern", "a/../b")]), "relative path"),
            (map(&[("pathPattern", ".stead/x")]), "kept for the driver"),
            (map(&[("pathPattern", "${.pvc.name}"), (PVC_NAME, "..")]), "relative path"),
            (map(&[("pathPattern", "x/${.pvc.name}"), (PVC_NAME, "a/b")]), "without '/'"),
        ] {
            let error = VolumeParams::parse(&parameters, None).expect_err(named).to_string();
            assert!(error.contains(named), "{named}: {error}");
        }
    }

    #[test]
    fn a_snapshot_class_has_no_parameters_of_ours() {
        let prefixed =
            [("csi.storage.k8s.io/snapshotter-secret-name", "s"), ("csi.storage.k8s.io/volumesnapshot/name", "v")];
        assert!(check_snapshot_parameters(&map(&prefixed)).is_ok());
        let error = check_snapshot_parameters(&map(&[("mode", "0755")])).expect_err("not of a snapshot").to_string();
        assert!(error.contains("unknown parameter \"mode\""), "{error}");
    }

    #[test]
    fn the_attributes_of_a_volume_come_back_as_they_went_out() {
        let claim = Claim { namespace: "team".to_owned(), name: "data".to_owned() };
        let path = Some(VolumePath::parse("a/b").expect("right"));
        let mut context =
            VolumeContext { path, mount_options: "ro".to_owned(), claim: Some(claim), ..VolumeContext::default() };
        context.share = Share::Pod;
        assert!(context.worker.set("workerCpuLimit", "2").expect("right"));
        let attributes = context.attributes("directory");
        assert_eq!((attributes[PVC_NAMESPACE].as_str(), attributes[PVC_NAME].as_str()), ("team", "data"));
        assert_eq!(VolumeContext::parse(&attributes).expect("ours"), context);
        let static_volume = map(&[("csi.storage.k8s.io/pod.name", "p"), ("juicefs/mount-image", "x")]);
        assert_eq!(VolumeContext::parse(&static_volume).expect("fine"), VolumeContext::default());
        assert!(VolumeContext::parse(&map(&[("path", "../x")])).is_err());
        assert!(VolumeContext::parse(&map(&[("nonsense", "x")])).is_err());
        assert!(VolumeContext::parse(&map(&[("share", "node")])).is_err());
    }
}
