use std::collections::HashMap;

use super::*;
use crate::params::{Provisioning, VolumeParams};
use crate::worker::WorkerSetting;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn said(labels: Pairs<'_>, annotations: Pairs<'_>) -> ClaimMetadata {
    let map = |pairs: Pairs<'_>| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let claim = Claim { namespace: "team".to_owned(), name: "data".to_owned() };
    ClaimMetadata { claim, labels: map(labels), annotations: map(annotations) }
}

fn parameters(given: Pairs<'_>) -> HashMap<String, String> {
    let names = [("csi.storage.k8s.io/pvc/namespace", "team"), ("csi.storage.k8s.io/pvc/name", "data")];
    names.iter().chain(given).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(given: Pairs<'_>, said: &ClaimMetadata) -> Result<VolumeParams> {
    VolumeParams::parse(&parameters(given), Some(said))
}

fn path(pattern: &str, said: &ClaimMetadata) -> Result<String> {
    let params = parse(&[("pathPattern", pattern)], said)?;
    let Provisioning::Directory { path: Some(path) } = params.provisioning else { panic!("a directory") };
    Ok(path.as_str().to_owned())
}

#[test]
fn a_claim_is_read_only_if_it_has_something_to_say() {
    let needs = |given: Pairs<'_>| VolumeParams::needs_claim(&parameters(given)).is_some();
    for given in [[("pathPattern", "a/${.PVC.Labels.x}")], [("claimSettings", "share")]] {
        assert!(needs(&given), "{given:?}");
        let nameless = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(VolumeParams::needs_claim(&nameless), None, "nobody knows which");
    }
    for given in [("pathPattern", "${.pvc.name}"), ("claimSettings", " "), ("pathPattern", "${.pvc.labels.x")] {
        assert!(!needs(&[given]), "{given:?}");
    }
}

#[test]
fn labels_and_annotations_become_components() {
    let said = said(&[("app.kubernetes.io/name", "web"), ("Tier", "T1")], &[("example.com/where", "a b${.pvc.name}")]);
    for (pattern, expected) in [
        ("x/${.pvc.labels.app.kubernetes.io/name}/y", "x/web/y"),
        ("${ .PVC.Labels.Tier }-x/${.pvc.name}", "T1-x/data"),
        ("${.pvc.namespace}/${.pvc.ANNOTATIONS.example.com/where}", "team/a b${.pvc.name}"),
    ] {
        assert_eq!(path(pattern, &said).expect(pattern), expected);
    }
    let error = path("${.pvc.labels.tier}", &said).expect_err("names are exact").to_string();
    assert!(error.starts_with("claim team/data has no label tier"), "{error}");
}

#[test]
fn no_value_leads_out_of_the_pattern() {
    let long = "x".repeat(256);
    for value in ["", ".", "..", "a/b", "/", "../..", "a\nb", "a\0", &long] {
        let said = said(&[], &[("dir", value)]);
        for pattern in ["team/${.pvc.annotations.dir}", "${.pvc.annotations.dir}/x", "a${.pvc.annotations.dir}"] {
            let error = path(pattern, &said).expect_err(value);
            assert_eq!(error.kind(), crate::error::Kind::Precondition, "{error}");
            let text = error.to_string();
            assert!(text.contains("claim team/data: annotation dir") && text.contains("a name for"), "{text}");
        }
    }
    for (pattern, value) in [("${.pvc.annotations.dir}", ".stead"), (".${.pvc.annotations.dir}/x", "trash")] {
        let error = path(pattern, &said(&[], &[("dir", value)])).expect_err(value).to_string();
        assert!(error.contains("kept for the driver"), "{error}");
    }
}

#[test]
fn a_claim_sets_what_its_class_allows() {
    let said = said(
        &[],
        &[
            ("steadfast.io/workerCpuLimit", "2"),
            ("steadfast.io/mountOptions", "attr-cache=3, ro"),
            ("steadfast.io/share", "pod"),
            ("steadfast.io/dir", "d"),
            ("volume.kubernetes.io/storage-provisioner", "x"),
        ],
    );
    let class = [
        ("claimSettings", "workerCpuLimit, mountOptions,share"),
        ("workerCpuLimit", "1"),
        ("workerMemoryLimit", "1Gi"),
        ("mountOptions", "cache-size=5"),
        ("pathPattern", "${.pvc.annotations.steadfast.io/dir}"),
    ];
    let params = parse(&class, &said).expect("allowed");
    assert_eq!(params.mount_options, "cache-size=5,attr-cache=3, ro");
    assert_eq!(params.share, crate::Share::Pod);
    assert_eq!(params.worker.get(WorkerSetting::CpuLimit), Some("2"));
    assert_eq!(params.worker.get(WorkerSetting::MemoryLimit), Some("1Gi"));
}

#[test]
fn what_a_claim_may_not_set_is_named() {
    let options = "steadfast.io/mountOptions";
    for (allowed, annotation, value, expected) in [
        (
            "workerCpuLimit",
            "steadfast.io/workerImage",
            "evil:1",
            "claimSettings of its StorageClass are workerCpuLimit",
        ),
        ("workerCpuLimit", "steadfast.io/workrImage", "x", "is not a setting: these are workerImage, "),
        ("workerCpuLimit", "steadfast.io/workerCpuLimit", "lots", "\"lots\" is not a number of processors"),
        ("workerCpuLimit", options, "ro", "is not for a claim to set"),
        ("share", "steadfast.io/share", "none", "\"none\" is not "),
        ("mountOptions", options, "cache-sise=1", "unknown mount option \"cache-sise\""),
        ("mountOptions", options, "ro,subdir=other", "a list without subdir"),
        ("mountOptions", options, "cache-dir=/etc", "a list without cache-dir"),
        ("mountOptions", options, "storage=file,bucket=/", "a list without storage"),
        ("mountOptions", options, "metrics=0.0.0.0:1", "a list without metrics"),
        ("mountOptions", options, "read-only=false", "a list without read-only"),
        ("mountOptions", options, "ro=false", "a list without ro"),
        ("mountOptions", options, "exec", "a list without exec"),
        ("mountOptions", options, "writeback", "a list without writeback"),
        ("mountOptions", options, "buffer-size=100G", "a list without buffer-size"),
        ("mountOptions", options, "suid", "a list without suid"),
    ] {
        let error = parse(&[("claimSettings", allowed)], &said(&[], &[(annotation, value)])).expect_err(value);
        assert_eq!(error.kind(), crate::error::Kind::Precondition, "{error}");
        let text = error.to_string();
        let named = format!("claim team/data: annotation {annotation}: {value:?} is not ");
        assert!(text.starts_with(&named) && text.contains(expected), "{text}");
    }
    let error =
        parse(&[("pathPattern", "${.pvc.labels.a}")], &said(&[("a", "b")], &[(options, "ro")])).expect_err("none");
    assert!(error.to_string().contains("its StorageClass has no claimSettings"), "{error}");
}
