//! One lifecycle for every background task: start, tick, drain, report.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, debug_span};

/// The background tasks of one component. Dropping it asks them to stop; [`Tasks::drain`] also waits for them.
#[derive(Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    running: TaskTracker,
}

impl Tasks {
    /// No task yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled when the tasks are to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs `work` until it ends by itself; [`Tasks::drain`] waits for it.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(work.instrument(debug_span!("task", name)));
    }

    /// Runs `tick` once per `period` (± 5 %, so that clients do not beat in step) until drained.
    pub fn every<F, Fut>(&self, name: &'static str, period: Duration, mut tick: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            loop {
                let wait = period.mul_f64(0.95 + 0.1 * rand::random::<f64>());
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(wait) => tick().await,
                }
            }
            debug!(name, "stopped");
        });
    }

    /// Asks every task to stop and waits until the last one has.
    pub async fn drain(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_stop_when_drained() {
        let (tasks, count) = (Tasks::new(), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&count);
        tasks.every("test", Duration::from_secs(1), move || {
            seen.fetch_add(1, Ordering::Relaxed);
            std::future::ready(())
        });
        tokio::time::sleep(Duration::from_millis(3500)).await;
        tasks.drain().await;
        let ticks = count.load(Ordering::Relaxed);
        assert!((3..=4).contains(&ticks), "{ticks} ticks");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(count.load(Ordering::Relaxed), ticks);
    }
}
