//! What worker pods are made from: a file that an administrator writes (a mounted `ConfigMap`), in YAML or JSON.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stead_volume::{WorkerCache, WorkerSetting, WorkerSettings, is_absolute, is_name, is_quantity};

use crate::error::{Error, Result};

/// Where the cache lies that a StorageClass asks for.
const CACHE: &str = "/var/cache/stead";

/// What all worker pods have in common.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Template {
    /// The image with `stead` as its entry point.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: Option<String>,
    /// Names of Secrets for the image's registry.
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// Whose account the pods have. No token is mounted.
    pub service_account_name: Option<String>,
    /// How important they are.
    pub priority_class_name: Option<String>,
    /// How long a worker may write back when its pod is deleted.
    #[serde(default = "grace")]
    pub termination_grace_period_seconds: u32,
    /// What they need and may take.
    #[serde(default)]
    pub resources: Resources,
    /// Beside those that every worker has.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Likewise.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Which nodes they may be on. Every one by default: pods that use a volume are there already.
    #[serde(default = "everywhere")]
    pub tolerations: Vec<Toleration>,
    /// Further arguments of `stead runner`, such as how to log.
    #[serde(default)]
    pub args: Vec<String>,
    /// Where workers may keep data on disks.
    #[serde(default)]
    pub caches: Vec<Cache>,
    /// What a change of all this means for workers that serve.
    #[serde(default)]
    pub update_strategy: UpdateStrategy,
}

/// When workers that serve are replaced by ones as a changed template has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum UpdateStrategy {
    /// One after the other, by themselves.
    #[default]
    RollingUpdate,
    /// When their pods are deleted.
    OnDelete,
}

/// Resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// What is kept free for it.
    #[serde(default)]
    pub requests: BTreeMap<String, String>,
    /// The most that it gets.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

/// A taint of nodes that does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Toleration {
    /// The taint; `None` with `operator: Exists` = any.
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    pub operator: Option<String>,
    /// With `Equal`.
    pub value: Option<String>,
    /// `None` = any.
    pub effect: Option<String>,
    /// For how long.
    pub toleration_seconds: Option<i64>,
}

/// A directory for cached and staged blocks; the mount option `cache-dir` names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cache {
    /// Where the worker finds it.
    pub mount_path: String,
    /// A directory of the node that goes with the pod.
    pub empty_dir: Option<EmptyDir>,
    /// A directory of the node that stays.
    pub host_path: Option<HostPath>,
    /// A claim that is there.
    pub persistent_volume_claim: Option<Claim>,
    /// A claim that comes and goes with the pod.
    pub ephemeral: Option<Ephemeral>,
}

/// See [`Cache::empty_dir`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EmptyDir {
    /// Its largest size.
    pub size_limit: Option<String>,
    /// `Memory`, or the node's disk.
    pub medium: Option<String>,
}

/// See [`Cache::host_path`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPath {
    /// A directory that the workers' user may write in.
    pub path: String,
}

/// See [`Cache::persistent_volume_claim`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Claim {
    /// Its name.
    pub claim_name: String,
}

/// See [`Cache::ephemeral`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Ephemeral {
    /// How much to claim.
    pub size: String,
    /// `None` = the default one.
    pub storage_class_name: Option<String>,
}

fn grace() -> u32 {
    60
}

fn everywhere() -> Vec<Toleration> {
    vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]
}

