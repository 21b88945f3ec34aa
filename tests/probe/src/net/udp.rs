//! Datagrams.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use trefoil_probe::pattern;

use crate::request::{Answer, Outcome, While, Words};

/// How long a datagram may take to come back.
const LIMIT: Duration = Duration::from_secs(10);

/// `udp-exchange ADDRESS PORT COUNT SIZE SEED`: with a peer that echoes, one datagram after the
/// other; each has a seed of its own, the first the one given.
pub(crate) fn exchange(words: &mut Words<'_>) -> Outcome {
    let address: Ipv4Addr = words.parse("an address")?;
    let port: u16 = words.parse("a port")?;
    let count: u64 = words.parse("how many")?;
    let size: usize = words.parse("a size")?;
    let seed: u64 = words.parse("a seed")?;
    words.end()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).during("making a socket")?;
    socket
        .set_read_timeout(Some(LIMIT))
        .during("limiting the wait")?;
    socket
        .connect((address, port))
        .during(format_args!("choosing {address}:{port}"))?;
    let mut sent = vec![0; size];
    let mut received = vec![0; 1 << 16];
    for number in 0..count {
        pattern::fill(seed + number, 0, &mut sent);
        socket
            .send(&sent)
            .during(format_args!("sending datagram {number}"))?;
        let length = socket
            .recv(&mut received)
            .during(format_args!("waiting for datagram {number}"))?;
        if received.get(..length) != Some(&sent) {
            return Err(format!("datagram {number} came back otherwise"));
        }
    }
    Answer::done()
}
