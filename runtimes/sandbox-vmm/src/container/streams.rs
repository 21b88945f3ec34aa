//! A process's standard streams: one connection to the guest for each, relayed to what containerd
//! listens to.

use std::io::Write;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::sys::socket::{Shutdown, shutdown};
use trefoil_agent_protocol::{STREAM_PORT, service};
use trefoil_core::{Context, Result, Stdio};
use trefoil_os::relay::Stream;
use trefoil_os::relays::Relays;

use crate::guest::Guest;

/// The host's side of the streams.
#[derive(Debug, Default)]
pub(crate) struct Streams(Relays);

impl Streams {
    /// Connects what containerd wants of a process that is about to be made: the streams, and how the
    /// request for the process names them.
    pub async fn connect(guest: &Guest, stdio: Stdio) -> Result<(Self, service::Streams)> {
        let doing = || "connect the process's streams";
        // The guest reads the end only from a connection that is still there.
        let finish = |to: &Stream| {
            let _ = shutdown(to.as_fd().as_raw_fd(), Shutdown::Write);
        };
        let streams = Self::default();
        let mut names = service::Streams {
            terminal: stdio.terminal,
            ..Default::default()
        };
        if let Some(input) = stdio.stdin {
            let (number, stream) = connect(guest).await?;
            streams
                .input(input.read, input.hold, stream, finish)
                .context(doing)?;
            names.stdin = number;
        }
        if let Some(output) = stdio.stdout {
            let (number, stream) = connect(guest).await?;
            streams
                .output(stream, output.write, output.hold)
                .context(doing)?;
            names.stdout = number;
        }
        // A terminal has one output.
        if let Some(output) = stdio.stderr.filter(|_| !stdio.terminal) {
            let (number, stream) = connect(guest).await?;
            streams
                .output(stream, output.write, output.hold)
                .context(doing)?;
            names.stderr = number;
        }
        Ok((streams, names))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

impl Deref for Streams {
    type Target = Relays;

    fn deref(&self) -> &Relays {
        &self.0
    }
}

/// A connection that the guest will know by its number.
async fn connect(guest: &Guest) -> Result<(u32, Arc<Stream>)> {
    let number = guest.next_stream();
    let mut stream = guest.machine.connect(STREAM_PORT).await?;
    // It is new: it takes four bytes.
    stream
        .write_all(&number.to_le_bytes())
        .context(|| format!("name stream {number} to the guest"))?;
    let stream = Stream::new(stream.into()).context(|| format!("watch stream {number}"))?;
    Ok((number, Arc::new(stream)))
}
