//! What a node counts, and how it is shown together with the figures of its volumes' workers.

use std::fmt::Write as _;
use std::future::Future;

use stead_telemetry::{Counter, Exposition, Kind, Timings};
use stead_volume::VolumeId;
use tokio::time::Instant;

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

/// A metric with its samples from all volumes, as the text format wants them.
struct Family {
    kind: String,
    name: String,
    samples: String,
}

/// Shows which volumes answer, and the metrics of those that do.
pub(crate) fn show_volumes(page: &mut Exposition, volumes: &[(VolumeId, Option<Measured>)]) -> String {
    page.metric("stead_volume_up", Kind::Gauge, "Whether the worker of a volume answers.");
    for (id, measured) in volumes {
        page.sample("stead_volume_up", &[("volume", id.as_str())], f64::from(u8::from(measured.is_some())));
    }
    let mut families = Vec::new();
    for (id, measured) in volumes {
        if let Some(Measured { labels, page }) = measured {
            let volume = stead_telemetry::labels(&[("volume", id.as_str())]);
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
    use super::*;

    #[test]
    fn metrics_of_volumes_stand_together_and_say_whose_they_are() {
        let measured = |page: &str| Some(Measured { labels: "mp=\"/m\"".to_owned(), page: page.to_owned() });
        let id = |text| VolumeId::parse(text).expect("right");
        let first = "# TYPE juicefs_a counter\njuicefs_a{method=\"x y\"} 1\n# TYPE juicefs_b gauge\njuicefs_b 2\n";
        let second = "# TYPE juicefs_b gauge\njuicefs_b 3\nstead_volume_up{volume=\"v\"} 0\n";
        let volumes = [(id("v"), measured(first)), (id("w"), measured(second)), (id("x"), None)];
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
}
