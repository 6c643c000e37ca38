//! `stead node ls`: the volumes on this node.

use stead_csi::{NodeTarget, NodeVolume};

use crate::args::NodeListArgs;
use crate::exit::Failure;
use crate::output;

const HEADER: [&str; 8] = ["VOLUME ", "HEALTH ", "WORKER", "RESTARTS", "MOUNTED", "MODE ", "POD ", "TARGET "];

pub(crate) fn run(args: &NodeListArgs) -> Result<(), Failure> {
    let volumes = stead_csi::node_volumes(&args.state_dir).map_err(|error| Failure::general(error.to_string()))?;
    if args.json {
        return output::json(&volumes);
    }
    let rows: Vec<_> = volumes.iter().flat_map(rows).collect();
    output::write(format_args!("{}", output::table(&HEADER, &rows)));
    Ok(())
}

/// One per target; a volume without any has one, too.
fn rows(volume: &NodeVolume) -> Vec<Vec<String>> {
    let known = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |target: Option<&NodeTarget>| {
        vec![
            volume.volume.clone(),
            volume.health.name().to_owned(),
            known(volume.worker.map(|pid| pid.to_string())),
            volume.restarts.to_string(),
            known(volume.mounted_seconds.map(age)),
            known(target.map(mode)),
            known(target.and_then(|target| target.pod.clone())),
            known(target.map(place)),
        ]
    };
    match &*volume.targets {
        [] => vec![row(None)],
        targets => targets.iter().map(|target| row(Some(target))).collect(),
    }
}

fn mode(target: &NodeTarget) -> String {
    let access = if target.read_only { "ro" } else { "rw" };
    format!("{access} {}", target.mode.to_lowercase().replace('_', "-"))
}

fn place(target: &NodeTarget) -> String {
    let missing = if target.mounted { "" } else { " (not mounted)" };
    format!("{}{missing}", target.path.display())
}

/// As people read it: the two largest units.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        (_, _, _) => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use stead_csi::VolumeHealth;

    use super::*;

    #[test]
    fn an_age_has_two_units() {
        let seconds = [0, 59, 61, 3600 + 120, 86400 * 3 + 3600 * 4 + 5];
        assert_eq!(seconds.map(age), ["0s", "59s", "1m1s", "1h2m", "3d4h"]);
    }

    #[test]
    fn each_target_has_a_line() {
        let target = |path: &str, mounted| NodeTarget {
            path: path.into(),
            mounted,
            mode: "MULTI_NODE_MULTI_WRITER".to_owned(),
            read_only: !mounted,
            pod: mounted.then(|| "default/web-0".to_owned()),
        };
        let volume = NodeVolume {
            volume: "v".to_owned(),
            mount: "v".to_owned(),
            identity: "shared:/v".to_owned(),
            health: VolumeHealth::BetweenWorkers,
            worker: None,
            restarts: 2,
            mounted_seconds: Some(61),
            targets: vec![target("/a", true), target("/b", false)],
        };
        let shown = output::table(&HEADER, &rows(&volume));
        let expected = "\
VOLUME  HEALTH           WORKER  RESTARTS  MOUNTED  MODE                        POD            TARGET
v       between workers       -         2     1m1s  rw multi-node-multi-writer  default/web-0  /a
v       between workers       -         2     1m1s  ro multi-node-multi-writer  -              /b (not mounted)
";
        assert_eq!(shown, expected);
        let rows = rows(&NodeVolume { targets: Vec::new(), ..volume });
        assert_eq!(rows[0][5..], ["-", "-", "-"]);
    }
}
