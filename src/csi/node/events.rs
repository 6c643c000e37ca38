//! What happens to a mount, told to those who use it: events of their pods and claims.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stead_k8s::{Events, Happening, Kind, Subject};
use tracing::warn;

use super::mount_id::MountId;
use super::state::StateDir;

/// The pod that a volume is published for, as the kubelet names it (`podInfoOnMount`), and the claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: Option<String>,
    pub(crate) claim: Option<String>,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)
    }
}

impl User {
    /// `None`: the kubelet does not say.
    pub(crate) fn of(attributes: &HashMap<String, String>) -> Option<Self> {
        let get = |name: &str| attributes.get(name).filter(|value| !value.is_empty()).cloned();
        let (namespace, pod) = (get("csi.storage.k8s.io/pod.namespace")?, get("csi.storage.k8s.io/pod.name")?);
        let claim = get("csi.storage.k8s.io/pvc/name");
        // One of another namespace is not this pod's.
        let claim = claim.filter(|_| get("csi.storage.k8s.io/pvc/namespace").is_none_or(|other| other == namespace));
        Some(Self { namespace, pod, uid: get("csi.storage.k8s.io/pod.uid"), claim })
    }

    fn subjects(self) -> impl Iterator<Item = Subject> {
        let Self { namespace, pod, uid, claim } = self;
        let claim = claim.map(|name| {
            let kind = Kind::PersistentVolumeClaim;
            Subject { kind, namespace: namespace.clone(), name, uid: None }
        });
        [Some(Subject { kind: Kind::Pod, namespace, name: pod, uid }), claim].into_iter().flatten()
    }
}

/// Something that whoever uses a mount should know.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Notice<'a> {
    /// A worker died, and another one goes on.
    Restarted { how: &'a str },
    /// None goes on yet.
    BackOff { error: &'a str },
    /// None will.
    Aborted { log: &'a Path },
    /// It answered nothing for so long.
    Hung { silence: Duration },
}

impl Notice<'_> {
    fn reason_and_action(self) -> (&'static str, &'static str) {
        match self {
            Self::Restarted { .. } => ("WorkerRestarted", "RestartWorker"),
            Self::BackOff { .. } => ("WorkerBackOff", "RestartWorker"),
            Self::Aborted { .. } => ("MountAborted", "AbortMount"),
            Self::Hung { .. } => ("WorkerHung", "KillWorker"),
        }
    }

    fn note(self, id: &str) -> String {
        match self {
            Self::Restarted { how } => format!(
                "The worker of volume {id} ended ({how}), and another one goes on with the mount. What was written and \
                 neither fsynced nor closed is lost: such a file answers EIO to its next write, fsync or close."
            ),
            Self::BackOff { error } => {
                format!("No worker serves volume {id}, and whoever uses it waits; trying again. Last error: {error}")
            }
            Self::Aborted { log } => format!(
                "The mount of volume {id} was given up, since no worker could go on with it: whoever uses it gets errors. \
                 Delete the pod to have the volume mounted anew for the next one. The log of the worker is {} on the node.",
                log.display()
            ),
            Self::Hung { silence } => format!(
                "The worker of volume {id} has answered nothing for {silence:?} and was killed. Another one takes over."
            ),
        }
    }
}

/// Tells the users of a mount what happens to it, if there is anybody to tell it to.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    events: Option<Events>,
    state: StateDir,
}

impl Reporter {
    pub(crate) fn new(events: Option<Events>, state: StateDir) -> Self {
        Self { events, state }
    }

    /// Whether anybody is told.
    pub(crate) fn is_heard(&self) -> bool {
        self.events.is_some()
    }

    /// Waits for nobody.
    pub(crate) fn tell(&self, id: &MountId, notice: Notice<'_>) {
        let Some(events) = &self.events else { return };
        let (reason, action) = notice.reason_and_action();
        for (subject, volumes) in self.subjects(id) {
            let volumes: Vec<_> = volumes.iter().map(String::as_str).collect();
            events.tell(Happening { subject, reason, action, note: notice.note(&volumes.join(", ")) });
        }
    }

    /// Those who use a mount, each once and with the volumes that it uses.
    fn subjects(&self, id: &MountId) -> Vec<(Subject, BTreeSet<String>)> {
        let state = self.state.load(id).unwrap_or_else(|error| {
            warn!(volume = %id, %error, "its users are not told what happens");
            None
        });
        let mut users: BTreeMap<&User, BTreeSet<String>> = BTreeMap::new();
        for (state, target) in state.iter().flat_map(|state| state.targets.values().map(move |target| (state, target)))
        {
            if let Some(user) = &target.user {
                users.entry(user).or_default().insert(state.volume_of(target).to_owned());
            }
        }
        let mut subjects: Vec<(Subject, BTreeSet<String>)> = Vec::new();
        for (user, volumes) in users {
            for subject in user.clone().subjects() {
                match subjects.iter_mut().find(|(known, _)| *known == subject) {
                    Some((_, known)) => known.extend(volumes.clone()),
                    None => subjects.push((subject, volumes.clone())),
                }
            }
        }
        subjects
    }
}

