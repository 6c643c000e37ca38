//! What a claim says about its own volume.

use serde_json::json;
use stead_k8s::fake::ApiServer;

use super::*;

const CLAIMS: &str = "/api/v1/namespaces/team/persistentvolumeclaims";
const PATTERN: &str = "teams/${.pvc.namespace}/${.pvc.labels.app.kubernetes.io/name}";

/// A place whose controller reads claims.
struct Cluster {
    server: ApiServer,
    place: Place,
}

impl Cluster {
    async fn new() -> Self {
        let server = ApiServer::start().await;
        let mut place = Place::new();
        place.service.claims = Some(Claims::new(server.cluster().await));
        Self { server, place }
    }

    /// Puts the claim `data` there, or edits it.
    fn claim(&self, labels: &[(&str, &str)], annotations: &[(&str, &str)]) {
        let metadata = json!({"name": "data", "labels": map(labels), "annotations": map(annotations)});
        self.server.add(CLAIMS, json!({"metadata": metadata}));
    }

    async fn create(&self, name: &str, parameters: &[(&str, &str)]) -> Result<proto::Volume, Status> {
        self.place.create(request(&self.place, name, parameters)).await
    }
}

fn request(place: &Place, name: &str, parameters: &[(&str, &str)]) -> proto::CreateVolumeRequest {
    let names = [("csi.storage.k8s.io/pvc/namespace", "team"), ("csi.storage.k8s.io/pvc/name", "data")];
    proto::CreateVolumeRequest { parameters: map(&[&names, parameters].concat()), ..place.request(name, 1 << 20) }
}

#[tokio::test]
async fn labels_and_annotations_make_the_volume() {
    let cluster = Cluster::new().await;
    cluster.claim(&[("app.kubernetes.io/name", "web")], &[("steadfast.io/mountOptions", "attr-cache=7")]);
    let class = [("pathPattern", PATTERN), ("claimSettings", "mountOptions"), ("mountOptions", "ro")];
    let context = cluster.create("pvc-1", &class).await.expect("created").volume_context;
    assert_eq!(context["path"], "teams/team/web");
    assert_eq!(context["mountOptions"], "ro,attr-cache=7");
}

#[tokio::test]
async fn a_claim_that_is_mended_gets_its_volume() {
    let cluster = Cluster::new().await;
    let class = [("pathPattern", PATTERN), ("claimSettings", "workerCpuLimit")];
    let image = ("steadfast.io/workerImage", "evil:1");
    let named = [("app.kubernetes.io/name", "web")];
    for (labels, annotation, expected) in [
        ([].as_slice(), None, "has no label app.kubernetes.io/name"),
        (&named, Some(image), "annotation steadfast.io/workerImage: \"evil:1\" is not for a claim to set"),
        (&named, Some(("steadfast.io/workerCpuLimit", "lots")), "\"lots\" is not a number of processors"),
    ] {
        cluster.claim(labels, annotation.as_slice());
        let status = cluster.create("pvc-1", &class).await.expect_err(expected);
        assert!(status.code() == Code::FailedPrecondition && status.message().contains(expected), "{status}");
    }
    cluster.claim(&named, &[("steadfast.io/workerCpuLimit", "2")]);
    let context = cluster.create("pvc-1", &class).await.expect("mended").volume_context;
    assert_eq!((context["path"].as_str(), context["workerCpuLimit"].as_str()), ("teams/team/web", "2"));
}

#[tokio::test]
async fn a_volume_stays_as_it_was_made_when_its_claim_is_edited() {
    let cluster = Cluster::new().await;
    let settings = ("claimSettings", "mountOptions,workerCpuLimit,workerMemoryLimit");
    let directory = [settings, ("pathPattern", PATTERN)];
    let own = [settings, ("provisioning", "filesystem")];
    for (name, class) in [("pvc-1", directory), ("pvc-2", own)] {
        let options = ("steadfast.io/mountOptions", "attr-cache=7");
        cluster.claim(&[("app.kubernetes.io/name", "web")], &[options, ("steadfast.io/workerCpuLimit", "2")]);
        let volume = cluster.create(name, &class).await.expect("created");
        cluster.claim(&[("app.kubernetes.io/name", "other")], &[("steadfast.io/workerMemoryLimit", "1Gi")]);
        assert_eq!(cluster.create(name, &class).await.expect("the same"), volume);
        let other = [class.as_slice(), &[("mode", "0700")]].concat();
        let status = cluster.create(name, &other).await.expect_err("not what the claim may choose");
        assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    }
}

#[tokio::test]
async fn the_api_server_is_asked_when_it_has_to_be() {
    let cluster = Cluster::new().await;
    let needy = [("pathPattern", PATTERN)];
    let status = cluster.create("pvc-1", &needy).await.expect_err("no such claim");
    assert!(status.code() == Code::FailedPrecondition && status.message().contains("claim team/data"), "{status}");
    cluster.server.stop();
    let status = cluster.create("pvc-1", &needy).await.expect_err("away");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    cluster.create("pvc-1", &[("pathPattern", "${.pvc.name}")]).await.expect("nobody is asked");
}

#[tokio::test]
async fn without_the_flag_the_error_says_what_to_set() {
    let place = Place::new();
    for parameter in [("pathPattern", PATTERN), ("claimSettings", "mountOptions")] {
        let status = place.create(request(&place, "pvc-1", &[parameter])).await.expect_err("not read");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("--claims") && status.message().contains("controller.claims"), "{status}");
    }
}
