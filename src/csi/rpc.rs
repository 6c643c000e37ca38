//! What all calls share: a deadline, one line of log, and work that goes on when the caller has gone.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};
use tracing::{info, warn};

use crate::error::Result;

/// Runs the work of a call. Neither the end of `limit` nor a caller that hangs up interrupts it: it ends by itself, and
/// what it did is there for the next call. `volume` is the id or the name that the call is about.
pub(crate) async fn answer<T: Send + 'static>(
    rpc: &'static str,
    volume: &str,
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> std::result::Result<Response<T>, Status> {
    let volume = volume.to_owned();
    let running = tokio::spawn(async move {
        let start = Instant::now();
        let result = work.await.map(Response::new).map_err(Status::from);
        log(rpc, &volume, start.elapsed(), &result);
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

fn log<T>(rpc: &'static str, volume: &str, took: Duration, result: &std::result::Result<Response<T>, Status>) {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(_) => info!(rpc, volume, ms, code = ?Code::Ok),
        Err(status) => warn!(rpc, volume, ms, code = ?status.code(), error = status.message()),
    }
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
        let status = answer("Test", "v", Duration::from_secs(1), work).await.expect_err("too slow");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(!done.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(done.load(Ordering::Relaxed));
    }
}
