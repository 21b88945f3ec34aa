//! The socket over which libcontainer hands over the master of a container's terminal.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use oci_spec::runtime::Spec;
use trefoil_core::{Context, Error, Result};

use crate::state::State;
use crate::terminal;

/// Where libcontainer sends the terminal's master.
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Makes the socket, in the container's state.
    pub fn new(state: &State) -> Result<Self> {
        // A socket's name is short, a bundle's path may not be: bind from within.
        let name = Path::new("console.sock");
        let doing = || "make the terminal's socket";
        let before = std::env::current_dir().context(doing)?;
        std::env::set_current_dir(state.root()).context(doing)?;
        let listener = UnixListener::bind(name);
        std::env::set_current_dir(before).context(doing)?;
        Ok(Self {
            path: state.root().join(name),
            listener: listener.context(doing)?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the master, and sets its size to what the configuration says.
    pub fn receive(self, spec: &Spec) -> Result<OwnedFd> {
        let doing = || "receive the terminal";
        let (stream, _) = self.listener.accept().context(doing)?;
        let mut space = cmsg_space!([RawFd; 1]);
        let mut buffer = [0; 64];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<UnixAddr>(
            stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .context(doing)?;
        let master = message
            .cmsgs()
            .context(doing)?
            .find_map(|control| match control {
                ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                _ => None,
            })
            .ok_or_else(|| Error::internal("receive the terminal: none was sent"))?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let master = unsafe { OwnedFd::from_raw_fd(master) };
        if let Some(size) = spec
            .process()
            .as_ref()
            .and_then(|process| process.console_size())
        {
            let size = trefoil_core::TerminalSize {
                width: u16::try_from(size.width()).unwrap_or(u16::MAX),
                height: u16::try_from(size.height()).unwrap_or(u16::MAX),
            };
            terminal::set_size(master.as_fd(), size).context(|| "set the terminal's size")?;
        }
        Ok(master)
    }
}
