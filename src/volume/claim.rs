//! What a claim says about its own volume, as far as its StorageClass lets it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::mount::MountOptions;
use crate::names::component;
use crate::params::{Claim, MOUNT_OPTIONS, SHARE};
use crate::pattern::Pattern;
use crate::share::Share;
use crate::worker::WorkerSettings;

/// The parameter of a StorageClass that names what its claims may set.
pub(crate) const CLAIM_SETTINGS: &str = "claimSettings";
/// Annotations of a claim that begin so are settings.
const PREFIX: &str = "steadfast.io/";

/// Labels and annotations of a claim, which only the API server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimMetadata {
    /// Whose they are.
    pub claim: Claim,
    /// Labels by name.
    pub labels: BTreeMap<String, String>,
    /// Annotations by name.
    pub annotations: BTreeMap<String, String>,
}

impl ClaimMetadata {
    pub(crate) fn path_label(&self, name: &str) -> Result<&str> {
        self.path_part("label", name, self.labels.get(name))
    }

    pub(crate) fn path_annotation(&self, name: &str) -> Result<&str> {
        self.path_part("annotation", name, self.annotations.get(name))
    }

    fn path_part<'a>(&self, kind: &str, name: &str, value: Option<&'a String>) -> Result<&'a str> {
        let member = format!("{kind} {name}");
        let Some(value) = value else {
            return Err(Error::ClaimLacks { claim: self.claim.to_string(), member });
        };
        component("value", value).map_err(|error| {
            self.wrong(member, value, format!("a name for a directory of the volume's path ({error})"))
        })?;
        Ok(value)
    }

    fn wrong(&self, member: String, value: &str, expected: String) -> Error {
        Error::ClaimMember { claim: self.claim.to_string(), member, value: value.to_owned(), expected }
    }

    /// Annotations that are settings: their names, what they set, and to what.
    fn settings<'a>(&'a self, pattern: Option<&Pattern<'_>>) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        let of_path = move |name: &str| pattern.is_some_and(|pattern| pattern.names_annotation(name));
        let ours = self.annotations.iter().filter(move |(name, _)| !of_path(name));
        ours.filter_map(|(name, value)| Some((name.as_str(), name.strip_prefix(PREFIX)?, value.trim())))
    }
}

/// What a StorageClass lets its claims set; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimSettings(Vec<String>);

impl ClaimSettings {
    /// Reads a list with commas.
    ///
    /// # Errors
    /// A name that is no setting.
    pub(crate) fn parse(list: &str) -> Result<Self> {
        let names: Vec<_> = list.split(',').map(|name| name.trim().to_owned()).collect();
        match names.as_slice() {
            [nothing] if nothing.is_empty() => Ok(Self::default()),
            names if names.iter().all(|name| is_setting(name)) => Ok(Self(names.to_vec())),
            _ => Err(Error::parameter(CLAIM_SETTINGS, list, format!("a list of some of {}", all_settings()))),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn allow(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| allowed == name)
    }

    /// Takes what a claim sets.
    ///
    /// # Errors
    /// Names the annotation that is unknown, not allowed or wrong, its value, and what would be right.
    pub(crate) fn apply(
        &self,
        metadata: &ClaimMetadata,
        pattern: Option<&Pattern<'_>>,
        mount_options: &mut String,
        share: &mut Share,
        worker: &mut WorkerSettings,
    ) -> Result<()> {
        for (annotation, name, value) in metadata.settings(pattern) {
            let wrong = |expected| metadata.wrong(format!("annotation {annotation}"), value, expected);
            if !is_setting(name) {
                return Err(wrong(format!("a setting: these are {}", all_settings())));
            }
            if !self.allow(name) {
                return Err(wrong(self.allowed()));
            }
            match name {
                MOUNT_OPTIONS => {
                    check_options(value).map_err(wrong)?;
                    append(mount_options, value);
                }
                SHARE => *share = Share::parse(value).ok_or_else(|| wrong(Share::VALUES.to_owned()))?,
                _ => _ = worker.set(name, value).map_err(|error| wrong(expected(error)))?,
            }
        }
        Ok(())
    }

    fn allowed(&self) -> String {
        match self.0.join(", ") {
            nothing if nothing.is_empty() => format!("for a claim to set: its StorageClass has no {CLAIM_SETTINGS}"),
            names => format!("for a claim to set: {CLAIM_SETTINGS} of its StorageClass are {names}"),
        }
    }
}

fn is_setting(name: &str) -> bool {
    [MOUNT_OPTIONS, SHARE].contains(&name) || WorkerSettings::names().any(|setting| setting == name)
}

fn all_settings() -> String {
    WorkerSettings::names().chain([MOUNT_OPTIONS, SHARE]).collect::<Vec<_>>().join(", ")
}

fn expected(error: Error) -> String {
    match error {
        Error::Parameter { expected, .. } => expected,
        other => other.to_string(),
    }
}

fn append(options: &mut String, more: &str) {
    if !options.is_empty() && !more.is_empty() {
        options.push(',');
    }
    options.push_str(more);
}

/// Mount options that concern who uses the volume alone: neither what it is, nor what a node has or does for others, nor
/// what an administrator has forbidden.
const OPTIONS_OF_CLAIMS: [&str; 20] = [
    "async-dio",
    "attr-cache",
    "dir-entry-cache",
    "enable-ioctl",
    "enable-xattr",
    "entry-cache",
    "hide-internal",
    "max-readahead",
    "negative-entry-cache",
    "noatime",
    "nodev",
    "noexec",
    "nosuid",
    "open-cache",
    "prefetch",
    "prefix-internal",
    "relatime",
    "ro",
    "skip-dir-mtime",
    "verify-cache-checksum",
];

/// Whether a claim may set them.
fn check_options(text: &str) -> Result<(), String> {
    MountOptions::default().apply(text.split(',')).map_err(|error| format!("a list of mount options: {error}"))?;
    let mut options = text.split(',').map(str::trim).filter(|option| !option.is_empty());
    match options.find(|option| !is_of_claims(option)) {
        None => Ok(()),
        Some(option) => {
            let allowed = OPTIONS_OF_CLAIMS.join(", ");
            Err(format!("a list without {option}, which only a StorageClass can set; a claim can set {allowed}"))
        }
    }
}

fn is_of_claims(option: &str) -> bool {
    match option.split_once('=') {
        // `ro=false` would take back what the class has.
        Some((name, _)) => name != "ro" && OPTIONS_OF_CLAIMS.contains(&name.trim()),
        None => OPTIONS_OF_CLAIMS.contains(&option),
    }
}

/// What came from a claim, and stays for a volume as it was at first, however the claim has been edited since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ByClaim {
    /// Its path.
    pub(crate) path: bool,
    /// Its settings.
    pub(crate) settings: ClaimSettings,
}

impl ByClaim {
    /// Whether a setting is among them.
    pub(crate) fn sets(&self, name: &str) -> bool {
        self.settings.allow(name)
    }
}

#[cfg(test)]
#[path = "claim/tests.rs"]
mod tests;
