//! Named places where a test makes this process die, wait or fail.
//!
//! The registry is the process' own: what a test wants to prove is what a death anywhere between two lines leaves behind.
//! As long as nothing is armed a point costs one relaxed load. Only the command line arms, from `STEAD_FAILPOINTS`.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing::warn;

use crate::ParseError;

static ANY: AtomicBool = AtomicBool::new(false);
static ARMED: OnceLock<Armed> = OnceLock::new();

/// A step that has no error of its own: it may be the last one, or take long.
#[inline]
pub fn hit(name: &str) {
    fails(name);
}

/// A step that may also fail: whether it is to return an error now.
#[inline]
pub fn fails(name: &str) -> bool {
    ANY.load(Ordering::Relaxed) && ARMED.get().is_some_and(|armed| armed.reached(name))
}

/// Arms the points that `plan` names, once per process. `kill` ends the process at once, as SIGKILL does.
///
/// A plan is a list such as `meta.remove.after-commit=kill@3,chunk.upload.before-put=stall:200`: a point, an action (`kill`,
/// `error`, `stall:MILLISECONDS`), and at which of the times it is reached; without that, at each of them.
///
/// # Errors
/// [`ParseError`] when the plan cannot be read.
pub fn arm(plan: &str, kill: fn()) -> Result<(), ParseError> {
    let points: HashMap<String, Point> = plan.split(',').map(parse_point).collect::<Result<_, _>>()?;
    ANY.store(ARMED.set(Armed { points, kill }).is_ok(), Ordering::Relaxed);
    Ok(())
}

#[derive(Debug)]
struct Armed {
    points: HashMap<String, Point>,
    kill: fn(),
}

#[derive(Debug)]
struct Point {
    action: Action,
    /// `None`: at each hit; 1 is the first one.
    at: Option<u64>,
    hits: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Error,
    Stall(Duration),
}

impl Armed {
    /// Does what is planned for this hit; whether the step is to fail.
    fn reached(&self, name: &str) -> bool {
        let Some(point) = self.points.get(name) else { return false };
        let hit = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
        if point.at.is_some_and(|at| at != hit) {
            return false;
        }
        warn!(name, hit, action = ?point.action, "fail point");
        match point.action {
            Action::Kill => (self.kill)(),
            Action::Error => return true,
            Action::Stall(time) => stall(time),
        }
        false
    }
}

#[expect(clippy::disallowed_methods, reason = "a stalled step is to hold up its thread, as a slow disk would")]
fn stall(time: Duration) {
    std::thread::sleep(time);
}

fn parse_point(text: &str) -> Result<(String, Point), ParseError> {
    let bad = || ParseError {
        value: text.to_owned(),
        expected: "a fail point such as NAME=kill@3, NAME=error or NAME=stall:200",
    };
    let (name, rest) = text.split_once('=').ok_or_else(bad)?;
    let (action, at) = rest.split_once('@').map_or((rest, None), |(action, at)| (action, Some(at)));
    let at = at.map(u64::from_str).transpose().map_err(|_no_number| bad())?;
    let action = match action.split_once(':') {
        None if action == "kill" => Action::Kill,
        None if action == "error" => Action::Error,
        Some(("stall", time)) => Action::Stall(Duration::from_millis(time.parse().map_err(|_no_number| bad())?)),
        _ => return Err(bad()),
    };
    Ok((name.trim().to_owned(), Point { action, at, hits: AtomicU64::new(0) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    static KILLS: AtomicU64 = AtomicU64::new(0);

    fn count_kill() {
        KILLS.fetch_add(1, Ordering::Relaxed);
    }

    fn armed(plan: &str) -> Armed {
        let points = plan.split(',').map(parse_point).collect::<Result<_, _>>().expect("a plan");
        Armed { points, kill: count_kill }
    }

    #[test]
    fn a_point_acts_at_the_hit_that_was_asked_for() {
        let armed = armed("a.b=error@2,c.d=error,e.f=kill@3");
        assert_eq!([1, 2, 3].map(|_| armed.reached("a.b")), [false, true, false]);
        assert!(armed.reached("c.d") && armed.reached("c.d"), "without a number, at each hit");
        assert!(!armed.reached("not.armed"));
        for kills in [0, 0, 1, 1] {
            armed.reached("e.f");
            assert_eq!(KILLS.load(Ordering::Relaxed), kills);
        }
    }

    #[test]
    fn nothing_happens_while_nothing_is_armed() {
        hit("a.b");
        assert!(!fails("a.b"));
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_refused() {
        for plan in ["", "name", "name=die", "name=kill@x", "name=stall", "name=stall:soon", "a=kill,"] {
            let error = arm(plan, || ()).expect_err(plan);
            assert!(error.to_string().contains("NAME=kill@3"), "{error}");
        }
    }
}
