//! System calls that can hang (anything that may reach a FUSE server) run on a thread of their own.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Runs `call` on its own thread and waits for at most `limit`.
///
/// A call that hangs keeps its thread, never the caller, and does not hold up the end of the process (which the blocking
/// threads of a runtime would). Callers make sure not to pile up such calls on the same path.
pub async fn within<T: Send + 'static>(
    what: &'static str,
    limit: Duration,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(what.to_owned()).spawn(move || {
        // The receiver is gone when the deadline has passed: then nobody wants the answer.
        let _unwanted = done.send(call());
    });
    if let Err(error) = thread {
        return Err(Error::io("start a thread to", std::path::Path::new(what), &error));
    }
    match tokio::time::timeout(limit, result).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panicked)) => Err(Error::Protocol { why: format!("{what}: the thread panicked") }),
        Err(_elapsed) => Err(Error::Deadline { what, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hanging_call_is_given_up_and_a_quick_one_is_not() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let stuck = within("stuck", Duration::from_millis(20), move || {
            let _ended = held.recv();
            Ok(())
        });
        assert!(matches!(stuck.await, Err(Error::Deadline { what: "stuck", .. })));
        drop(hold);
        assert_eq!(within("quick", Duration::from_secs(5), || Ok(7)).await.expect("ends"), 7);
    }
}
