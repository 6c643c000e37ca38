//! What a StorageClass or a PersistentVolume asks of the pods that its workers run in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A setting of worker pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerSetting {
    /// Their image.
    Image,
    /// Processors to ask for.
    CpuRequest,
    /// Processors at most.
    CpuLimit,
    /// Memory to ask for.
    MemoryRequest,
    /// Memory at most.
    MemoryLimit,
    /// Their priority class.
    PriorityClass,
    /// Their service account.
    ServiceAccount,
    /// Where their cache lies.
    Cache,
}

/// How a setting is named, read, and what is right for it.
struct Row {
    setting: WorkerSetting,
    name: &'static str,
    right: fn(&str) -> bool,
    expected: &'static str,
}

const fn row(setting: WorkerSetting, name: &'static str, right: fn(&str) -> bool, expected: &'static str) -> Row {
    Row { setting, name, right, expected }
}

const CACHES: &str = "a cache: emptyDir[:SIZE], memory:SIZE, hostPath:/DIR, pvc:NAME or ephemeral:SIZE[:CLASS]";

const ROWS: [Row; 8] = [
    row(WorkerSetting::Image, "workerImage", is_word, "an image"),
    row(WorkerSetting::CpuRequest, "workerCpuRequest", is_quantity, "a number of processors such as 500m"),
    row(WorkerSetting::CpuLimit, "workerCpuLimit", is_quantity, "a number of processors such as 2"),
    row(WorkerSetting::MemoryRequest, "workerMemoryRequest", is_quantity, "a size such as 512Mi"),
    row(WorkerSetting::MemoryLimit, "workerMemoryLimit", is_quantity, "a size such as 2Gi"),
    row(WorkerSetting::PriorityClass, "workerPriorityClass", is_name, "the name of a priority class"),
    row(WorkerSetting::ServiceAccount, "workerServiceAccount", is_name, "the name of a service account"),
    row(WorkerSetting::Cache, "workerCache", |text| WorkerCache::parse(text).is_some(), CACHES),
];

/// What is set for the workers of one volume; the rest is as their template has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerSettings(BTreeMap<String, String>);

impl WorkerSettings {
    /// Takes a parameter or attribute if it is such a setting, which the answer says.
    ///
    /// # Errors
    /// Names the setting, its value and what would be right.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        let Some(row) = ROWS.iter().find(|row| row.name == name) else { return Ok(false) };
        if !(row.right)(value) {
            return Err(Error::parameter(name, value, row.expected));
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(true)
    }

    /// The names of all settings.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().map(|row| row.name)
    }

    /// Takes one setting over, set or not.
    pub(crate) fn keep(&mut self, name: &str, from: &Self) {
        match from.0.get(name) {
            Some(value) => _ = self.0.insert(name.to_owned(), value.clone()),
            None => _ = self.0.remove(name),
        }
    }

    /// The value of a setting, if it is set.
    pub fn get(&self, setting: WorkerSetting) -> Option<&str> {
        let row = ROWS.iter().find(|row| row.setting == setting)?;
        self.0.get(row.name).map(String::as_str)
    }

    /// Where the cache is to lie, if that is set.
    pub fn cache(&self) -> Option<WorkerCache> {
        WorkerCache::parse(self.get(WorkerSetting::Cache)?)
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (String, String)> {
        self.0.clone().into_iter()
    }
}

/// Where the cache of a worker's pod lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerCache {
    /// A directory of the node that goes with the pod.
    EmptyDir {
        /// Its largest size.
        size: Option<String>,
    },
    /// Memory, which counts as the pod's.
    Memory {
        /// Its largest size.
        size: String,
    },
    /// A directory of the node that stays. The workers' user has to be allowed to write there.
    HostPath(String),
    /// A claim in the namespace of the pod.
    Claim(String),
    /// A claim that comes and goes with the pod.
    Ephemeral {
        /// Its size.
        size: String,
        /// Its StorageClass; `None` = the default one.
        class: Option<String>,
    },
}

