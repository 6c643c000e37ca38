//! Before a tree is cloned, mounts write back what they hold of it.

use std::time::Duration;

use stead_base::Ino;
use stead_meta::ops::Meta;
use tracing::warn;

/// So long mounts may take, after which the clone has what is there by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until all mounts have written back what they hold of these trees, or long enough.
pub(super) async fn write_back(meta: &Meta, trees: &[Ino]) {
    match meta.request_flush(trees, PATIENCE).await {
        Ok(silent) => {
            for session in silent {
                let info = String::from_utf8_lossy(&session.info);
                warn!(sid = %session.sid, %info, "a mount has not written back in time: what it holds is not in the copy");
            }
        }
        Err(error) => warn!(%error, "mounts cannot be asked to write back: what they hold is not in the copy"),
    }
}
