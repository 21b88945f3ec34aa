//! A process's standard streams: one connection to the guest for each, relayed to what containerd
//! listens to.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{Shutdown, shutdown};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use trefoil_agent_protocol::{STREAM_PORT, service};
use trefoil_core::relay::{self, Stream};
use trefoil_core::{Context, Input, Output, Result, Stdio};

use crate::guest::Guest;

/// The host's side of the streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    output: Mutex<Vec<JoinHandle<()>>>,
    input: Mutex<Option<JoinHandle<()>>>,
    /// While it is there, input does not end though all its writers have gone.
    hold: Mutex<Option<OwnedFd>>,
    input_closed: Arc<Notify>,
}

impl Streams {
    /// Connects what containerd wants of a process that is about to be made: the streams, and how the
    /// request for the process names them.
    pub async fn connect(guest: &Guest, stdio: Stdio) -> Result<(Self, service::Streams)> {
        let doing = || "connect the process's streams";
        let streams = Self::default();
        let mut names = service::Streams {
            terminal: stdio.terminal,
            ..Default::default()
        };
        if let Some(input) = stdio.stdin {
            let (number, stream) = connect(guest).await?;
            streams.relay_input(input, stream).context(doing)?;
            names.stdin = number;
        }
        if let Some(output) = stdio.stdout {
            let (number, stream) = connect(guest).await?;
            streams.relay_output(stream, output).context(doing)?;
            names.stdout = number;
        }
        // A terminal has one output.
        if let Some(output) = stdio.stderr.filter(|_| !stdio.terminal) {
            let (number, stream) = connect(guest).await?;
            streams.relay_output(stream, output).context(doing)?;
            names.stderr = number;
        }
        Ok((streams, names))
    }

    fn relay_output(&self, from: OwnedFd, to: Output) -> std::io::Result<()> {
        let Output { write, hold } = to;
        let from = Stream::new(from)?;
        let write = Stream::new(write)?;
        let relay = tokio::spawn(async move {
            if let Err(why) = relay::copy(&from, &write).await {
                log::debug!("relay output: {why}");
            }
            // Only now may the reader see the end.
            drop((write, hold));
        });
        lock(&self.output).push(relay);
        Ok(())
    }

    fn relay_input(&self, from: Input, to: OwnedFd) -> std::io::Result<()> {
        let Input { read, hold } = from;
        let read = Stream::new(read)?;
        let to = Stream::new(to)?;
        *lock(&self.hold) = hold;
        let closed = self.input_closed.clone();
        let relay = tokio::spawn(async move {
            // A process that doesn't read all its input is no failure.
            let _ = relay::copy_until(&read, &to, &closed).await;
            let _ = shutdown(to.as_fd().as_raw_fd(), Shutdown::Write);
        });
        *lock(&self.input) = Some(relay);
        Ok(())
    }

    /// Resolves when all output has been handed on.
    pub async fn drain(&self) {
        let relays = std::mem::take(&mut *lock(&self.output));
        let mut relays = Unfinished {
            relays,
            streams: self,
        };
        while let Some(relay) = relays.relays.last_mut() {
            let _ = relay.await;
            relays.relays.pop();
        }
    }

    /// Lets go of everything.
    pub fn close(&self) {
        for relay in lock(&self.output).drain(..) {
            relay.abort();
        }
        self.end_input();
    }

    /// The process is to see the end of its input, after all that has been sent to it.
    pub fn close_input(&self) {
        *lock(&self.hold) = None;
        self.input_closed.notify_one();
    }

    /// The process reads no more.
    pub fn end_input(&self) {
        *lock(&self.hold) = None;
        if let Some(relay) = lock(&self.input).take() {
            relay.abort();
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.close();
    }
}

/// A connection that the guest will know by its number.
async fn connect(guest: &Guest) -> Result<(u32, OwnedFd)> {
    let number = guest.next_stream();
    let mut stream = guest.machine.connect(STREAM_PORT).await?;
    // It is new: it takes four bytes.
    stream
        .write_all(&number.to_le_bytes())
        .context(|| format!("name stream {number} to the guest"))?;
    Ok((number, stream.into()))
}

/// Puts the relays back that were being waited for when the wait was given up.
struct Unfinished<'a> {
    relays: Vec<JoinHandle<()>>,
    streams: &'a Streams,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        lock(&self.streams.output).append(&mut self.relays);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
