//! The relays of one process's standard streams: between what a client listens to and what the process
//! itself has, wherever that is.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::lock;
use crate::relay::{self, Stream};

/// Tasks of the event loop, which all methods must be called within. Dropping lets them go on until
/// their streams end; [`Relays::close`] ends them.
#[derive(Debug, Default)]
pub struct Relays {
    output: Mutex<Vec<JoinHandle<()>>>,
    input: Mutex<Option<JoinHandle<()>>>,
    /// While it is there, input does not end though all its writers have gone.
    hold: Mutex<Option<OwnedFd>>,
    input_closed: Arc<Notify>,
}

impl Relays {
    /// Relays what the process prints to `write`. It and `hold` are let go of only after the last byte.
    ///
    /// # Errors
    /// If a descriptor can't be made to wait for.
    pub fn output(
        &self,
        from: Arc<Stream>,
        write: OwnedFd,
        hold: Option<OwnedFd>,
    ) -> io::Result<()> {
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

    /// Relays what the process reads from `read`, of which `hold` is a writing end of ours or nothing: it
    /// is let go of when the input is to end. At its end `to` is let go of, after `finish` has seen it.
    ///
    /// # Errors
    /// If a descriptor can't be made to wait for.
    pub fn input(
        &self,
        read: OwnedFd,
        hold: Option<OwnedFd>,
        to: Arc<Stream>,
        finish: impl FnOnce(&Stream) + Send + 'static,
    ) -> io::Result<()> {
        let read = Stream::new(read)?;
        *lock(&self.hold) = hold;
        let closed = self.input_closed.clone();
        let relay = tokio::spawn(async move {
            // A process that doesn't read all its input is no failure.
            let _ = relay::copy_until(&read, &to, &closed).await;
            finish(&to);
        });
        *lock(&self.input) = Some(relay);
        Ok(())
    }

    /// Resolves when all output has been handed on. May be given up and called again.
    pub async fn drain(&self) {
        let relays = std::mem::take(&mut *lock(&self.output));
        let mut unfinished = Unfinished { relays, of: self };
        while let Some(relay) = unfinished.relays.last_mut() {
            let _ = relay.await;
            unfinished.relays.pop();
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

/// Puts the relays back that were being waited for when the wait was given up.
struct Unfinished<'a> {
    relays: Vec<JoinHandle<()>>,
    of: &'a Relays,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        lock(&self.of.output).append(&mut self.relays);
    }
}