#[cfg(test)]
mod tests {
    use stead_volume::{Share, VolumeId};

    use super::super::state::{MountState, TargetState};
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| (format!("csi.storage.k8s.io/{name}"), (*value).to_owned())).collect()
    }

    #[test]
    fn the_kubelet_says_for_whom_a_volume_is() {
        assert_eq!(User::of(&attributes(&[("pod.name", "app")])), None);
        let known = [("pod.name", "app"), ("pod.namespace", "team"), ("pod.uid", "u"), ("pvc/name", "data")];
        let user = User::of(&attributes(&known)).expect("complete");
        assert_eq!((&*user.namespace, &*user.pod, user.uid.as_deref()), ("team", "app", Some("u")));
        assert_eq!(user.claim.as_deref(), Some("data"));
        let foreign = attributes(&[&known[..], &[("pvc/namespace", "other")]].concat());
        assert_eq!(User::of(&foreign).expect("complete").claim, None);
    }

    #[test]
    fn every_user_of_a_volume_is_told_once() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        let id = MountId::parse("v").expect("right");
        let mut state = MountState::new("v", Share::Volume, "shared:/v".to_owned());
        for (target, pod) in [("/a", Some("one")), ("/b", Some("two")), ("/c", Some("two")), ("/d", None)] {
            let known =
                pod.map(|pod| attributes(&[("pod.name", pod), ("pod.namespace", "team"), ("pvc/name", "data")]));
            let user = known.and_then(|known| User::of(&known));
            state.targets.insert(target.into(), TargetState { user, ..TargetState::default() });
        }
        state_dir.save(&id, &state).expect("writable");
        let subjects = Reporter::new(None, state_dir).subjects(&id);
        let names: Vec<_> = subjects.iter().map(|(subject, _)| (subject.kind, &*subject.name)).collect();
        assert_eq!(names, [(Kind::Pod, "one"), (Kind::PersistentVolumeClaim, "data"), (Kind::Pod, "two")]);
    }

    #[test]
    fn whoever_uses_a_mount_of_several_volumes_is_told_of_its_own() {
        let dir = tempfile::tempdir().expect("a place");
        let state_dir = StateDir::open(dir.path()).expect("writable");
        let id = MountId::parse("shared@1").expect("right");
        let mut state = MountState::new(id.as_str(), Share::FileSystem, "shared:/".to_owned());
        for (volume, pod) in [("v", "one"), ("w", "one"), ("x", "two")] {
            let known = attributes(&[("pod.name", pod), ("pod.namespace", "team"), ("pvc/name", volume)]);
            let volume = Some(VolumeId::parse(volume).expect("right"));
            let target = TargetState { volume, user: User::of(&known), ..TargetState::default() };
            state.targets.insert(format!("/{}", state.targets.len()).into(), target);
        }
        state_dir.save(&id, &state).expect("writable");
        let subjects = Reporter::new(None, state_dir).subjects(&id);
        let told: Vec<_> = subjects
            .iter()
            .map(|(subject, volumes)| (&*subject.name, volumes.iter().map(String::as_str).collect::<Vec<_>>()))
            .collect();
        let expected =
            [("one", vec!["v", "w"]), ("v", vec!["v"]), ("w", vec!["w"]), ("two", vec!["x"]), ("x", vec!["x"])];
        assert_eq!(told, expected);
    }

    #[test]
    fn notices_say_what_is_lost_and_what_to_do() {
        for (notice, reason, said) in [
            (Notice::Restarted { how: "signal: 9 (SIGKILL)" }, "WorkerRestarted", "(signal: 9 (SIGKILL))"),
            (Notice::BackOff { error: "no engine" }, "WorkerBackOff", "Last error: no engine"),
            (Notice::Aborted { log: Path::new("/logs/v.log") }, "MountAborted", "Delete the pod"),
            (Notice::Hung { silence: Duration::from_secs(30) }, "WorkerHung", "nothing for 30s"),
        ] {
            let note = notice.note("v");
            assert!(
                notice.reason_and_action().0 == reason && note.contains(said) && note.contains("volume v"),
                "{note}"
            );
        }
    }
}
