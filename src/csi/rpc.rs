//! What all calls share: a deadline, one line of log, a place in the metrics, and work that goes on when the caller has
//! gone.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stead_telemetry::{Exposition, Kind, Timings};
use tokio::time::Instant;
use tonic::{Code, Response, Status};
use tracing::{debug, info, warn};

use crate::error::Result;

/// All calls of this process.
static CALLS: Timings<2> = Timings::new(["method", "code"]);
static IN_PROGRESS: AtomicU64 = AtomicU64::new(0);

/// What a call is about, for its line in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    /// The id or the name.
    pub(crate) volume: String,
    /// Namespace and name of the pod that uses it.
    pub(crate) pod: Option<String>,
    /// Where the pod sees it.
    pub(crate) target: Option<String>,
}

impl From<&str> for About {
    fn from(volume: &str) -> Self {
        Self { volume: volume.to_owned(), ..Self::default() }
    }
}

impl From<&String> for About {
    fn from(volume: &String) -> Self {
        volume.as_str().into()
    }
}

/// Runs the work of a call. Neither the end of `limit` nor a caller that hangs up interrupts it: it ends by itself, and
/// what it did is there for the next call. `about` is mostly the id or the name of a volume.
pub(crate) async fn answer<T: Send + 'static>(
    rpc: &'static str,
    about: impl Into<About>,
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> std::result::Result<Response<T>, Status> {
    let about = about.into();
    let running = tokio::spawn(async move {
        let mut call = Call::begin(rpc);
        let result = work.await.map(Response::new).map_err(Status::from);
        call.code = result.as_ref().err().map_or(Code::Ok, Status::code);
        log(&call, &about, result.as_ref().err());
        result
    });
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panicked)) => Err(Status::internal(format!("{rpc} ended unexpectedly; see the log"))),
        Err(_elapsed) => {
            let why = format!("{rpc} has not ended within {limit:?}; it goes on, ask again");
            Err(Status::deadline_exceeded(why))
        }
    }
}

/// A call in progress; counted when its work ends, however it does.
struct Call {
    rpc: &'static str,
    begun: Instant,
    code: Code,
}

impl Call {
    fn begin(rpc: &'static str) -> Self {
        IN_PROGRESS.fetch_add(1, Ordering::Relaxed);
        Self { rpc, begun: Instant::now(), code: Code::Internal }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        IN_PROGRESS.fetch_sub(1, Ordering::Relaxed);
        CALLS.note([self.rpc, &name(self.code)], self.begun.elapsed());
    }
}

fn log(call: &Call, about: &About, error: Option<&Status>) {
    let (rpc, code) = (call.rpc, call.code);
    let About { volume, pod, target } = about;
    let ms = u64::try_from(call.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    match error {
        Some(status) => warn!(rpc, volume, pod, target, ms, ?code, error = status.message()),
        // Asked every few seconds by whoever looks whether we live.
        None if rpc == "Probe" => debug!(rpc, ms, ?code),
        None => info!(rpc, volume, pod, target, ms, ?code),
    }
}

/// The code as gRPC's own metrics have it.
fn name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

/// Adds the calls of this process to a page.
pub(crate) fn show(page: &mut Exposition) {
    CALLS.show(page, "stead_csi_request_seconds", "How long the work of CSI calls took, also after their deadline.");
    let running = IN_PROGRESS.load(Ordering::Relaxed) as f64;
    let help = "CSI calls whose work has not ended.";
    page.single("stead_csi_requests_in_progress", Kind::Gauge, help, running);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_after_the_deadline() {
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let work = async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            seen.store(true, Ordering::Relaxed);
            Ok(())
        };
        let status = answer("TestSlow", "v", Duration::from_secs(1), work).await.expect_err("too slow");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(!done.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(done.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_by_what_came_of_them() {
        let slow = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(())
        };
        answer("TestGood", "v", Duration::from_secs(9), slow).await.expect("in time");
        let wrong = async { Err::<(), _>(crate::error::Error::Missing { field: "volume_id" }) };
        answer("TestWrong", "v", Duration::from_secs(9), wrong).await.expect_err("wrong");
        let lost = async { panic!("on purpose") };
        answer::<()>("TestLost", "v", Duration::from_secs(9), lost).await.expect_err("lost");
        let mut page = Exposition::default();
        show(&mut page);
        let text = page.into_text();
        for line in [
            r#"stead_csi_request_seconds_sum{method="TestGood",code="OK"} 3"#,
            r#"stead_csi_request_seconds_count{method="TestWrong",code="InvalidArgument"} 1"#,
            r#"stead_csi_request_seconds_count{method="TestLost",code="Internal"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