impl Template {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Template`] names the file, the field and what would be right.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::Template { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let template: Self = serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), String> {
        check("image", &self.image, |text| !text.is_empty() && !text.contains(' '), "an image")?;
        let policies = |text: &str| matches!(text, "Always" | "IfNotPresent" | "Never");
        check_some("imagePullPolicy", self.image_pull_policy.as_ref(), policies, "Always, IfNotPresent or Never")?;
        for secret in &self.image_pull_secrets {
            check("imagePullSecrets", secret, is_name, "the name of a Secret")?;
        }
        check_some("serviceAccountName", self.service_account_name.as_ref(), is_name, "a name")?;
        check_some("priorityClassName", self.priority_class_name.as_ref(), is_name, "a name")?;
        for (kind, given) in [("requests", &self.resources.requests), ("limits", &self.resources.limits)] {
            for (name, value) in given {
                check(&format!("resources.{kind}.{name}"), value, is_quantity, "a quantity such as 500m or 2Gi")?;
            }
        }
        self.caches.iter().try_for_each(Cache::check)?;
        let mut paths: Vec<_> = self.caches.iter().map(|cache| cache.mount_path.trim_end_matches('/')).collect();
        paths.sort_unstable();
        match paths.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("caches: {:?} is the mountPath of two of them", pair[0])),
            None => Ok(()),
        }
    }

    /// Whether what lies in a directory of the worker is still there for one in another pod.
    pub fn keeps(&self, dir: &Path) -> bool {
        let cache = self.caches.iter().find(|cache| dir.starts_with(&cache.mount_path));
        cache.is_some_and(|cache| cache.host_path.is_some() || cache.persistent_volume_claim.is_some())
    }

    /// The same number for what makes the same pods, as long as the program is the same.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let as_updated = Self { update_strategy: UpdateStrategy::default(), ..self.clone() };
        format!("{as_updated:?}").hash(&mut hasher);
        hasher.finish()
    }

    /// The template with what is set for one volume.
    #[must_use]
    pub fn with(mut self, settings: &WorkerSettings) -> Self {
        let value = |setting| settings.get(setting).map(str::to_owned);
        if let Some(image) = value(WorkerSetting::Image) {
            self.image = image;
        }
        self.service_account_name = value(WorkerSetting::ServiceAccount).or(self.service_account_name);
        self.priority_class_name = value(WorkerSetting::PriorityClass).or(self.priority_class_name);
        let own = |name: &str, setting| value(setting).map(|value| (name.to_owned(), value));
        let Resources { requests, limits } = &mut self.resources;
        requests.extend(own("cpu", WorkerSetting::CpuRequest));
        requests.extend(own("memory", WorkerSetting::MemoryRequest));
        limits.extend(own("cpu", WorkerSetting::CpuLimit));
        limits.extend(own("memory", WorkerSetting::MemoryLimit));
        if let Some(cache) = settings.cache() {
            self.caches = vec![Cache::of(cache)];
        }
        self
    }
}

impl Cache {
    fn of(cache: WorkerCache) -> Self {
        let mut made = Self {
            mount_path: CACHE.to_owned(),
            empty_dir: None,
            host_path: None,
            persistent_volume_claim: None,
            ephemeral: None,
        };
        match cache {
            WorkerCache::EmptyDir { size } => made.empty_dir = Some(EmptyDir { size_limit: size, medium: None }),
            WorkerCache::Memory { size } => {
                made.empty_dir = Some(EmptyDir { size_limit: Some(size), medium: Some("Memory".to_owned()) });
            }
            WorkerCache::HostPath(path) => made.host_path = Some(HostPath { path }),
            WorkerCache::Claim(claim_name) => made.persistent_volume_claim = Some(Claim { claim_name }),
            WorkerCache::Ephemeral { size, class } => {
                made.ephemeral = Some(Ephemeral { size, storage_class_name: class });
            }
        }
        made
    }

    fn check(&self) -> Result<(), String> {
        let path = &self.mount_path;
        let free = |text: &str| is_absolute(text) && text != "/" && !PathBuf::from(text).starts_with("/run");
        check("caches.mountPath", path, free, "an absolute path outside of /run")?;
        let named = |field: &str| format!("caches ({path}): {field}");
        let kinds = [
            self.empty_dir.is_some(),
            self.host_path.is_some(),
            self.persistent_volume_claim.is_some(),
            self.ephemeral.is_some(),
        ];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            return Err(named("one of emptyDir, hostPath, persistentVolumeClaim, ephemeral is expected"));
        }
        if let Some(EmptyDir { size_limit, medium }) = &self.empty_dir {
            check_some(&named("emptyDir.sizeLimit"), size_limit.as_ref(), is_quantity, "a size such as 10Gi")?;
            check_some(&named("emptyDir.medium"), medium.as_ref(), |text| text == "Memory", "Memory")?;
        }
        if let Some(HostPath { path }) = &self.host_path {
            check(&named("hostPath.path"), path, is_absolute, "an absolute path")?;
        }
        if let Some(Claim { claim_name }) = &self.persistent_volume_claim {
            check(&named("persistentVolumeClaim.claimName"), claim_name, is_name, "a name")?;
        }
        if let Some(Ephemeral { size, storage_class_name }) = &self.ephemeral {
            check(&named("ephemeral.size"), size, is_quantity, "a size such as 10Gi")?;
            check_some(&named("ephemeral.storageClassName"), storage_class_name.as_ref(), is_name, "a name")?;
        }
        Ok(())
    }
}

fn check(field: &str, value: &str, right: impl Fn(&str) -> bool, expected: &str) -> Result<(), String> {
    if right(value) { Ok(()) } else { Err(format!("{field}: {value:?} is not {expected}")) }
}

fn check_some(field: &str, value: Option<&String>, right: impl Fn(&str) -> bool, expected: &str) -> Result<(), String> {
    value.map_or(Ok(()), |value| check(field, value, right, expected))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use stead_volume::VolumeContext;

    use super::*;

    const FULL: &str = "
image: registry/stead:1
imagePullPolicy: IfNotPresent
imagePullSecrets: [pull]
serviceAccountName: worker
priorityClassName: system-node-critical
terminationGracePeriodSeconds: 90
args: [--log-json]
resources:
  requests: {cpu: 100m, memory: 256Mi}
  limits: {memory: 2Gi}
labels: {team: storage}
annotations: {note: hello}
tolerations:
- {key: gpu, operator: Exists, effect: NoSchedule}
caches:
- mountPath: /cache/a
  emptyDir: {sizeLimit: 10Gi}
- mountPath: /cache/b
  hostPath: {path: /var/cache/stead}
- mountPath: /cache/c
  persistentVolumeClaim: {claimName: cache}
- mountPath: /cache/d
  ephemeral: {size: 10Gi, storageClassName: fast}
";

    fn settings(pairs: &[(&str, &str)]) -> WorkerSettings {
        let attributes: HashMap<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        VolumeContext::parse(&attributes).expect("right").worker
    }

    #[test]
    fn an_image_is_enough() {
        let template = Template::parse("image: stead").expect("right");
        assert_eq!(template, Template::parse(r#"{"image": "stead"}"#).expect("JSON as well"));
        assert_eq!(template.termination_grace_period_seconds, 60);
        assert_eq!(template.tolerations, everywhere());
    }

    #[test]
    fn everything_can_be_given() {
        let template = Template::parse(FULL).expect("right");
        assert_eq!(template.resources.limits["memory"], "2Gi");
        assert_eq!(template.caches.len(), 4);
        assert_eq!(template.tolerations[0].key.as_deref(), Some("gpu"));
    }

    #[test]
    fn only_some_caches_outlive_a_pod() {
        let template = Template::parse(FULL).expect("right");
        let keeps = |dir: &str| template.keeps(Path::new(dir));
        assert_eq!(
            ["/cache/a", "/cache/b", "/cache/c/x", "/cache/d", "/tmp"].map(keeps),
            [false, true, true, false, false]
        );
    }

    #[test]
    fn what_makes_other_pods_has_another_fingerprint() {
        let made = |more: &str| Template::parse(&format!("image: x\n{more}")).expect("right");
        assert_eq!(made("").fingerprint(), made("terminationGracePeriodSeconds: 60").fingerprint(), "the default");
        assert_ne!(made("").fingerprint(), made("labels: {a: b}").fingerprint());
        let later = made("updateStrategy: OnDelete");
        assert_eq!(later.update_strategy, UpdateStrategy::OnDelete);
        assert_eq!(made("").fingerprint(), later.fingerprint(), "it says when, not what");
        let own = settings(&[("workerImage", "y")]);
        assert_ne!(made("").fingerprint(), made("").with(&own).fingerprint());
        assert!(Template::parse("image: x\nupdateStrategy: Never").expect_err("wrong").contains("OnDelete"));
    }

    #[test]
    fn a_volume_has_its_own_settings() {
        let own = settings(&[
            ("workerImage", "stead:2"),
            ("workerCpuLimit", "2"),
            ("workerMemoryLimit", "4Gi"),
            ("workerPriorityClass", "high"),
            ("workerServiceAccount", "other"),
            ("workerCache", "memory:1Gi"),
        ]);
        let template = Template::parse(FULL).expect("right").with(&own);
        assert_eq!(template.image, "stead:2");
        assert_eq!((&*template.resources.limits["cpu"], &*template.resources.limits["memory"]), ("2", "4Gi"));
        assert_eq!(template.resources.requests["cpu"], "100m", "the template's");
        assert_eq!(template.priority_class_name.as_deref(), Some("high"));
        assert_eq!(template.service_account_name.as_deref(), Some("other"));
        let [Cache { mount_path, empty_dir: Some(dir), .. }] = &template.caches[..] else { panic!("one cache") };
        assert_eq!((&**mount_path, dir.medium.as_deref()), (CACHE, Some("Memory")));
        let template = Template::parse(FULL).expect("right");
        assert_eq!(template.clone().with(&WorkerSettings::default()), template);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (text, named) in [
            ("{}", "image"),
            ("image: ''", "image: \"\" is not an image"),
            ("image: x\ncolour: red", "colour"),
            ("image: x\nresources: {limits: {cpu: lots}}", "resources.limits.cpu: \"lots\" is not a quantity"),
            ("image: x\nresources: {maximum: {}}", "maximum"),
            ("image: x\nimagePullPolicy: Sometimes", "imagePullPolicy: \"Sometimes\""),
            ("image: x\nterminationGracePeriodSeconds: soon", "at line 2"),
            ("image: x\ncaches: [{mountPath: /c}]", "caches (/c): one of emptyDir"),
            ("image: x\ncaches: [{mountPath: c, emptyDir: {}}]", "caches.mountPath: \"c\""),
            ("image: x\ncaches: [{mountPath: /run/stead, emptyDir: {}}]", "outside of /run"),
            ("image: x\ncaches: [{mountPath: /c, emptyDir: {}}, {mountPath: /c/, emptyDir: {}}]", "of two of them"),
            ("image: x\ncaches: [{mountPath: /c, emptyDir: {sizeLimit: big}}]", "sizeLimit: \"big\""),
            ("image: x\ncaches: [{mountPath: /c, hostPath: {path: ../x}}]", "hostPath.path: \"../x\""),
            ("image: [", "line"),
        ] {
            let error = Template::parse(text).expect_err(named);
            assert!(error.contains(named), "{named}: {error}");
        }
        let error = Template::read(Path::new("/nowhere/template")).expect_err("no file").to_string();
        assert!(error.starts_with("worker template /nowhere/template: No such file"), "{error}");
    }
}
