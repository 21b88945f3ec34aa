//! The streams of processes: connections that the host makes ahead of the request that names them.
//!
//! The host connects to [`STREAM_PORT`], writes a number, and names the number in a request; whichever
//! comes first waits for the other, and neither for long.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use trefoil_agent_protocol::{STREAM_PORT, service};
use trefoil_core::{Context, Error, ErrorKind, Input, Output, Result, Stdio};
use trefoil_os::lock;

use crate::vsock::{Port, read_exactly};

/// How long a connection waits for its number, for the request that names it, and a request for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that wait for one or the other at a time. One process has three.
const MOST: usize = 256;

/// What is known of a number.
enum Slot {
    /// Its connection is here; which of those that had the number it is.
    Arrived(OwnedFd, u64),
    /// A request waits for it.
    Awaited(oneshot::Sender<OwnedFd>),
}

/// The connections that nobody has asked for, and the requests that wait for one.
#[derive(Clone, Default)]
pub(crate) struct Streams {
    slots: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<u32, Slot>,
    /// How many have arrived so far.
    arrived: u64,
}

impl Streams {
    /// Takes the host's connections from now on. Must be called within the event loop.
    ///
    /// # Errors
    /// What listening fails with.
    pub(crate) fn serve(&self) -> Result<()> {
        let doing = || format!("listen on vsock port {STREAM_PORT}");
        let port = Port::listen(STREAM_PORT).context(doing)?;
        let (streams, nameless) = (self.clone(), Arc::new(Semaphore::new(MOST)));
        tokio::spawn(port.serve(move |stream| {
            // Beyond that they are closed: a host that means it connects again.
            let Ok(permit) = nameless.clone().try_acquire_owned() else {
                return;
            };
            let streams = streams.clone();
            tokio::spawn(async move {
                let named = timeout(PATIENCE, read_exactly(stream)).await;
                drop(permit);
                if let Ok(Ok((stream, number))) = named {
                    streams.arrive(u32::from_le_bytes(number), stream).await;
                }
            });
        }));
        Ok(())
    }

    /// Takes the connection of a number, and forgets it if no request names it soon. One whose number is
    /// zero or belongs to another that waits is closed.
    async fn arrive(&self, number: u32, stream: OwnedFd) {
        let ticket = {
            let mut table = lock(&self.slots);
            match table.slots.remove(&number) {
                // A request that has given up meanwhile closes it.
                Some(Slot::Awaited(request)) => {
                    drop(request.send(stream));
                    return;
                }
                Some(arrived @ Slot::Arrived(..)) => {
                    table.slots.insert(number, arrived);
                    log::warn!("stream {number} is here already");
                    return;
                }
                None if number == 0 || table.slots.len() >= MOST => return,
                None => {}
            }
            table.arrived += 1;
            let ticket = table.arrived;
            table.slots.insert(number, Slot::Arrived(stream, ticket));
            ticket
        };
        tokio::time::sleep(PATIENCE).await;
        let mut table = lock(&self.slots);
        let still_here =
            matches!(table.slots.get(&number), Some(Slot::Arrived(_, its)) if *its == ticket);
        if still_here {
            table.slots.remove(&number);
        }
    }

    /// The connection of a number, which is free again then.
    async fn claim(&self, number: u32) -> Result<OwnedFd> {
        let connection = {
            let mut table = lock(&self.slots);
            match table.slots.remove(&number) {
                Some(Slot::Arrived(stream, _)) => return Ok(stream),
                Some(awaited @ Slot::Awaited(_)) => {
                    table.slots.insert(number, awaited);
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!("stream {number}: another request waits for it"),
                    ));
                }
                None if table.slots.len() >= MOST => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        format!("stream {number}: too many are being waited for"),
                    ));
                }
                None => {}
            }
            let (give, connection) = oneshot::channel();
            table.slots.insert(number, Slot::Awaited(give));
            connection
        };
        let _forget = Forget(self, number);
        match timeout(PATIENCE, connection).await {
            Ok(Ok(stream)) => Ok(stream),
            _ => Err(Error::precondition(format!(
                "stream {number}: no connection came with that number within {PATIENCE:?}"
            ))),
        }
    }

    /// The streams that a request names, as a process is to have them.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if a number is there twice, or an error output beside a terminal;
    /// others if a connection does not come.
    pub(crate) async fn open(&self, wanted: &service::Streams) -> Result<Stdio> {
        let numbers = [wanted.stdin, wanted.stdout, wanted.stderr];
        for (place, number) in numbers.iter().enumerate() {
            if *number != 0 && numbers[..place].contains(number) {
                return Err(Error::invalid(format!(
                    "stream {number} is named twice in one request"
                )));
            }
        }
        if wanted.terminal && wanted.stderr != 0 {
            return Err(Error::invalid(
                "a terminal has one output, but stderr is named",
            ));
        }
        let claim = async |number| match number {
            0 => Ok(None),
            number => self.claim(number).await.map(Some),
        };
        let output = |stream| Output {
            write: stream,
            hold: None,
        };
        Ok(Stdio {
            terminal: wanted.terminal,
            stdin: claim(wanted.stdin).await?.map(|stream| Input {
                read: stream,
                hold: None,
            }),
            stdout: claim(wanted.stdout).await?.map(output),
            stderr: claim(wanted.stderr).await?.map(output),
        })
    }
}

