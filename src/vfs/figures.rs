//! The figures of a mount, under the names that dashboards of the Go client know (format.md §6.3, §6.5): what `.stats` and
//! `/metrics` show.
//!
//! Counting costs an atomic addition or two; everything else happens when somebody looks.

use std::fmt::Write as _;
use std::time::Duration;

use stead_base::Distribution;
use stead_meta::Call;

use crate::Vfs;

/// Every name begins with it.
const PREFIX: &str = "juicefs_";
/// Figures of the blocks that go up and down.
const GAUGES: [&str; 9] = [
    "blockcache_blocks",
    "blockcache_bytes",
    "blockcache_dirs_out_of_use",
    "object_request_uploading",
    "staging_blocks",
    "staging_block_bytes",
    "staging_writing_blocks",
    "store_cache_size_bytes",
    "used_buffer_size_bytes",
];

/// What a figure is.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    /// Only grows.
    Counter(f64),
    Gauge(f64),
    Histogram(Distribution),
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
struct Figure {
    name: &'static str,
    /// Tells figures of one name apart.
    label: Option<(&'static str, &'static str)>,
    value: Value,
}

impl Vfs {
    /// The content of `.stats` as of now: `name value` per line, the label's value being part of the name.
    pub fn stats_text(&self) -> String {
        lines(&self.figures())
    }

    /// The figures in the text format of Prometheus, each with `labels` (`name="value",…`), of which there may be none.
    pub fn metrics(&self, labels: &str) -> String {
        exposition(&self.figures(), labels)
    }

    fn figures(&self) -> Vec<Figure> {
        let (memory, cpu) = process();
        let mut all = vec![
            plain("uptime", Value::Gauge(self.clock.now().since(self.since).as_secs() as f64)),
            plain("memory", Value::Gauge(memory as f64)),
            plain("cpu_usage", Value::Counter(cpu.as_secs_f64())),
            plain("fuse_open_handlers", Value::Gauge(self.handles.len() as f64)),
        ];
        all.extend(self.operations());
        all.extend(self.calls());
        all.extend(self.blocks());
        all.extend(self.requests());
        all
    }

    /// What the kernel asked for.
    fn operations(&self) -> Vec<Figure> {
        let ops: Vec<_> = self.stats.all().collect();
        let count = ops.iter().map(|(op, count, ..)| by_method("fuse_ops_total", op.name(), *count as f64));
        let took =
            ops.iter().map(|(op, _, _, took)| by_method("fuse_ops_durations_seconds", op.name(), took.as_secs_f64()));
        let errors = ops.iter().map(|(op, _, errors, _)| by_method("fuse_ops_errors", op.name(), *errors as f64));
        let (latency, read, written) = self.stats.histograms();
        let distributions = [
            ("fuse_ops_durations_histogram_seconds", latency),
            ("fuse_read_size_bytes", read),
            ("fuse_written_size_bytes", written),
        ];
        let distributions = distributions.map(|(name, seen)| plain(name, Value::Histogram(seen.distribution())));
        count.chain(took).chain(errors).chain(distributions).collect()
    }

    /// What the metadata engine was asked for, and what the volume uses.
    fn calls(&self) -> Vec<Figure> {
        let stats = self.meta.calls();
        let calls = Call::ALL.map(|call| (call.name(), stats.times(call)));
        let whole = calls.iter().skip(1).fold(calls[0].1.clone(), |sum, (_, times)| sum.and(times));
        let made = || calls.iter().filter(|(_, times)| times.count > 0);
        let count = made().map(|(name, times)| by_method("meta_ops_total", name, times.count as f64));
        let took = made().map(|(name, times)| by_method("meta_ops_duration_seconds", name, times.sum));
        let whole = [
            plain("meta_ops_durations_histogram_seconds", Value::Histogram(whole)),
            plain("transaction_durations_histogram_seconds", Value::Histogram(stats.times(Call::Transaction))),
            plain("transaction_restart", Value::Counter(stats.restarts() as f64)),
        ];
        let usage = self.meta.known_usage().map(|used| {
            [("used_space", used.space), ("used_inodes", used.inodes)]
                .map(|(name, used)| plain(name, Value::Gauge(used as f64)))
        });
        count.chain(took).chain(whole).chain(usage.into_iter().flatten()).collect()
    }

    /// What became of blocks.
    fn blocks(&self) -> Vec<Figure> {
        let shown = |(name, value)| match name {
            "object_get_bytes" => by_method("object_request_data_bytes", "GET", value as f64),
            "object_put_bytes" => by_method("object_request_data_bytes", "PUT", value as f64),
            _ if GAUGES.contains(&name) => plain(name, Value::Gauge(value as f64)),
            _ => plain(name, Value::Counter(value as f64)),
        };
        self.chunks.usage().figures().into_iter().map(shown).collect()
    }

    /// What the object storage was asked for: each attempt counts by itself.
    fn requests(&self) -> Vec<Figure> {
        let requests: Vec<_> = self.chunks.requests().all().collect();
        let failed = requests
            .iter()
            .map(|(op, _, failed)| by_method("object_request_failed_attempts", op.name(), *failed as f64));
        let times = requests.iter().map(|(op, times, _)| Figure {
            name: "object_request_durations_histogram_seconds",
            label: Some(("method", op.name())),
            value: Value::Histogram(times.clone()),
        });
        failed.chain(times).collect()
    }
}

