//! The guest's tx queue: packets from the guest.
//!
//! Data goes from the guest's buffers straight into the socket, of packets that follow one another
//! on the same connection with one call. Only what the socket does not take is buffered.

use super::host::Host;
use super::packet::{self, Header, Op};
use super::socket::{MAX_BUFFERS, Moved, Vectors};
use super::table::Place;
use crate::devices::Queue;
use trefoil_virtio::{Broken, Chain};

/// The most packets that one call writes.
const MANY: usize = 32;

/// The queue and the packets taken from it.
pub struct Transmit {
    /// The queue.
    pub queue: Queue,
    /// As many as `filled` hold data for the connection at `place`; the one after them is being
    /// looked at.
    chains: Vec<Chain>,
    filled: usize,
    place: Option<Place>,
    vectors: Vectors,
    used: Vec<(u16, u32)>,
}

impl Transmit {
    /// Nothing is taken yet.
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            chains: Vec::new(),
            filled: 0,
            place: None,
            vectors: Vectors::default(),
            used: Vec::new(),
        }
    }

    /// Handles the packets there are, at most a queue's size of them.
    pub fn run(&mut self, host: &mut Host) -> Result<(), Broken> {
        self.queue.hush()?;
        for _ in 0..self.queue.size() {
            let mut chain = match self.chains.len() > self.filled {
                true => self.chains.swap_remove(self.filled),
                false => Chain::default(),
            };
            if !self.queue.pop(&mut chain)? {
                self.put(chain);
                self.write(host)?;
                self.flush()?;
                if !self.queue.listen()? {
                    return Ok(());
                }
                continue;
            }
            host.metrics.requests.add(1);
            self.packet(host, chain)?;
        }
        self.write(host)?;
        self.flush()?;
        self.queue.kick_again();
        Ok(())
    }

    /// Keeps a chain behind those that are filled.
    fn put(&mut self, chain: Chain) {
        self.chains.push(chain);
        let last = self.chains.len() - 1;
        self.chains.swap(self.filled, last);
    }

    fn flush(&mut self) -> Result<(), Broken> {
        if !self.used.is_empty() {
            self.queue.push_all(&self.used)?;
            self.used.clear();
        }
        Ok(())
    }

    fn packet(&mut self, host: &mut Host, mut chain: Chain) -> Result<(), Broken> {
        let mut bytes = [0; packet::SIZE];
        if chain.readable.read(&mut bytes).is_err() {
            // No header: nobody to answer.
            host.metrics.failures.add(1);
            self.used.push((chain.head, 0));
            self.put(chain);
            return Ok(());
        }
        let header = Header::parse(&bytes);
        chain.readable.skip(packet::SIZE);
        let length = header.len as usize;
        let complete = chain.readable.len() >= length;
        chain.readable.truncate(length);
        // What was sent before is written before anything else happens to the connection.
        let is_data = header.op == Op::ReadWrite as u16 && complete;
        if !is_data {
            self.write(host)?;
        }
        let place = host.packet(&header, complete);
        if place != self.place || self.filled >= MANY || !self.has_room(&chain) {
            self.write(host)?;
        }
        let Some(place) = place else {
            self.used.push((chain.head, 0));
            self.put(chain);
            return Ok(());
        };
        host.metrics.bytes_out.add(length as u64);
        let Some(connection) = host.table.get(place) else {
            return Ok(());
        };
        if connection.has_buffered() || !connection.host.receives() {
            connection.keep(&mut chain.readable)?;
            host.settle(place);
            self.used.push((chain.head, 0));
            self.put(chain);
            return Ok(());
        }
        self.vectors.add(chain.readable.iovecs(), 0, length);
        self.put(chain);
        self.filled += 1;
        self.place = Some(place);
        Ok(())
    }

    fn has_room(&self, chain: &Chain) -> bool {
        self.vectors.len() + chain.readable.iovecs().len() <= MAX_BUFFERS
    }

    /// Writes the data taken to its connection's socket.
    fn write(&mut self, host: &mut Host) -> Result<(), Broken> {
        let Some(place) = self.place.take() else {
            return Ok(());
        };
        let filled = std::mem::take(&mut self.filled);
        if let Some(connection) = host.table.get(place) {
            // SAFETY: the buffers lie in the guest's memory, which the queue keeps mapped.
            let sent = connection
                .socket()
                .map(|fd| unsafe { self.vectors.send(fd) });
            let mut sent = match sent {
                Some(Moved::Bytes(count)) => count,
                Some(Moved::Later) => 0,
                Some(Moved::Gone) | None => {
                    connection.go_deaf();
                    0
                }
            };
            connection.window.forward(sent);
            for chain in self.chains.iter_mut().take(filled) {
                let part = sent.min(chain.readable.len());
                chain.readable.skip(part);
                connection.keep(&mut chain.readable)?;
                sent -= part;
            }
            host.settle(place);
        }
        let used = self.chains.iter().take(filled).map(|chain| (chain.head, 0));
        self.used.extend(used);
        self.vectors.clear();
        self.flush()
    }
}
