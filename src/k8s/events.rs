//! Events: what `kubectl describe` tells somebody about the mounts of a pod.
//!
//! Whoever tells one does not wait: events queue up to a limit, one task sends them, and what cannot be sent is dropped with
//! a line in the log. What happens again is counted in the event that is there.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use stead_base::{Clock, Timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::cluster::{Cluster, ask};
use crate::error::{Error, Result};

/// Events that wait to be sent.
const QUEUE: usize = 256;
/// The longest note in bytes that the API server takes.
const MAX_NOTE: usize = 1024;
/// What happens again after a longer time is a new event.
const SERIES: Duration = Duration::from_secs(6 * 60);
/// Events about one object, all at once and then one per [`REFILL`].
const BURST: u32 = 25;
const REFILL: Duration = Duration::from_secs(60);

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid. That of a claim is looked up.
    pub uid: Option<String>,
}

/// The kind of an object that events are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A pod that uses a volume.
    Pod,
    /// The claim that it uses.
    PersistentVolumeClaim,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Something that went wrong with it: a warning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Happening {
    /// What it is about.
    pub subject: Subject,
    /// In one word, for programs.
    pub reason: &'static str,
    /// What was done, in one word.
    pub action: &'static str,
    /// For people. The same words again are the same event again.
    pub note: String,
}

/// Where to tell what has happened.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Happening>,
}

impl Events {
    /// Sends events in the name of `controller` on `node`. To be called within a runtime.
    pub fn start(cluster: Cluster, controller: &str, node: &str, clock: Arc<dyn Clock>) -> Self {
        let (queue, happenings) = mpsc::channel(QUEUE);
        let node = node.chars().take(128).collect();
        let sender = Sender {
            cluster,
            controller: controller.to_owned(),
            node,
            clock,
            known: HashMap::new(),
            rates: HashMap::new(),
        };
        tokio::spawn(sender.run(happenings));
        Self { queue }
    }

    /// Tells it, if there is room in the queue.
    pub fn tell(&self, happening: Happening) {
        if let Err(error) = self.queue.try_send(happening) {
            let (mpsc::error::TrySendError::Full(lost) | mpsc::error::TrySendError::Closed(lost)) = error;
            warn!(about = %lost.subject, reason = lost.reason, note = lost.note, "an event is dropped: too many wait");
        }
    }
}

/// An event that is there.
#[derive(Debug)]
struct Known {
    name: String,
    count: i32,
    last: Instant,
}

/// How many more events there may be about an object.
#[derive(Debug)]
struct Rate {
    left: u32,
    since: Instant,
}

struct Sender {
    cluster: Cluster,
    controller: String,
    node: String,
    clock: Arc<dyn Clock>,
    known: HashMap<Happening, Known>,
    rates: HashMap<Subject, Rate>,
}

impl Sender {
    async fn run(mut self, mut happenings: mpsc::Receiver<Happening>) {
        while let Some(happening) = happenings.recv().await {
            self.forget_old();
            if !self.may_tell(&happening.subject) {
                debug!(about = %happening.subject, reason = happening.reason, "an event is dropped: too many");
                continue;
            }
            if let Err(error) = self.send(&happening).await {
                let Happening { subject, reason, note, .. } = &happening;
                warn!(about = %subject, reason, note, %error, "an event is dropped");
            }
        }
    }

    fn forget_old(&mut self) {
        self.known.retain(|_, known| known.last.elapsed() < SERIES);
        self.rates.retain(|_, rate| rate.since.elapsed() < REFILL * BURST);
    }

    fn may_tell(&mut self, subject: &Subject) -> bool {
        let rate = self.rates.entry(subject.clone()).or_insert_with(|| Rate { left: BURST, since: Instant::now() });
        while rate.left < BURST && rate.since.elapsed() >= REFILL {
            rate.left += 1;
            rate.since += REFILL;
        }
        if rate.left == BURST {
            rate.since = Instant::now();
        }
        rate.left.checked_sub(1).map(|left| rate.left = left).is_some()
    }

    async fn send(&mut self, happening: &Happening) -> Result<()> {
        if let Some(known) = self.known.get_mut(happening) {
            known.count = known.count.saturating_add(1);
            known.last = Instant::now();
            let (name, count) = (known.name.clone(), known.count);
            match self.count(happening, &name, count).await {
                // It was removed, or never arrived.
                Err(Error::Refused { .. }) => _ = self.known.remove(happening),
                other => return other,
            }
        }
        let name = self.create(happening).await?;
        self.known.insert(happening.clone(), Known { name, count: 1, last: Instant::now() });
        Ok(())
    }

