//! Connections, over TCP or vsock: opened, kept by a number, used and closed by it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{Shutdown, shutdown};
use trefoil_probe::pattern;

use crate::request::{Answer, Outcome, While, Words, facts, name};
use crate::vsock;

/// How much is read or written at once, unless a request says so.
const CHUNK: usize = 64 << 10;

/// What is open.
#[derive(Default)]
pub(crate) struct Streams {
    last: u32,
    open: BTreeMap<u32, File>,
    tcp: BTreeMap<u16, OwnedFd>,
    vsock: BTreeMap<u32, OwnedFd>,
}

impl Streams {
    /// Keeps connections; their numbers follow each other.
    fn keep(&mut self, streams: Vec<File>) -> Outcome {
        let (first, count) = (self.last + 1, streams.len());
        for stream in streams {
            self.last += 1;
            self.open.insert(self.last, stream);
        }
        facts!(first = first, count = count)
    }

    fn get(&self, number: u32) -> Result<&File, String> {
        self.open
            .get(&number)
            .ok_or_else(|| format!("there is no connection {number}"))
    }

    /// The connection that the next word names.
    fn named(&self, words: &mut Words<'_>) -> Result<(u32, &File), String> {
        let number = words.parse("which connection")?;
        Ok((number, self.get(number)?))
    }

    /// `tcp-connect ADDRESS PORT [COUNT]`
    pub(crate) fn tcp_connect(&mut self, words: &mut Words<'_>) -> Outcome {
        let address: Ipv4Addr = words.parse("an address")?;
        let port: u16 = words.parse("a port")?;
        let count: u32 = words.parse_or("how many", 1)?;
        words.end()?;
        let mut streams = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect((address, port))
                .during(format_args!("connecting to {address}:{port}"))?;
            streams.push(File::from(OwnedFd::from(stream)));
        }
        self.keep(streams)
    }

    /// `tcp-listen PORT`
    pub(crate) fn tcp_listen(&mut self, words: &mut Words<'_>) -> Outcome {
        let port: u16 = words.parse("a port")?;
        words.end()?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
            .during(format_args!("listening on port {port}"))?;
        self.tcp.insert(port, listener.into());
        Answer::done()
    }

    /// `tcp-accept PORT [COUNT]`
    pub(crate) fn tcp_accept(&mut self, words: &mut Words<'_>) -> Outcome {
        let port: u16 = words.parse("a port")?;
        let streams = accept(self.tcp.get(&port), words)?;
        self.keep(streams)
    }

    /// `vsock-connect CID PORT [COUNT]`
    pub(crate) fn vsock_connect(&mut self, words: &mut Words<'_>) -> Outcome {
        let cid: u32 = words.parse("a context id")?;
        let port: u32 = words.parse("a port")?;
        let count: u32 = words.parse_or("how many", 1)?;
        words.end()?;
        let mut streams = Vec::new();
        for number in 0..count {
            let stream = vsock::connect_to(cid, port)
                .map_err(|why| format!("connection {number} of {count}: {why}"))?;
            streams.push(stream);
        }
        self.keep(streams)
    }

    /// `vsock-listen PORT`
    pub(crate) fn vsock_listen(&mut self, words: &mut Words<'_>) -> Outcome {
        let port: u32 = words.parse("a port")?;
        words.end()?;
        self.vsock.insert(port, vsock::listen_on(port)?);
        Answer::done()
    }

    /// `vsock-accept PORT [COUNT]`
    pub(crate) fn vsock_accept(&mut self, words: &mut Words<'_>) -> Outcome {
        let port: u32 = words.parse("a port")?;
        let streams = accept(self.vsock.get(&port), words)?;
        self.keep(streams)
    }

    /// `send CONNECTION BYTES SEED`
    pub(crate) fn send(&mut self, words: &mut Words<'_>) -> Outcome {
        let (number, stream) = self.named(words)?;
        let bytes: u64 = words.parse("how many bytes")?;
        let seed: u64 = words.parse("a seed")?;
        words.end()?;
        send(stream, bytes, seed).map_err(|why| format!("connection {number}: {why}"))?;
        Answer::done()
    }

    /// `receive CONNECTION BYTES SEED`: they must be the seed's.
    pub(crate) fn receive(&mut self, words: &mut Words<'_>) -> Outcome {
        let (number, stream) = self.named(words)?;
        let bytes: u64 = words.parse("how many bytes")?;
        let seed: u64 = words.parse("a seed")?;
        words.end()?;
        receive(stream, bytes, seed).map_err(|why| format!("connection {number}: {why}"))?;
        Answer::done()
    }

    /// `echo CONNECTION`: sends what it receives, until the peer sends no more; then neither does
    /// it.
    pub(crate) fn echo(&mut self, words: &mut Words<'_>) -> Outcome {
        let (_, mut stream) = self.named(words)?;
        words.end()?;
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0u64;
        loop {
            let count = stream
                .read(&mut buffer)
                .during(format_args!("receiving after {bytes} bytes"))?;
            if count == 0 {
                shutdown(stream.as_raw_fd(), Shutdown::Write).during("shutting the connection")?;
                return facts!(bytes = bytes);
            }
            stream
                .write_all(buffer.get(..count).unwrap_or_default())
                .during(format_args!("sending after {bytes} bytes"))?;
            bytes += count as u64;
        }
    }

    /// `exchange FIRST COUNT BYTES SEED`: with a peer that echoes on each of these connections,
    /// sends while it receives. Each has a seed of its own, the first the one given.
    pub(crate) fn exchange(&mut self, words: &mut Words<'_>) -> Outcome {
        let first: u32 = words.parse("the first connection")?;
        let count: u32 = words.parse("how many connections")?;
        let bytes: u64 = words.parse("how many bytes")?;
        let seed: u64 = words.parse("a seed")?;
        words.end()?;
        let mut streams = Vec::new();
        for number in 0..count {
            streams.push((self.get(first + number)?, seed + u64::from(number)));
        }
        let streams = &streams;
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                streams
                    .iter()
                    .try_for_each(|(stream, seed)| send(stream, bytes, *seed))
            });
            let received = (first..)
                .zip(streams)
                .try_for_each(|(number, (stream, seed))| {
                    receive(stream, bytes, *seed)
                        .map_err(|why| format!("connection {number}: {why}"))
                });
            if received.is_err() {
                // The sender may be waiting for a peer that waits for us.
                for (stream, _) in streams {
                    let _ = shutdown(stream.as_raw_fd(), Shutdown::Both);
                }
            }
            let sent = sender.join().map_err(|_| "the sending thread died")?;
            received.and(sent)
        })?;
        Answer::done()
    }

    /// `load CONNECTION send|receive BYTES [CHUNK]`: as fast as it can, with nothing in the bytes.
    /// Whoever received all of them sends one byte, and with it the time ends.
    pub(crate) fn load(&mut self, words: &mut Words<'_>) -> Outcome {
        let (_, mut stream) = self.named(words)?;
        let direction = words.word("a direction")?;
        let bytes: u64 = words.parse("how many bytes")?;
        let mut buffer = vec![0; words.parse_or("a chunk", CHUNK)?];
        words.end()?;
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let part = part_of(&mut buffer, left);
            let count = match direction {
                "send" => stream.write(part).during("sending")?,
                "receive" => stream.read(part).during("receiving")?,
                other => return Err(format!("{other:?} is neither send nor receive")),
            };
            if count == 0 {
                return Err(format!("EOF with {left} of {bytes} bytes to go"));
            }
            left -= count as u64;
        }
        if direction == "send" {
            let acknowledged = stream.read_exact(&mut [0]);
            acknowledged.during("waiting for the peer to have received it")?;
        } else {
            stream.write_all(&[0]).during("saying that all is there")?;
        }
        facts!(nanoseconds = began.elapsed().as_nanos())
    }

    /// `shut CONNECTION write|read|both`
    pub(crate) fn shut(&mut self, words: &mut Words<'_>) -> Outcome {
        let (_, stream) = self.named(words)?;
        let how = match words.word("which way")? {
            "write" => Shutdown::Write,
            "read" => Shutdown::Read,
            "both" => Shutdown::Both,
            other => return Err(format!("{other:?} is no way to shut a connection")),
        };
        words.end()?;
        shutdown(stream.as_raw_fd(), how).during("shutting the connection")?;
        Answer::done()
    }

    /// `end CONNECTION`: reads on until no more comes, and says how much did and why no more does:
    /// `EOF`, or an error's name.
    pub(crate) fn end(&mut self, words: &mut Words<'_>) -> Outcome {
        let (_, mut stream) = self.named(words)?;
        words.end()?;
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0u64;
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return facts!(bytes = bytes, end = "EOF"),
                Ok(count) => bytes += count as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return facts!(bytes = bytes, end = name(&error)),
            }
        }
    }

    /// `close FIRST [COUNT]`
    pub(crate) fn close(&mut self, words: &mut Words<'_>) -> Outcome {
        let first: u32 = words.parse("the first connection")?;
        let count: u32 = words.parse_or("how many", 1)?;
        words.end()?;
        for number in (first..).take(count as usize) {
            self.get(number)?;
            self.open.remove(&number);
        }
        Answer::done()
    }
}