/// A request's slot, which goes with the request if it is empty still.
struct Forget<'a>(&'a Streams, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let Self(streams, number) = self;
        let mut table = lock(&streams.slots);
        // A connection that came has emptied it, and then it may be another's by now.
        if let Some(Slot::Awaited(request)) = table.slots.get(number)
            && request.is_closed()
        {
            table.slots.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A connection: the agent's end and the host's.
    fn pair() -> (OwnedFd, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("nonblocking");
        (ours.into(), theirs)
    }

    fn is_closed(mut host: &UnixStream) -> bool {
        host.set_nonblocking(true).expect("nonblocking");
        matches!(host.read(&mut [0]), Ok(0))
    }

    fn wanted(stdin: u32, stdout: u32, stderr: u32) -> service::Streams {
        service::Streams {
            stdin,
            stdout,
            stderr,
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn either_may_come_first() {
        let streams = Streams::default();
        let ((one, mut of_one), (two, mut of_two)) = (pair(), pair());
        let arriving = streams.clone();
        tokio::spawn(async move { arriving.arrive(1, one).await });
        tokio::task::yield_now().await;
        let arriving = streams.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE / 2).await;
            arriving.arrive(2, two).await;
        });
        let stdio = streams.open(&wanted(1, 2, 0)).await.expect("both");
        of_one.write_all(b"in").expect("write");
        let mut got = [0; 2];
        nix::unistd::read(stdio.stdin.expect("stdin").read, &mut got).expect("read");
        assert_eq!(&got, b"in");
        nix::unistd::write(stdio.stdout.expect("stdout").write, b"out").expect("write");
        let mut text = String::new();
        of_two.read_to_string(&mut text).expect("read");
        assert_eq!(text, "out");
        assert!(stdio.stderr.is_none());
        assert!(lock(&streams.slots).slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_closed_and_free_again() {
        let streams = Streams::default();
        let (first, host) = pair();
        streams.arrive(7, first).await;
        assert!(is_closed(&host));
        let why = streams.open(&wanted(7, 0, 0)).await.expect_err("too late");
        assert_eq!(why.kind(), ErrorKind::FailedPrecondition);
        assert!(lock(&streams.slots).slots.is_empty());
        let (second, host) = pair();
        let arriving = streams.clone();
        tokio::spawn(async move { arriving.arrive(7, second).await });
        let stdio = streams.open(&wanted(7, 0, 0)).await.expect("a new one");
        assert!(!is_closed(&host));
        drop(stdio);
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_belongs_to_one_connection_and_one_request() {
        let streams = Streams::default();
        let ((first, of_first), (second, of_second)) = (pair(), pair());
        let arriving = streams.clone();
        tokio::spawn(async move { arriving.arrive(3, first).await });
        tokio::task::yield_now().await;
        streams.arrive(3, second).await;
        assert!(is_closed(&of_second) && !is_closed(&of_first));
        let why = streams.open(&wanted(4, 4, 0)).await.expect_err("twice");
        assert_eq!(why.kind(), ErrorKind::InvalidArgument);
        let waiting = streams.clone();
        let first = tokio::spawn(async move { waiting.open(&wanted(5, 0, 0)).await.map(drop) });
        tokio::task::yield_now().await;
        let why = streams.open(&wanted(5, 0, 0)).await.expect_err("taken");
        assert_eq!(why.kind(), ErrorKind::AlreadyExists);
        let (stream, _host) = pair();
        streams.arrive(5, stream).await;
        first.await.expect("task").expect("the first has it");
        let (zero, host) = pair();
        streams.arrive(0, zero).await;
        assert!(is_closed(&host));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_leaves_nothing() {
        let streams = Streams::default();
        let outcome = timeout(PATIENCE / 2, streams.open(&wanted(9, 0, 0))).await;
        assert!(outcome.is_err());
        assert!(lock(&streams.slots).slots.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_wait_than_are_bounded() {
        let streams = Streams::default();
        let mut hosts = Vec::new();
        for number in 1..=u32::try_from(MOST).expect("few") + 1 {
            let (stream, host) = pair();
            hosts.push(host);
            let arriving = streams.clone();
            tokio::spawn(async move { arriving.arrive(number, stream).await });
            tokio::task::yield_now().await;
        }
        let closed = hosts.iter().filter(|host| is_closed(host)).count();
        assert_eq!((closed, lock(&streams.slots).slots.len()), (1, MOST));
        let why = streams.open(&wanted(9999, 0, 0)).await.expect_err("full");
        assert_eq!(why.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_terminal_has_no_error_output() {
        let streams = Streams::default();
        let mut wanted = wanted(0, 0, 1);
        wanted.terminal = true;
        let why = streams.open(&wanted).await.expect_err("stderr");
        assert_eq!(why.kind(), ErrorKind::InvalidArgument);
    }
}