impl WorkerCache {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        match (kind, rest) {
            ("emptyDir", None) => Some(Self::EmptyDir { size: None }),
            ("emptyDir", Some(size)) => size_of(size).map(|size| Self::EmptyDir { size: Some(size) }),
            ("memory", Some(size)) => size_of(size).map(|size| Self::Memory { size }),
            ("hostPath", Some(path)) => is_absolute(path).then(|| Self::HostPath(path.to_owned())),
            ("pvc", Some(name)) => is_name(name).then(|| Self::Claim(name.to_owned())),
            ("ephemeral", Some(rest)) => {
                let (size, class) = rest.split_once(':').map_or((rest, None), |(size, class)| (size, Some(class)));
                let class = class.map(str::to_owned);
                class.as_deref().is_none_or(is_name).then_some(())?;
                size_of(size).map(|size| Self::Ephemeral { size, class })
            }
            _ => None,
        }
    }
}

fn size_of(text: &str) -> Option<String> {
    is_quantity(text).then(|| text.to_owned())
}

/// Whether it is a Kubernetes quantity, without signs and exponents: `500m`, `1.5`, `2Gi`.
pub fn is_quantity(text: &str) -> bool {
    const UNITS: [&str; 14] = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    is_number(whole) && is_number(fraction) && UNITS.contains(&unit)
}

/// Whether objects in Kubernetes can have this name (a DNS subdomain).
pub fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
        inner && !bytes.is_empty() && bytes[0] != b'-' && bytes[bytes.len() - 1] != b'-'
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// Whether it is a path from the root, and stays below what it names.
pub fn is_absolute(text: &str) -> bool {
    text.starts_with('/') && !text.split('/').any(|part| part == "..")
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<WorkerSettings> {
        let mut settings = WorkerSettings::default();
        for (name, value) in pairs {
            assert!(settings.set(name, value)?, "{name}");
        }
        Ok(settings)
    }

    #[test]
    fn settings_are_read_by_name() {
        let read = settings(&[("workerImage", "registry:5000/stead:2"), ("workerCpuRequest", "250m")]).expect("right");
        assert_eq!(read.get(WorkerSetting::Image), Some("registry:5000/stead:2"));
        assert_eq!(read.get(WorkerSetting::CpuRequest), Some("250m"));
        assert_eq!((read.get(WorkerSetting::MemoryLimit), read.cache()), (None, None));
        assert!(!WorkerSettings::default().set("workerColour", "red").expect("not for us"));
    }

    #[test]
    fn caches_have_five_kinds() {
        let cache = |text: &str| settings(&[("workerCache", text)]).ok().and_then(|read| read.cache());
        let size = || "10Gi".to_owned();
        assert_eq!(cache("emptyDir"), Some(WorkerCache::EmptyDir { size: None }));
        assert_eq!(cache("emptyDir:10Gi"), Some(WorkerCache::EmptyDir { size: Some(size()) }));
        assert_eq!(cache("memory:10Gi"), Some(WorkerCache::Memory { size: size() }));
        assert_eq!(cache("hostPath:/var/cache"), Some(WorkerCache::HostPath("/var/cache".into())));
        assert_eq!(cache("pvc:fast"), Some(WorkerCache::Claim("fast".into())));
        assert_eq!(cache("ephemeral:10Gi"), Some(WorkerCache::Ephemeral { size: size(), class: None }));
        let fast = Some("fast".to_owned());
        assert_eq!(cache("ephemeral:10Gi:fast"), Some(WorkerCache::Ephemeral { size: size(), class: fast }));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
        for (name, value) in [
            ("workerImage", ""),
            ("workerImage", "a b"),
            ("workerCpuRequest", "many"),
            ("workerCpuLimit", "1."),
            ("workerMemoryLimit", "-1Gi"),
            ("workerMemoryRequest", "1GiB"),
            ("workerPriorityClass", "Not a name"),
            ("workerServiceAccount", "-x"),
            ("workerCache", "memory"),
            ("workerCache", "hostPath:relative"),
            ("workerCache", "hostPath:/a/../b"),
            ("workerCache", "ephemeral:10Gi:Wrong_Class"),
            ("workerCache", "tape:1"),
        ] {
            let error = settings(&[(name, value)]).expect_err(value).to_string();
            assert!(error.contains(name) && error.contains(&format!("{value:?} is not ")), "{error}");
        }
    }
}
