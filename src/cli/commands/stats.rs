//! `stead stats`: live figures of a mount from its `.stats` file, one line per interval, in the Go client's columns.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, json};

use crate::args::StatsArgs;
use crate::control::Place;
use crate::exit::Failure;

/// Names of the file, also with `--prefix-internal`.
const NAMES: [&str; 2] = [".stats", ".jfs.stats"];
/// Lines between two headers.
const PAGE: u64 = 20;

/// What a column shows.
#[derive(Clone, Copy)]
enum Show {
    /// The value, a number of bytes.
    Bytes,
    /// The increase per second, in percent.
    Percent,
    /// The increase per second, a number.
    Rate,
    /// The increase per second, a number of bytes.
    ByteRate,
    /// Milliseconds of one operation: the increase of `…_sum` by that of `…_total`.
    Latency,
}

struct Column {
    title: &'static str,
    show: Show,
    metric: &'static str,
}

const fn column(title: &'static str, show: Show, metric: &'static str) -> Column {
    Column { title, show, metric }
}

struct Section {
    letter: char,
    title: &'static str,
    columns: &'static [Column],
}

/// The sections by the letters of a schema.
const SECTIONS: [Section; 5] = [
    Section {
        letter: 'u',
        title: "usage",
        columns: &[
            column("cpu", Show::Percent, "cpu_usage"),
            column("mem", Show::Bytes, "memory"),
            column("buf", Show::Bytes, "used_buffer_size_bytes"),
        ],
    },
    Section {
        letter: 'f',
        title: "fuse",
        columns: &[
            column("ops", Show::Rate, "fuse_ops_durations_histogram_seconds_total"),
            column("lat", Show::Latency, "fuse_ops_durations_histogram_seconds"),
            column("read", Show::ByteRate, "fuse_read_size_bytes_sum"),
            column("write", Show::ByteRate, "fuse_written_size_bytes_sum"),
        ],
    },
    Section {
        letter: 'm',
        title: "meta",
        columns: &[
            column("ops", Show::Rate, "meta_ops_durations_histogram_seconds_total"),
            column("lat", Show::Latency, "meta_ops_durations_histogram_seconds"),
            column("txn", Show::Rate, "transaction_durations_histogram_seconds_total"),
            column("lat", Show::Latency, "transaction_durations_histogram_seconds"),
            column("retry", Show::Rate, "transaction_restart"),
        ],
    },
    Section {
        letter: 'c',
        title: "blockcache",
        columns: &[
            column("read", Show::ByteRate, "blockcache_hit_bytes"),
            column("write", Show::ByteRate, "blockcache_write_bytes"),
        ],
    },
    Section {
        letter: 'o',
        title: "object",
        columns: &[
            column("get", Show::ByteRate, "object_request_data_bytes_GET"),
            column("get_c", Show::Rate, "object_request_durations_histogram_seconds_GET_total"),
            column("lat", Show::Latency, "object_request_durations_histogram_seconds_GET"),
            column("put", Show::ByteRate, "object_request_data_bytes_PUT"),
            column("put_c", Show::Rate, "object_request_durations_histogram_seconds_PUT_total"),
            column("lat", Show::Latency, "object_request_durations_histogram_seconds_PUT"),
            column("del_c", Show::Rate, "object_request_durations_histogram_seconds_DELETE_total"),
        ],
    },
];

type Figures = BTreeMap<String, f64>;

pub(crate) async fn run(args: &StatsArgs) -> Result<(), Failure> {
    let sections = sections(&args.schema)?;
    let file = file(&args.path)?;
    let period = Duration::from_secs(args.interval);
    let mut before = read(&file)?;
    let mut ticks = tokio::time::interval(period);
    ticks.tick().await;
    for number in 0.. {
        if args.count > 0 && number == args.count {
            break;
        }
        ticks.tick().await;
        let now = read(&file)?;
        if args.json {
            println!("{}", json_line(&sections, &before, &now, period));
        } else {
            if number % PAGE == 0 {
                header(&sections, args.schema.contains('t'));
            }
            let time = args.schema.contains('t').then(|| chrono::Local::now().format("%H:%M:%S ").to_string());
            println!("{}{}", time.unwrap_or_default(), line(&sections, &before, &now, period));
        }
        before = now;
    }
    Ok(())
}

fn sections(schema: &str) -> Result<Vec<&'static Section>, Failure> {
    let known = |letter: char| SECTIONS.iter().find(|section| section.letter == letter);
    let unknown = |letter| {
        let why = "known are t (time), u (usage), f (fuse), m (meta), c (blockcache), o (object)";
        Failure::usage(format!("--schema {schema}: unknown section {letter:?}; {why}"))
    };
    let letters = schema.chars().filter(|letter| *letter != 't');
    letters.map(|letter| known(letter).ok_or_else(|| unknown(letter))).collect()
}

fn file(path: &Path) -> Result<PathBuf, Failure> {
    let mount = Place::find(path, false)?.mount;
    let found = NAMES.iter().map(|name| mount.join(name)).find(|file| file.symlink_metadata().is_ok());
    found.ok_or_else(|| Failure::usage(format!("{} has no figures", mount.display())))
}

