//! Usage of a published volume, asked for where a hanging volume can do no harm.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stead_keeper::{mount, within};

use crate::error::{Error, Result};
use crate::proto::VolumeUsage;
use crate::proto::volume_usage::Unit;

const LIMIT: Duration = Duration::from_secs(5);

/// Asks for usage, one call per path at a time: a volume that hangs holds one thread, not one per call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    asking: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Stats {
    pub(crate) async fn usage(&self, path: &Path) -> Result<Vec<VolumeUsage>> {
        if !self.asking.lock().insert(path.to_owned()) {
            return Err(Error::Hanging { path: path.to_owned() });
        }
        let (asking, asked) = (Arc::clone(&self.asking), path.to_owned());
        let usage = within("statfs", LIMIT, move || {
            let usage = mount::usage(&asked);
            asking.lock().remove(&asked);
            usage
        })
        .await?;
        let unit = usage.fragment_size();
        let bytes = measure(Unit::Bytes, usage.blocks(), usage.blocks_free(), usage.blocks_available(), unit);
        let inodes = measure(Unit::Inodes, usage.files(), usage.files_free(), usage.files_available(), 1);
        Ok(vec![bytes, inodes])
    }
}

fn measure(unit: Unit, total: u64, free: u64, available: u64, size: u64) -> VolumeUsage {
    let scaled = |count: u64| i64::try_from(count.saturating_mul(size)).unwrap_or(i64::MAX);
    VolumeUsage {
        unit: unit.into(),
        total: scaled(total),
        available: scaled(available),
        used: scaled(total.saturating_sub(free)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_and_inodes_are_told() {
        let usage = Stats::default().usage(Path::new("/tmp")).await.expect("a file system");
        assert_eq!(usage.len(), 2);
        assert_eq!((usage[0].unit, usage[1].unit), (Unit::Bytes.into(), Unit::Inodes.into()));
        assert!(usage[0].total > 0 && usage[0].used + usage[0].available <= usage[0].total);
    }

    #[tokio::test]
    async fn a_path_that_hangs_is_not_asked_twice() {
        let stats = Stats::default();
        stats.asking.lock().insert("/hangs".into());
        let error = stats.usage(Path::new("/hangs")).await.expect_err("asked already");
        assert_eq!(error.code(), tonic::Code::Unavailable);
    }
}
