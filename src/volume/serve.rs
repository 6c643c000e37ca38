//! From a volume as a node is asked for it to the configuration of its mount.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Serialize;
use stead_meta::url::MetaUrl;

use crate::error::Result;
use crate::mount::{MountConfig, MountOptions};
use crate::names::{VolumeId, VolumePath, hash};
use crate::params::VolumeContext;
use crate::provision::own_address;
use crate::secrets::VolumeSecrets;
use crate::share::Share;
use crate::worker::WorkerSettings;

/// How a node mounts a volume.
#[derive(Clone, Debug)]
pub struct VolumeMount {
    /// Name of its file system: what `df` shows.
    pub name: String,
    /// For the worker; the mount point is the node's to fill in.
    pub config: MountConfig,
    /// What its worker is shared by.
    pub share: Share,
    /// The directory below the root of the mount that is this volume; `None` = the root is. Without slashes at the ends.
    pub directory: Option<String>,
    /// Whether this volume is to refuse every change; the worker may serve others, too.
    pub read_only: bool,
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
        let read_only = options.read_only;
        let mut directory = None;
        if context.share == Share::FileSystem {
            directory = options.subdir.take();
            options.read_only = false;
        }
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
        Ok(Self { name, config, share: context.share, directory, read_only })
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
    /// Names what is mounted, as a file can be named: publications for which it is the same have one worker. `pod` tells
    /// pods apart.
    pub fn mount_name(&self, id: &VolumeId, pod: &str) -> String {
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match self.share {
            Share::Volume => id.to_string(),
            Share::Pod if (1..=64).contains(&pod.len()) && is_plain(pod) => format!("{id}@{pod}"),
            Share::Pod => format!("{id}@{:032x}", hash(pod)),
            Share::FileSystem => format!("{}@{:032x}", self.name, hash(&self.served())),
        }
    }

    /// What volumes must agree on to be served by one worker: everything but passwords and the secret half of keys, of which
    /// the newest are used. Otherwise two Secrets of one file system would take turns with its worker.
    fn served(&self) -> String {
        let MountConfig { meta_url, access_key, options, worker, .. } = &self.config;
        let engine = match meta_url.0.parse() {
            Ok(MetaUrl::Redis(_)) => without_password(&meta_url.0),
            // What is wrong with it the worker says.
            Ok(MetaUrl::Sqlite { .. }) | Err(_) => meta_url.0.clone(),
        };
        let access_key = access_key.as_ref().map(|key| key.0.as_str());
        let served = Served { engine, access_key, options, worker };
        serde_json::to_string(&served).expect("options and settings have only text keys")
    }

    /// What two publications with one worker must agree on: where the data is. No secret.
    pub fn identity(&self) -> String {
        format!("{}:/{}", self.name, self.config.options.subdir.as_deref().unwrap_or_default())
    }
}

/// The address of a Redis as it was written, but for the password.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, place)) => format!("{scheme}://{}@{place}", user.split(':').next().unwrap_or_default()),
        None => address.to_owned(),
    }
}

#[derive(Serialize)]
struct Served<'a> {
    engine: String,
    access_key: Option<&'a str>,
    options: &'a MountOptions,
    worker: &'a WorkerSettings,
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
    fn a_name_says_with_whom_a_worker_is_shared() {
        let named = |volume: &str, pod: &str, attributes: &[(&str, &str)]| {
            let id = VolumeId::parse(volume).expect("right");
            mount(volume, attributes, &[]).expect("right").mount_name(&id, pod)
        };
        assert_eq!(named("v", "p", &[("path", "v")]), "v");
        let pod = ("share", "pod");
        assert_eq!(named("v", "7f0c-1", &[pod]), "v@7f0c-1");
        let (odd, other) = (named("v", "../x", &[pod]), named("v", "/x", &[pod]));
        assert!(odd.len() == 34 && !odd.contains('/') && odd != other, "{odd}");

        let whole = ("share", "filesystem");
        let one = named("v", "p", &[whole, ("path", "v")]);
        assert!(one.starts_with("shared@") && one.len() == 39, "{one}");
        assert_eq!(one, named("w", "q", &[whole, ("path", "a/w"), ("mountOptions", "ro")]));
        assert_ne!(one, named("w", "q", &[whole, ("mountOptions", "attr-cache=7")]));
        assert_ne!(one, named("w", "q", &[whole, ("workerCpuLimit", "2")]));
        let with_address = |address: &str| {
            let members = map(&[("name", "shared"), ("metaurl", address), ("access-key", "id"), ("secret-key", "new")]);
            let (secrets, id) = (VolumeSecrets::parse(&members).expect("right"), VolumeId::parse("v").expect("right"));
            VolumeMount::new(&id, &secrets, &map(&[whole]), &[]).expect("right").mount_name(&id, "p")
        };
        assert_eq!(one, with_address("redis://:rotated@db/1"));
        for other in [
            "redis://:pw@db:6379/1",
            "redis://:pw@db/1?read-timeout=9",
            "redis://:pw@db/2",
            "redis://:pw@other/1",
            "redis://user:pw@db/1",
            "sqlite3:///db/1",
        ] {
            assert_ne!(one, with_address(other), "{other}");
        }
    }

    #[test]
    fn of_a_shared_file_system_the_root_is_mounted() {
        let attributes = [("share", "filesystem"), ("path", "team/v"), ("mountOptions", "ro,subdir=/a")];
        let mount = mount("v", &attributes, &[]).expect("right");
        assert_eq!((mount.directory.as_deref(), mount.read_only), (Some("a/team/v"), true));
        assert_eq!((mount.config.options.subdir, mount.config.options.read_only), (None, false));
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