/// Connections that others have opened: as many as the next word says, or one.
fn accept(listener: Option<&OwnedFd>, words: &mut Words<'_>) -> Result<Vec<File>, String> {
    let listener = listener.ok_or("nobody listens on this port")?;
    let count: u32 = words.parse_or("how many", 1)?;
    words.end()?;
    (0..count)
        .map(|number| {
            vsock::accept_from(listener)
                .during(format_args!("accepting connection {number} of {count}"))
        })
        .collect()
}

/// As much of a buffer as is left to transfer.
fn part_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let part = buffer
        .len()
        .min(usize::try_from(left).unwrap_or(usize::MAX));
    buffer.get_mut(..part).unwrap_or_default()
}

/// Sends a pattern.
fn send(mut stream: &File, bytes: u64, seed: u64) -> Result<(), String> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        let part = part_of(&mut buffer, bytes - done);
        pattern::fill(seed, done, part);
        stream.write_all(part).during(format_args!(
            "sending after {done} of {bytes} bytes or more"
        ))?;
        done += part.len() as u64;
    }
    Ok(())
}

/// Receives a pattern.
fn receive(mut stream: &File, bytes: u64, seed: u64) -> Result<(), String> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < bytes {
        let part = part_of(&mut buffer, bytes - done);
        let count = stream
            .read(part)
            .during(format_args!("receiving after {done} of {bytes} bytes"))?;
        if count == 0 {
            return Err(format!("receiving after {done} of {bytes} bytes: EOF"));
        }
        pattern::check(seed, done, part.get(..count).unwrap_or_default())
            .map_err(|difference| format!("what was received is not the pattern: {difference}"))?;
        done += count as u64;
    }
    Ok(())
}