fn plain(name: &'static str, value: Value) -> Figure {
    Figure { name, label: None, value }
}

fn by_method(name: &'static str, method: &'static str, value: f64) -> Figure {
    Figure { name, label: Some(("method", method)), value: Value::Counter(value) }
}

fn lines(figures: &[Figure]) -> String {
    let mut text = String::new();
    for Figure { name, label, value } in figures {
        let label = label.map(|(_, of)| format!("_{of}")).unwrap_or_default();
        let name = format!("{PREFIX}{name}{label}");
        let _ = match value {
            Value::Counter(value) | Value::Gauge(value) => writeln!(text, "{name} {value}"),
            Value::Histogram(Distribution { count, sum, .. }) => {
                writeln!(text, "{name}_total {count}\n{name}_sum {sum}")
            }
        };
    }
    text
}

fn exposition(figures: &[Figure], labels: &str) -> String {
    let (mut text, mut last) = (String::new(), "");
    for Figure { name, label, value } in figures {
        if *name != last {
            let kind = match value {
                Value::Counter(_) => "counter",
                Value::Gauge(_) => "gauge",
                Value::Histogram(_) => "histogram",
            };
            let _ = writeln!(text, "# TYPE {PREFIX}{name} {kind}");
            last = name;
        }
        let own = label.map(|(label, of)| format!("{label}=\"{of}\"")).unwrap_or_default();
        let all = braced(&[&own, labels]);
        let _ = match value {
            Value::Counter(value) | Value::Gauge(value) => writeln!(text, "{PREFIX}{name}{all} {value}"),
            Value::Histogram(Distribution { buckets, count, sum }) => {
                let ends = buckets.iter().map(|(bound, below)| (bound.to_string(), below));
                for (bound, below) in ends.chain([("+Inf".to_owned(), count)]) {
                    let all = braced(&[&own, labels, &format!("le=\"{bound}\"")]);
                    let _ = writeln!(text, "{PREFIX}{name}_bucket{all} {below}");
                }
                writeln!(text, "{PREFIX}{name}_sum{all} {sum}\n{PREFIX}{name}_count{all} {count}")
            }
        };
    }
    text
}

/// Those labels that there are, as they stand behind a name.
fn braced(labels: &[&str]) -> String {
    let there: Vec<_> = labels.iter().copied().filter(|label| !label.is_empty()).collect();
    if there.is_empty() { String::new() } else { format!("{{{}}}", there.join(",")) }
}

/// Resident bytes and processor time of this process (proc(5)); zero where the kernel does not tell.
fn process() -> (u64, Duration) {
    const TICKS: u64 = 100;
    const PAGE: u64 = 4096;
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let pages = read("/proc/self/statm").split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let stat = read("/proc/self/stat");
    // The name of the program, in parentheses, may contain anything.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    (pages.unwrap_or(0) * PAGE, Duration::from_millis(ticks * 1000 / TICKS))
}

#[cfg(test)]
mod tests {
    use stead_base::Histogram;

    use super::*;

    #[test]
    fn both_forms_show_the_same() {
        let histogram = Histogram::of_seconds(0.5, 2.0, 1);
        histogram.note_time(Duration::from_millis(250));
        let lat = Value::Histogram(histogram.distribution());
        let figures = [
            by_method("fuse_ops_total", "read", 2.0),
            plain("lat", lat.clone()),
            Figure { name: "req", label: Some(("method", "GET")), value: lat },
        ];
        let expected = "juicefs_fuse_ops_total_read 2\njuicefs_lat_total 1\njuicefs_lat_sum 0.25\n\
            juicefs_req_GET_total 1\njuicefs_req_GET_sum 0.25\n";
        assert_eq!(lines(&figures), expected);
        let expected = "# TYPE juicefs_fuse_ops_total counter\njuicefs_fuse_ops_total{method=\"read\",mp=\"/m\"} 2\n\
            # TYPE juicefs_lat histogram\njuicefs_lat_bucket{mp=\"/m\",le=\"0.5\"} 1\n\
            juicefs_lat_bucket{mp=\"/m\",le=\"+Inf\"} 1\njuicefs_lat_sum{mp=\"/m\"} 0.25\njuicefs_lat_count{mp=\"/m\"} 1\n\
            # TYPE juicefs_req histogram\njuicefs_req_bucket{method=\"GET\",mp=\"/m\",le=\"0.5\"} 1\n\
            juicefs_req_bucket{method=\"GET\",mp=\"/m\",le=\"+Inf\"} 1\njuicefs_req_sum{method=\"GET\",mp=\"/m\"} 0.25\n\
            juicefs_req_count{method=\"GET\",mp=\"/m\"} 1\n";
        assert_eq!(exposition(&figures, "mp=\"/m\""), expected);
        let bare = expected.replace("mp=\"/m\",", "").replace(",mp=\"/m\"", "").replace("{mp=\"/m\"}", "");
        assert_eq!(exposition(&figures, ""), bare);
    }

    #[test]
    fn the_process_has_memory() {
        assert!(process().0 > 0);
    }
}
