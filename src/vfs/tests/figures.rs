//! What an operator sees.

use std::collections::HashMap;

use stead_object::{Op, Rule};

use super::Rig;

fn figures(rig: &Rig) -> HashMap<String, f64> {
    let text = rig.vfs.stats_text();
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.strip_prefix("juicefs_")?.to_owned(), value.parse().ok()?))
    };
    text.lines().map(|line| figure(line).unwrap_or_else(|| panic!("not a figure: {line}"))).collect()
}

#[tokio::test]
async fn each_layer_shows_what_it_did() {
    let rig = Rig::new().await;
    let before = figures(&rig);
    rig.objects.add(Rule::on(Op::Put).times(1));
    let (_ino, fh) = rig.create("f").await;
    rig.write(fh, 0, b"content").await;
    rig.flush(fh).await.unwrap_err();
    rig.write(fh, 0, b"content").await;
    rig.close(fh).await.unwrap();
    rig.meta.reload().await.unwrap();
    let after = figures(&rig);
    for (name, at_least) in [
        ("meta_ops_total_transaction", 2.0),
        ("meta_ops_total_read", 1.0),
        ("meta_ops_durations_histogram_seconds_total", 3.0),
        ("transaction_durations_histogram_seconds_total", 2.0),
        ("object_request_durations_histogram_seconds_PUT_total", 2.0),
        ("object_request_failed_attempts_PUT", 1.0),
        ("fuse_ops_durations_histogram_seconds_total", 5.0),
    ] {
        let grown = after[name] - before.get(name).copied().unwrap_or_default();
        assert!(grown >= at_least, "{name} grew by {grown}");
    }
    for name in ["meta_ops_durations_histogram_seconds_sum", "object_request_durations_histogram_seconds_PUT_sum"] {
        assert!(after[name] > before.get(name).copied().unwrap_or_default(), "{name} shows no time");
    }
    assert_eq!(after["transaction_restart"], 0.0);
    assert_eq!((before.get("used_inodes"), after["used_inodes"], after["used_space"]), (None, 1.0, 4096.0));
}
