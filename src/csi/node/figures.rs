//! What a node counts, and how it is shown together with the figures of its volumes' workers.

use std::fmt::Write as _;
use std::future::Future;

use stead_telemetry::{Counter, Exposition, Kind, Timings};
use tokio::time::Instant;

use super::mount_id::MountId;
use super::state::MountState;

/// Since the node service began.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Of a publication.
    pub(crate) stages: Timings<1>,
    /// Of a worker's start, as it tells them.
    pub(crate) worker_stages: Timings<1>,
    pub(crate) started: Counter,
    pub(crate) start_failures: Counter,
    pub(crate) deaths: Counter,
    pub(crate) handovers: Counter,
    pub(crate) hung: Counter,
    pub(crate) aborted: Counter,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            stages: Timings::new(["stage"]),
            worker_stages: Timings::new(["stage"]),
            started: Counter::default(),
            start_failures: Counter::default(),
            deaths: Counter::default(),
            handovers: Counter::default(),
            hung: Counter::default(),
            aborted: Counter::default(),
        }
    }
}

impl Figures {
    /// Does what a stage of a publication does, and counts how long it takes.
    pub(crate) async fn timed<T>(&self, stage: &'static str, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        self.stages.note([stage], begun.elapsed());
        done
    }

    /// Adds them to a page.
    pub(crate) fn show(&self, page: &mut Exposition) {
        let help = "How long the stages of a publication took.";
        self.stages.show(page, "stead_publish_stage_seconds", help);
        let help = "How long the stages of a worker's start took.";
        self.worker_stages.show(page, "stead_worker_start_stage_seconds", help);
        let counters = [
            ("stead_workers_started_total", "Workers that came to serve.", &self.started),
            ("stead_worker_start_failures_total", "Workers that could not serve.", &self.start_failures),
            ("stead_worker_deaths_total", "Workers that died while they served.", &self.deaths),
            ("stead_worker_handovers_total", "Workers that handed over to the next one.", &self.handovers),
            ("stead_workers_hung_total", "Workers that answered nothing and were killed.", &self.hung),
            ("stead_mounts_aborted_total", "Mounts that were given up.", &self.aborted),
        ];
        for (name, help, counter) in counters {
            page.counter(name, help, counter);
        }
    }
}

/// What a worker tells of its mount: metrics without the labels that all of them have, and these labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) labels: String,
    pub(crate) page: String,
}

/// A mount, the volumes that it shows, and what its worker tells.
pub(crate) struct MountFigures {
    mount: MountId,
    /// What has the worker.
    volume: String,
    volumes: Vec<String>,
    measured: Option<Measured>,
}

impl MountFigures {
    /// `None`: one of which nothing is known any more.
    pub(crate) fn new(mount: MountId, state: Option<&MountState>, measured: Option<Measured>) -> Self {
        let name = mount.to_string();
        let (volume, volumes) = match state {
            Some(state) => (state.volume.clone(), state.volumes().into_keys().map(str::to_owned).collect()),
            None => (name.clone(), vec![name]),
        };
        Self { mount, volume, volumes, measured }
    }

    /// A volume, and the mount where that has another name.
    fn labels<'a>(&'a self, volume: &'a str) -> Vec<(&'static str, &'a str)> {
        let mount = self.mount.as_str();
        [("volume", volume), ("mount", mount)].into_iter().take(if volume == mount { 1 } else { 2 }).collect()
    }
}

/// A metric with its samples from all volumes, as the text format wants them.
struct Family {
    kind: String,
    name: String,
    samples: String,
}

/// Shows which volumes answer, and the metrics of those that do.
pub(crate) fn show_volumes(page: &mut Exposition, mounts: &[MountFigures]) -> String {
    page.metric("stead_volume_up", Kind::Gauge, "Whether the worker of a volume answers.");
    for mount in mounts {
        for volume in &mount.volumes {
            page.sample("stead_volume_up", &mount.labels(volume), f64::from(u8::from(mount.measured.is_some())));
        }
    }
    let mut families = Vec::new();
    for mount in mounts {
        if let Some(Measured { labels, page }) = &mount.measured {
            let volume = stead_telemetry::labels(&mount.labels(&mount.volume));
            gather(&mut families, page, &format!("{volume},{labels}"));
        }
    }
    families.into_iter().map(|Family { kind, samples, .. }| format!("{kind}\n{samples}")).collect()
}

