//! From a volume as a node is asked for it to the configuration of its mount.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::error::Result;
use crate::mount::{MountConfig, MountOptions};
use crate::names::{VolumeId, VolumePath};
use crate::params::VolumeContext;
use crate::provision::own_address;
use crate::secrets::VolumeSecrets;

/// How a node mounts a volume.
#[derive(Clone, Debug)]
pub struct VolumeMount {
    /// Name of its file system: what `df` shows.
    pub name: String,
    /// For the worker; the mount point is the node's to fill in.
    pub config: MountConfig,
}

impl VolumeMount {
    /// Reads what NodePublishVolume brings: the attributes of the volume and the mount options of its capability, which
    /// win.
    ///
    /// # Errors
    /// Names what is missing, unknown or wrong.
    pub fn new(
        id: &VolumeId,
        secrets: &VolumeSecrets,
        attributes: &HashMap<String, String>,
        flags: &[String],
    ) -> Result<Self> {
        let context = VolumeContext::parse(attributes)?;
        let mut options = MountOptions::default();
        options.apply(context.mount_options.split(','))?;
        options.apply(flags.iter().flat_map(|flag| flag.split(',')))?;
        options.subdir = subdir(options.subdir.as_deref(), context.path)?;
        let (meta_url, name) = match own_address(id, secrets)? {
            Some((address, name)) => (address, name),
            None => (secrets.meta_text.clone(), secrets.name.clone()),
        };
        let config = MountConfig {
            meta_url,
            meta_password: secrets.meta_password.clone(),
            sentinel_password: secrets.sentinel_password.clone(),
            access_key: secrets.access_key.clone(),
            secret_key: secrets.secret_key.clone(),
            session_token: secrets.session_token.clone(),
            passphrase: secrets.passphrase.clone(),
            mount_point: PathBuf::new(),
            owns_mount: false,
            options,
            worker: context.worker,
        };
        Ok(Self { name, config })
    }
}

/// The directory that is mounted: the volume's, below the one that the mount options name.
fn subdir(option: Option<&str>, path: Option<VolumePath>) -> Result<Option<String>> {
    let base = option.map(|text| text.trim_matches('/')).filter(|text| !text.is_empty());
    let base = base.map(VolumePath::parse).transpose()?;
    let both = match (base, path) {
        (Some(base), Some(path)) => Some(base.join(&path)),
        (base, path) => base.or(path),
    };
    Ok(both.map(|path| path.as_str().to_owned()))
}

impl VolumeMount {
    /// What two publications of one volume must agree on, since they share a worker: where the data is. No secret.
    pub fn identity(&self) -> String {
        format!("{}:/{}", self.name, self.config.options.subdir.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::Secret;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn secrets() -> VolumeSecrets {
        let members = map(&[("name", "shared"), ("metaurl", "redis://:pw@db/1"), ("access-key", "id")]);
        VolumeSecrets::parse(&members).expect("right")
    }

    fn mount(id: &str, attributes: &[(&str, &str)], flags: &[&str]) -> Result<VolumeMount> {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        VolumeMount::new(&VolumeId::parse(id).expect("right"), &secrets(), &map(attributes), &flags)
    }

    #[test]
    fn a_directory_volume_is_mounted_at_its_directory() {
        let mount =
            mount("pvc-1", &[("path", "pvc-1"), ("mountOptions", "attr-cache=5,ro")], &["attr-cache=7,subdir=/a"])
                .expect("right");
        assert_eq!(mount.config.options.subdir.as_deref(), Some("a/pvc-1"));
        assert_eq!(mount.config.options.attr_cache.as_secs(), 7);
        assert!(mount.config.options.read_only);
        assert_eq!((mount.identity().as_str(), &*mount.config.meta_url.0), ("shared:/a/pvc-1", "redis://:pw@db/1"));
        assert_eq!(mount.config.access_key, Some(Secret("id".into())));
    }

    #[test]
    fn a_volume_with_an_engine_of_its_own_is_mounted_from_there() {
        let mount = mount("fs@3@pvc-1", &[], &[]).expect("right");
        assert_eq!((mount.name.as_str(), &*mount.config.meta_url.0), ("pvc-1", "redis://:pw@db/3"));
        assert_eq!(mount.config.options.subdir, None);
    }

    #[test]
    fn wrong_attributes_and_options_are_refused() {
        for (attributes, flags) in [
            (&[("path", "../x")][..], &[][..]),
            (&[("nonsense", "x")], &[]),
            (&[("mountOptions", "nonsense")], &[]),
            (&[], &["nonsense"]),
            (&[], &["subdir=../x"]),
        ] {
            assert!(mount("pvc-1", attributes, flags).is_err(), "{attributes:?} {flags:?}");
        }
    }
}
