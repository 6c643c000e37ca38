//! `stead umount`: takes a mount away; what was acknowledged has been flushed when files were closed.

use std::time::Duration;

use stead_keeper::{mount, umount_unprivileged, within};

use crate::args::UmountArgs;
use crate::exit::Failure;

/// A busy or dead server must not hang the command.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: &UmountArgs) -> Result<(), Failure> {
    let shown = args.mount_point.display();
    let dir = std::path::absolute(&args.mount_point).map_err(|error| Failure::usage(format!("{shown}: {error}")))?;
    let root = mount::root_of(&dir).map_err(|error| Failure::general(error.to_string()))?;
    if root.is_none() {
        return Err(Failure::usage(format!("{shown} is no mounted volume")));
    }
    let (force, privileged) = (args.force, nix::unistd::geteuid().is_root());
    let unmounted = within("unmount", DEADLINE, move || {
        if privileged { mount::umount(&dir, force) } else { umount_unprivileged(&dir, force) }
    });
    unmounted.await.map_err(|error| Failure::general(format!("{shown}: {error}; --force detaches a busy mount")))
}
