//! Claims whose labels and annotations say where their volumes lie and how they are used.

use stead_tests::cluster::PATIENCE;
use stead_tests::{Cluster, eventually};

use super::badinput::{class, says};
use super::manifests::{all, claim, pod, static_volume};

const CLASS: &str = "by-claim";
const OPTIONS: &str = "steadfast.io/mountOptions";
const IMAGE: &str = "steadfast.io/workerImage";
const LABEL: &str = "app.kubernetes.io/name";

pub(crate) fn say_what_their_volumes_are_like(cluster: &Cluster) {
    let parameters = format!(
        "pathPattern: \"teams/${{.pvc.namespace}}/${{.pvc.labels.{LABEL}}}\"\n  \
         claimSettings: workerMemoryLimit,mountOptions"
    );
    cluster.apply(&class(CLASS, "volumes", &parameters));
    chosen_by_label_and_annotation(cluster);
    mended(cluster, "unnamed", &[], &format!("has no label {LABEL}"), &[("label", &format!("{LABEL}=mended"))]);
    mended(
        cluster,
        "forbidden",
        &[("label", &format!("{LABEL}=allowed")), ("annotate", &format!("{IMAGE}=evil:1"))],
        &format!("annotation {IMAGE}: \"evil:1\" is not for a claim to set"),
        &[("annotate", &format!("{IMAGE}-"))],
    );
    mended(
        cluster,
        "wrong",
        &[("label", &format!("{LABEL}=right")), ("annotate", &format!("{OPTIONS}=subdir=/"))],
        "a list without subdir",
        &[("annotate", &format!("{OPTIONS}=attr-cache=5"))],
    );
    cluster.kubectl(&["delete", "storageclass", CLASS]);
}

/// A claim with labels and annotations from the first moment on.
fn described(name: &str, described: &[(&str, &str)]) -> String {
    let of = |verb: &str| {
        let pairs = described.iter().filter(|(given, _)| *given == verb).filter_map(|(_, pair)| pair.split_once('='));
        pairs.map(|(name, value)| format!("{name}: {value:?}")).collect::<Vec<_>>().join(", ")
    };
    let metadata = format!("{{name: {name}, labels: {{{}}}, annotations: {{{}}}}}", of("label"), of("annotate"));
    claim(name, CLASS, "").replace(&format!("{{name: {name}}}"), &metadata)
}

fn chosen_by_label_and_annotation(cluster: &Cluster) {
    let options = format!("{OPTIONS}=prefix-internal");
    let claim = described("web", &[("label", &format!("{LABEL}=web")), ("annotate", &options)]);
    cluster.apply(&all(&[claim, pod("web", "web")]));
    cluster.wait("condition=Ready", &["pod/web"]);
    let volume = cluster.get(&["pvc", "web"])["spec"]["volumeName"].as_str().expect("bound").to_owned();
    let attributes = cluster.get(&["pv", &volume])["spec"]["csi"]["volumeAttributes"].clone();
    assert_eq!(
        (&attributes["path"], &attributes["mountOptions"]),
        (&"teams/default/web".into(), &"prefix-internal".into())
    );
    assert_eq!(cluster.sh("web", "test -e /data/.jfs.stats && echo there").trim(), "there", "the option took effect");
    cluster.sh("web", "echo from web >/data/here; sync");

    cluster.apply(&all(&[static_volume("teams", "teams"), pod("teams", "teams")]));
    cluster.wait("condition=Ready", &["pod/teams"]);
    assert_eq!(cluster.sh("teams", "cat /data/default/web/here"), "from web\n");
    cluster.kubectl(&["delete", "pod/teams", "pvc/teams", "pv/teams", "pod/web", "pvc/web"]);
    no_volume_is_left(cluster);
}

/// A claim that cannot have its volume as it is says why, and binds by itself when it is edited.
fn mended(cluster: &Cluster, name: &str, wrong: &[(&str, &str)], named: &str, mending: &[(&str, &str)]) {
    cluster.apply(&described(name, wrong));
    says(cluster, &format!("PersistentVolumeClaim/{name}"), named);
    for (verb, change) in mending {
        cluster.kubectl(&[verb, "--overwrite", "pvc", name, change]);
    }
    cluster.wait("jsonpath={.status.phase}=Bound", &[&format!("pvc/{name}")]);
    cluster.kubectl(&["delete", "pvc", name]);
    no_volume_is_left(cluster);
}

fn no_volume_is_left(cluster: &Cluster) {
    eventually("all volumes are deleted", PATIENCE, || {
        cluster.get(&["pv"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
}
