//! What the probe itself needs.

use nix::mount::{MsFlags, mount};

use crate::request::While;

/// Mounts the kernel's file systems.
pub(crate) fn make() -> Result<(), String> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
    ] {
        mount(Some(kind), at, Some(kind), plain, None::<&str>)
            .during(format_args!("mounting {at}"))?;
    }
    Ok(())
}
