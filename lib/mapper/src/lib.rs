//! Linux's device mapper, by its ioctls: block devices that the kernel makes of others. There is what a
//! guest needs whose disks are somebody else's: [`Verity`], [`Integrity`] and [`Crypt`].
//!
//! A [`Device`] is there until it is dropped. Its node is the kernel's own, `/dev/dm-<number>`, which
//! devtmpfs makes; nothing here waits for udev.
//!
//! Start reading at [`Device::create`]; what is said to the kernel and how is in [`message`].

mod message;
mod target;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use message::{Command, Message};
use trefoil_os::{Context, Result};

pub use target::{Crypt, Integrity, Key, Target, Verity};

/// Where the device mapper is asked.
const CONTROL: &str = "/dev/mapper/control";

/// What a sector is in all that is said to the kernel, in bytes.
pub const SECTOR: u64 = 512;

/// A device that the kernel has made. It is removed when this is dropped; nothing may be mounted of it by
/// then.
#[derive(Debug)]
pub struct Device {
    name: String,
    minor: u32,
}

impl Device {
    /// Makes a device of a name that no other has, of one target, and lets it run.
    ///
    /// # Errors
    /// The kernel's refusal; [invalid](trefoil_os::Error::is_invalid) if the name is none. Nothing is left
    /// then.
    pub fn create(name: &str, target: &Target) -> Result<Self> {
        let doing = || format!("make the {} device {name}", target.kind());
        let control = File::options()
            .read(true)
            .write(true)
            .open(CONTROL)
            .context(|| format!("open {CONTROL}"))?;
        let mut created = Message::of(name).map_err(|why| why.context(doing()))?;
        call(&control, Command::Create, &mut created).context(doing)?;
        // From here on it is undone by dropping.
        let device = Self {
            name: name.to_owned(),
            minor: created.minor(),
        };
        let mut table = Message::of(name)?.with_table(target)?;
        call(&control, Command::Load, &mut table).context(doing)?;
        let mut resume = Message::of(name)?;
        call(&control, Command::Suspend, &mut resume).context(doing)?;
        Ok(device)
    }

    /// Its node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/dev/dm-{}", self.minor).into()
    }

    fn take_away(&self) -> Result<()> {
        let doing = || format!("remove the device {}", self.name);
        let control = File::open(CONTROL).context(doing)?;
        let mut message = Message::of(&self.name)?;
        call(&control, Command::Remove, &mut message).context(doing)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // There is nobody to hear of it. A device that is open or mounted stays until the guest ends.
        let _ = self.take_away();
    }
}

/// Asks the kernel.
fn call(control: &File, command: Command, message: &mut Message) -> io::Result<()> {
    let bytes = message.bytes();
    // SAFETY: the call reads and writes a `struct dm_ioctl` and what follows it, no further than the
    // `data_size` in it says, which `Message` has set to the buffer's length; the buffer is aligned as the
    // structure is, and lives until after.
    match unsafe { libc::ioctl(control.as_raw_fd(), command.number(), bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests;
