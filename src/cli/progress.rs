//! How far a command is: bars on a terminal, silence elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use stead_upkeep::{Meter, Progress, Quiet, Unit};

/// Set once, from the command line: nobody wants to see bars.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// Follows `--quiet` and `--no-progress`.
pub(crate) fn hide(hidden: bool) {
    HIDDEN.store(hidden, Ordering::Relaxed);
}

/// What shows the progress of this command.
pub(crate) fn shown() -> Box<dyn Progress> {
    if HIDDEN.load(Ordering::Relaxed) || !std::io::stderr().is_terminal() { Box::new(Quiet) } else { Box::new(Bars) }
}

struct Bars;

struct Bar(ProgressBar);

impl Progress for Bars {
    fn part(&self, name: &str, unit: Unit, total: Option<u64>) -> Arc<dyn Meter> {
        let bar = total.filter(|total| *total > 0).map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let count = match (unit, bar.length()) {
            (Unit::Items, Some(_)) => "{bar:30} {human_pos}/{human_len}  {per_sec}",
            (Unit::Items, None) => "{spinner} {human_pos}  {per_sec}",
            (Unit::Bytes, Some(_)) => "{bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}",
            (Unit::Bytes, None) => "{spinner} {binary_bytes}  {binary_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(&format!("{{msg}}: {count}  {{elapsed}}")) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Arc::new(Bar(bar))
    }
}

impl Meter for Bar {
    fn add(&self, count: u64) {
        self.0.inc(count);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish();
    }
}
