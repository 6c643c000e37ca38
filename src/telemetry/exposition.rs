//! The text format of Prometheus, and the few kinds of figures that services count.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stead_base::{Distribution, Histogram};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values lay below some bounds.
    Histogram,
}

/// Pairs of name and value.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric; its samples follow.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
    }

    /// One value of a metric.
    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.line(format_args!("{name}{} {value}", Braced(labels)));
    }

    /// The values of a histogram.
    pub fn distribution(&mut self, name: &str, labels: Labels<'_>, seen: &Distribution) {
        let Distribution { buckets, count, sum } = seen;
        let ends = buckets.iter().map(|(bound, below)| (bound.to_string(), *below));
        for (bound, below) in ends.chain([("+Inf".to_owned(), *count)]) {
            let labels = [labels, &[("le", &*bound)]].concat();
            self.line(format_args!("{name}_bucket{} {below}", Braced(&labels)));
        }
        let labels = Braced(labels);
        self.line(format_args!("{name}_sum{labels} {sum}\n{name}_count{labels} {count}"));
    }

    /// A metric with one value.
    pub fn single(&mut self, name: &str, kind: Kind, help: &str, value: f64) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A counter.
    pub fn counter(&mut self, name: &str, help: &str, counter: &Counter) {
        self.single(name, Kind::Counter, help, counter.get() as f64);
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // A String takes everything.
        let _written = writeln!(self.text, "{line}");
    }
}

/// Labels as they stand behind a name.
struct Braced<'a>(Labels<'a>);

impl fmt::Display for Braced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{{{}}}", labels(self.0)) }
    }
}

/// `name="value",…`
pub fn labels(pairs: Labels<'_>) -> String {
    let escaped = |value: &str| value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
    let pairs = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Counts events.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took, from half a millisecond to a minute, told apart by the values of `N` labels.
#[derive(Debug)]
pub struct Timings<const N: usize> {
    labels: [&'static str; N],
    seen: Mutex<BTreeMap<[String; N], Histogram>>,
}

/// Nobody counts more combinations of labels; further ones are dropped, should their values come from somebody else.
const MOST: usize = 200;

impl<const N: usize> Timings<N> {
    /// None so far.
    pub const fn new(labels: [&'static str; N]) -> Self {
        Self { labels, seen: Mutex::new(BTreeMap::new()) }
    }

    /// Counts one that took so long.
    pub fn note(&self, values: [&str; N], took: Duration) {
        let values = values.map(str::to_owned);
        let mut seen = self.seen();
        if seen.len() < MOST || seen.contains_key(&values) {
            seen.entry(values).or_insert_with(|| Histogram::of_seconds(0.0005, 2.0, 18)).note_time(took);
        }
    }

    /// Adds them to a page.
    pub fn show(&self, page: &mut Exposition, name: &str, help: &str) {
        page.metric(name, Kind::Histogram, help);
        for (values, histogram) in &*self.seen() {
            let labels: Vec<_> = self.labels.into_iter().zip(values.iter().map(String::as_str)).collect();
            page.distribution(name, &labels, &histogram.distribution());
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<[String; N], Histogram>> {
        // Counts are whole at any time.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_help_and_type_and_labels_are_escaped() {
        let mut page = Exposition::default();
        let deaths = Counter::default();
        deaths.count();
        page.counter("deaths_total", "Deaths.", &deaths);
        page.metric("up", Kind::Gauge, "Whether it answers.");
        page.sample("up", &[("volume", "a\\b\"c\nd"), ("mode", "rw")], 0.5);
        let expected = "# HELP deaths_total Deaths.\n# TYPE deaths_total counter\ndeaths_total 1\n\
            # HELP up Whether it answers.\n# TYPE up gauge\nup{volume=\"a\\\\b\\\"c\\nd\",mode=\"rw\"} 0.5\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn durations_are_told_apart_by_their_labels() {
        let timings = Timings::new(["method", "code"]);
        timings.note(["Publish", "OK"], Duration::from_millis(1));
        timings.note(["Publish", "OK"], Duration::from_secs(100));
        timings.note(["Publish", "Internal"], Duration::ZERO);
        let mut page = Exposition::default();
        timings.show(&mut page, "calls_seconds", "Calls.");
        let text = page.into_text();
        assert!(text.starts_with("# HELP calls_seconds Calls.\n# TYPE calls_seconds histogram\n"), "{text}");
        for line in [
            r#"calls_seconds_bucket{method="Publish",code="OK",le="0.0005"} 0"#,
            r#"calls_seconds_bucket{method="Publish",code="OK",le="0.001"} 1"#,
            r#"calls_seconds_bucket{method="Publish",code="OK",le="+Inf"} 2"#,
            r#"calls_seconds_sum{method="Publish",code="OK"} 100.001"#,
            r#"calls_seconds_count{method="Publish",code="OK"} 2"#,
            r#"calls_seconds_bucket{method="Publish",code="Internal",le="0.0005"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }

    #[test]
    fn labels_that_somebody_else_chooses_do_not_pile_up() {
        let timings = Timings::new(["stage"]);
        (0..=MOST).for_each(|number| timings.note([&number.to_string()], Duration::ZERO));
        timings.note(["0"], Duration::ZERO);
        assert_eq!(timings.seen().len(), MOST);
        assert_eq!(timings.seen()[&["0".to_owned()]].distribution().count, 2);
    }
}