fn gather(families: &mut Vec<Family>, page: &str, labels: &str) {
    let mut current = None;
    for line in page.lines() {
        if let Some(named) = line.strip_prefix("# TYPE ") {
            let name = named.split(' ').next().unwrap_or_default();
            let known = families.iter().position(|family| family.name == name);
            current = Some(known.unwrap_or_else(|| {
                families.push(Family { kind: line.to_owned(), name: name.to_owned(), samples: String::new() });
                families.len() - 1
            }));
        } else if let Some(family) = current.and_then(|index| families.get_mut(index))
            // A worker speaks for its own metrics alone.
            && line.starts_with(&family.name)
            && let Some(end) = line.find(['{', ' '])
        {
            let (name, rest) = line.split_at(end);
            let _written = match rest.strip_prefix('{') {
                Some(own) => writeln!(family.samples, "{name}{{{labels},{own}"),
                None => writeln!(family.samples, "{name}{{{labels}}}{rest}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use stead_volume::{Share, VolumeId};

    use super::super::state::TargetState;
    use super::*;

    #[test]
    fn metrics_of_volumes_stand_together_and_say_whose_they_are() {
        let measured = |page: &str| Some(Measured { labels: "mp=\"/m\"".to_owned(), page: page.to_owned() });
        let of = |text, measured| MountFigures::new(MountId::parse(text).expect("right"), None, measured);
        let first = "# TYPE juicefs_a counter\njuicefs_a{method=\"x y\"} 1\n# TYPE juicefs_b gauge\njuicefs_b 2\n";
        let second = "# TYPE juicefs_b gauge\njuicefs_b 3\nstead_volume_up{volume=\"v\"} 0\n";
        let volumes = [of("v", measured(first)), of("w", measured(second)), of("x", None)];
        let mut page = Exposition::default();
        let shown = show_volumes(&mut page, &volumes);
        let expected = "# TYPE juicefs_a counter\njuicefs_a{volume=\"v\",mp=\"/m\",method=\"x y\"} 1\n\
            # TYPE juicefs_b gauge\njuicefs_b{volume=\"v\",mp=\"/m\"} 2\njuicefs_b{volume=\"w\",mp=\"/m\"} 3\n";
        assert_eq!(shown, expected);
        let up = page.into_text();
        assert!(up.ends_with(
            "stead_volume_up{volume=\"v\"} 1\nstead_volume_up{volume=\"w\"} 1\nstead_volume_up{volume=\"x\"} 0\n"
        ));
    }

    #[test]
    fn a_mount_is_named_where_it_is_not_that_of_one_volume() {
        let measured = Some(Measured { labels: "mp=\"/m\"".to_owned(), page: "# TYPE a gauge\na 1\n".to_owned() });
        let mut shared = MountState::new("shared@1", Share::FileSystem, "shared:/".to_owned());
        for volume in ["v", "w"] {
            let volume_id = Some(VolumeId::parse(volume).expect("right"));
            shared.targets.insert(volume.into(), TargetState { volume: volume_id, ..TargetState::default() });
        }
        let pod = MountState::new("v", Share::Pod, "shared:/v".to_owned());
        let of = |name, state, measured| MountFigures::new(MountId::parse(name).expect("right"), Some(state), measured);
        let mut page = Exposition::default();
        let shown = show_volumes(&mut page, &[of("shared@1", &shared, measured.clone()), of("v@uid", &pod, measured)]);
        let expected =
            "# TYPE a gauge\na{volume=\"shared@1\",mp=\"/m\"} 1\na{volume=\"v\",mount=\"v@uid\",mp=\"/m\"} 1\n";
        assert_eq!(shown, expected);
        let up = page.into_text();
        for labels in
            ["volume=\"v\",mount=\"shared@1\"", "volume=\"w\",mount=\"shared@1\"", "volume=\"v\",mount=\"v@uid\""]
        {
            assert!(up.contains(&format!("stead_volume_up{{{labels}}} 1\n")), "{up}");
        }
    }
}