fn read(file: &Path) -> Result<Figures, Failure> {
    let text =
        std::fs::read_to_string(file).map_err(|error| Failure::general(format!("{}: {error}", file.display())))?;
    Ok(parse(&text))
}

/// A whole number that a mount tells; 0 for what it does not know.
pub(crate) fn count(mount: &Path, name: &str) -> Result<u64, Failure> {
    let value = total(&read(&file(mount)?)?, name);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that was written as one")]
    Ok(value as u64)
}

fn parse(text: &str) -> Figures {
    let figure = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.strip_prefix("juicefs_")?.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(figure).collect()
}

/// The sum of the figures that begin with a name: labels are part of the names.
fn total(figures: &Figures, name: &str) -> f64 {
    match figures.get(name) {
        Some(value) => *value,
        None => {
            let labelled = format!("{name}_");
            figures
                .range(labelled.clone()..)
                .take_while(|(key, _)| key.starts_with(&labelled))
                .fold(0.0, |sum, (_, value)| sum + value)
        }
    }
}

fn value(column: &Column, before: &Figures, now: &Figures, period: Duration) -> f64 {
    let increase = |name: &str| (total(now, name) - total(before, name)).max(0.0);
    match column.show {
        Show::Bytes => total(now, column.metric),
        Show::Percent => increase(column.metric) / period.as_secs_f64() * 100.0,
        Show::Rate | Show::ByteRate => increase(column.metric) / period.as_secs_f64(),
        Show::Latency => {
            let count = increase(&format!("{}_total", column.metric));
            if count > 0.0 { increase(&format!("{}_sum", column.metric)) / count * 1e3 } else { 0.0 }
        }
    }
}

const WIDTH: usize = 6;

fn header(sections: &[&Section], time: bool) {
    let space = if time { "         " } else { "" };
    let titles = sections.iter().map(|section| {
        let width = section.columns.len() * (WIDTH + 1) - 1;
        format!("{:-^width$}", section.title)
    });
    println!("{space}{}", titles.collect::<Vec<_>>().join(" "));
    let names = sections.iter().map(|section| {
        section.columns.iter().map(|column| format!("{:>WIDTH$}", column.title)).collect::<Vec<_>>().join(" ")
    });
    println!("{space}{}", names.collect::<Vec<_>>().join("|"));
}

fn line(sections: &[&Section], before: &Figures, now: &Figures, period: Duration) -> String {
    let cells = sections.iter().map(|section| {
        let shown = section.columns.iter().map(|column| shown(column.show, value(column, before, now, period)));
        shown.map(|text| format!("{text:>WIDTH$}")).collect::<Vec<_>>().join(" ")
    });
    cells.collect::<Vec<_>>().join("|")
}

fn shown(show: Show, value: f64) -> String {
    match show {
        Show::Percent => format!("{value:.1}%"),
        Show::Latency => format!("{value:.2}"),
        Show::Rate => short(value, 1000.0),
        Show::Bytes | Show::ByteRate => short(value, 1024.0),
    }
}

/// At most six characters.
fn short(mut value: f64, step: f64) -> String {
    for unit in ["", "K", "M", "G", "T"] {
        if value < 1000.0 {
            return if unit.is_empty() { format!("{value:.0}") } else { format!("{value:.1}{unit}") };
        }
        value /= step;
    }
    format!("{value:.0}P")
}

/// One object with a member for each section.
fn json_line(sections: &[&Section], before: &Figures, now: &Figures, period: Duration) -> String {
    let mut shown = Map::new();
    for section in sections {
        let mut columns = Map::new();
        let mut counted = "";
        for column in section.columns {
            let name = match column.show {
                Show::Latency => format!("{counted}_lat_ms"),
                _ => column.title.to_owned(),
            };
            counted = column.title;
            columns.insert(name, json!(value(column, before, now, period)));
        }
        shown.insert(section.title.to_owned(), columns.into());
    }
    json!(shown).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_rates() {
        let before = parse("juicefs_memory 5\njuicefs_x_sum 1\njuicefs_x_total 10\njuicefs_transaction_restart_a 1\n");
        let now = parse(
            "juicefs_memory 7\njuicefs_x_sum 2\njuicefs_x_total 30\njuicefs_transaction_restart_a 2\njuicefs_transaction_restart_b 3\n",
        );
        let second = Duration::from_secs(2);
        let value = |show, metric| value(&column("", show, metric), &before, &now, second);
        assert_eq!(value(Show::Bytes, "memory"), 7.0);
        assert_eq!(value(Show::Rate, "x_total"), 10.0);
        assert_eq!(value(Show::Latency, "x"), 50.0);
        assert_eq!(value(Show::Rate, "transaction_restart"), 2.0);
        assert_eq!(value(Show::Latency, "nothing"), 0.0);
    }

    #[test]
    fn cells_stay_narrow() {
        for (value, text) in [(0.0, "0"), (999.0, "999"), (1500.0, "1.5K"), (999_949.0, "999.9K"), (5e6, "5.0M")] {
            assert_eq!(short(value, 1000.0), text);
        }
    }

    #[test]
    fn an_unknown_section_is_named() {
        assert!(sections("ufmcot").is_ok());
        let error = sections("ux").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("'x'"), "{error}");
    }
}
