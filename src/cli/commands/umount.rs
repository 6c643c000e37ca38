//! `stead umount`: takes a mount away; what was acknowledged has been flushed when files were closed.

use std::path::Path;
use std::time::Duration;

use stead_keeper::{mount, umount_unprivileged, within};
use stead_upkeep::Unit;

use super::stats;
use crate::args::UmountArgs;
use crate::exit::Failure;
use crate::progress;

/// A busy or dead server must not hang the command.
const DEADLINE: Duration = Duration::from_secs(30);
/// A mount that does not tell its figures by then has none to tell.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a mount is asked what it has not uploaded yet.
const POLL: Duration = Duration::from_millis(200);

pub(crate) async fn run(args: &UmountArgs) -> Result<(), Failure> {
    let shown = args.mount_point.display();
    let dir = std::path::absolute(&args.mount_point).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let root = mount::root_of(&dir).map_err(|error| Failure::general(error.to_string()))?;
    if root.is_none() {
        return Err(Failure::usage(format!("{shown} is no mounted volume")));
    }
    if args.flush {
        uploaded(&dir).await?;
    } else {
        tell_of_staged(&dir).await;
    }
    let (force, privileged) = (args.force, nix::unistd::geteuid().is_root());
    let unmounted = within("unmount", DEADLINE, move || {
        if privileged { mount::umount(&dir, force) } else { umount_unprivileged(&dir, force) }
    });
    unmounted.await.map_err(|error| Failure::general(format!("{shown}: {error}; --force detaches a busy mount")))
}

/// What stays on this machine, as far as a mount that may be dead says so.
async fn tell_of_staged(mount: &Path) {
    let mount = mount.to_owned();
    let asked =
        within("figures", ANSWER, move || Ok(stats::count(&mount, "staging_blocks").ok().filter(|staged| *staged > 0)));
    if let Ok(Some(staged)) = asked.await {
        eprintln!(
            "blocks staged and not uploaded: {staged}; the next mount with this cache directory does it, --flush waits for it"
        );
    }
}

/// Waits until nothing is staged any more, however long the mount's options make it wait.
async fn uploaded(mount: &Path) -> Result<(), Failure> {
    let staged = || stats::count(mount, "staging_blocks");
    let mut left = staged()?;
    let meter = progress::shown().part("blocks uploaded", Unit::Items, Some(left));
    while left > 0 {
        tokio::time::sleep(POLL).await;
        let now = staged()?;
        meter.add(left.saturating_sub(now));
        left = now;
    }
    Ok(())
}