    async fn count(&self, happening: &Happening, name: &str, count: i32) -> Result<()> {
        let api = self.cluster.api::<Event>(&happening.subject.namespace);
        let patch = json!({"series": {"count": count, "lastObservedTime": micro_time(self.clock.now())}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let patched = api.patch(name, &params, &patch);
        // Boxed: futures of the client are large.
        ask("count an event", Box::pin(patched)).await.map(|_event| ())
    }

    async fn create(&self, happening: &Happening) -> Result<String> {
        let Happening { subject, reason, action, note } = happening;
        let now = self.clock.now();
        let name = format!("{}.{:x}{:08x}", subject.name.chars().take(200).collect::<String>(), now.secs, now.nanos);
        let uid = self.uid_of(subject).await;
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(format!("{:?}", subject.kind)),
            namespace: Some(subject.namespace.clone()),
            name: Some(subject.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(subject.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(micro_time(now)),
            type_: Some("Warning".to_owned()),
            reason: Some((*reason).to_owned()),
            action: Some((*action).to_owned()),
            note: Some(shortened(note)),
            regarding: Some(regarding),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        let api = self.cluster.api::<Event>(&subject.namespace);
        ask("record an event", Box::pin(api.create(&PostParams::default(), &event))).await?;
        Ok(name)
    }

    /// Without a uid, an event is there and `kubectl describe` does not show it.
    async fn uid_of(&self, subject: &Subject) -> Option<String> {
        if subject.uid.is_some() || subject.kind != Kind::PersistentVolumeClaim {
            return subject.uid.clone();
        }
        let api = self.cluster.api::<PersistentVolumeClaim>(&subject.namespace);
        let found = ask("show a claim", Box::pin(api.get_metadata_opt(&subject.name))).await;
        match found {
            Ok(claim) => claim.and_then(|claim| claim.metadata.uid),
            Err(error) => {
                debug!(about = %subject, %error, "its uid is not known");
                None
            }
        }
    }
}

fn micro_time(time: Timestamp) -> MicroTime {
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    MicroTime(jiff::Timestamp::new(time.secs, nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH))
}

/// As much as an event may hold: the beginning says what it is.
fn shortened(note: &str) -> String {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use stead_base::SystemClock;

    use super::*;
    use crate::fake::ApiServer;

    fn happening(name: &str, note: &str) -> Happening {
        let uid = Some("uid-1".to_owned());
        let subject = Subject { kind: Kind::Pod, namespace: "team".into(), name: name.into(), uid };
        Happening { subject, reason: "WorkerRestarted", action: "Restart", note: note.into() }
    }

    async fn started(server: &ApiServer) -> Events {
        Events::start(server.cluster().await, "csi.steadfast.io", "node-1", Arc::new(SystemClock))
    }

    async fn seen(server: &ApiServer, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let waiting = async {
            loop {
                let events = server.events();
                if enough(&events) {
                    return events;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the events arrive")
    }

    #[tokio::test]
    async fn an_event_says_what_happened_to_whom() {
        let server = ApiServer::start().await;
        started(&server).await.tell(happening("app", "it ended"));
        let events = seen(&server, |events| events.len() == 1).await;
        let event = &events[0];
        assert_eq!(event["apiVersion"], "events.k8s.io/v1");
        assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("WorkerRestarted")));
        assert_eq!((&event["action"], &event["note"]), (&json!("Restart"), &json!("it ended")));
        let about = json!({"apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "app", "uid": "uid-1"});
        assert_eq!(event["regarding"], about);
        assert_eq!(event["reportingController"], "csi.steadfast.io");
        assert_eq!(event["reportingInstance"], "node-1");
        assert_eq!(event["metadata"]["namespace"], "team");
        assert!(event["eventTime"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    }

    #[tokio::test]
    async fn the_same_again_is_counted() {
        let server = ApiServer::start().await;
        let events = started(&server).await;
        for _again in 0..3 {
            events.tell(happening("app", "it ended"));
        }
        events.tell(happening("app", "it ended otherwise"));
        let found = seen(&server, |events| events.len() == 2 && events.iter().any(|e| e["series"]["count"] == 3)).await;
        assert_eq!(found.iter().filter(|event| event["series"].is_null()).count(), 1);
        server.forget_events();
        events.tell(happening("app", "it ended"));
        let found = seen(&server, |events| events.len() == 1).await;
        assert!(found[0]["series"].is_null(), "an event that was removed is made again");
    }

    #[tokio::test]
    async fn a_claim_is_named_with_its_uid() {
        let server = ApiServer::start().await;
        let events = started(&server).await;
        server.add("/api/v1/namespaces/team/persistentvolumeclaims", json!({"metadata": {"name": "data", "uid": "u"}}));
        let claim = |name: &str| Subject {
            kind: Kind::PersistentVolumeClaim,
            namespace: "team".into(),
            name: name.into(),
            uid: None,
        };
        events.tell(Happening { subject: claim("data"), ..happening("", "x") });
        let found = seen(&server, |events| events.len() == 1).await;
        assert_eq!(found[0]["regarding"]["uid"], "u");
        server.forbid("persistentvolumeclaims");
        events.tell(Happening { subject: claim("other"), ..happening("", "x") });
        let found = seen(&server, |events| events.len() == 2).await;
        assert!(found.iter().any(|event| event["regarding"]["uid"].is_null()), "it arrives anyway: {found:?}");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_server_that_is_away() {
        let server = ApiServer::start().await;
        let events = started(&server).await;
        server.stop();
        let began = Instant::now();
        for number in 0..2 * QUEUE {
            events.tell(happening("app", &number.to_string()));
        }
        assert!(began.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_gets_so_many_events_and_then_one_a_minute() {
        let server = ApiServer::start().await;
        let cluster = server.cluster().await;
        let (controller, node) = (String::new(), String::new());
        let (known, rates) = (HashMap::new(), HashMap::new());
        let mut sender = Sender { cluster, controller, node, clock: Arc::new(SystemClock), known, rates };
        let subject = happening("app", "").subject;
        assert_eq!((0..2 * BURST).filter(|_| sender.may_tell(&subject)).count(), 25);
        tokio::time::advance(REFILL * 2).await;
        assert_eq!((0..2 * BURST).filter(|_| sender.may_tell(&subject)).count(), 2);
        assert!(sender.may_tell(&happening("other", "").subject));
        tokio::time::advance(REFILL * BURST * 2).await;
        sender.forget_old();
        assert!(sender.rates.is_empty());
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "x".repeat(MAX_NOTE - 1) + "äöü";
        assert_eq!(shortened(&long).len(), MAX_NOTE - 1);
    }
}
