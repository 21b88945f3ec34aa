//! Echo requests of ICMP.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use trefoil_probe::pattern;

use crate::request::{Outcome, While, Words, facts};

const HEADER: usize = 8;
const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// `ping ADDRESS SIZE [df]`: one request with so many bytes after its header, in fragments if need
/// be and `df` doesn't forbid it; the same bytes must come back.
pub(crate) fn ping(words: &mut Words<'_>) -> Outcome {
    let whole = words.flag("df");
    let address: Ipv4Addr = words.parse("an address")?;
    let size: usize = words.parse("a size")?;
    words.end()?;
    // The standard library has no raw sockets; it sends and receives on one as it does elsewhere.
    let raw = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .during("making a raw socket")?;
    let socket = UdpSocket::from(raw);
    socket
        .set_read_timeout(Some(LIMIT))
        .during("limiting the wait")?;
    let discover = if whole {
        libc::IP_PMTUDISC_DO
    } else {
        libc::IP_PMTUDISC_DONT
    };
    set_option(&socket, libc::IP_MTU_DISCOVER, discover).during("choosing about fragments")?;

    let mut request = vec![0; HEADER + size];
    if let Some(payload) = request.get_mut(HEADER..) {
        pattern::fill(1, 0, payload);
    }
    // Number 1 of sequence 1.
    for (place, byte) in [(0, REQUEST), (5, 1), (7, 1)] {
        if let Some(target) = request.get_mut(place) {
            *target = byte;
        }
    }
    let sum = checksum(&request).to_be_bytes();
    if let Some(target) = request.get_mut(2..4) {
        target.copy_from_slice(&sum);
    }
    let began = Instant::now();
    socket
        .send_to(&request, SocketAddrV4::new(address, 0))
        .during(format_args!("sending to {address}"))?;
    let mut buffer = vec![0; 1 << 16];
    while began.elapsed() < LIMIT {
        let (count, _) = socket
            .recv_from(&mut buffer)
            .during(format_args!("waiting for {address} to answer"))?;
        let packet = buffer.get(..count).unwrap_or_default();
        let Some(message) = message(packet) else {
            continue;
        };
        if message.first() != Some(&REPLY) || message.get(4..8) != request.get(4..8) {
            continue;
        }
        if checksum(message) != 0 {
            return Err(format!("the answer of {address} has a wrong checksum"));
        }
        let payload = message.get(HEADER..).unwrap_or_default();
        if payload.len() != size {
            return Err(format!("{} bytes came back", payload.len()));
        }
        pattern::check(1, 0, payload)
            .map_err(|difference| format!("other bytes came back: {difference}"))?;
        return facts!(nanoseconds = began.elapsed().as_nanos());
    }
    Err(format!("no answer from {address} within {LIMIT:?}"))
}

/// What follows the header of an IP packet.
fn message(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    packet.get(header..)
}

/// The Internet checksum: zero over what contains its own.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([high, low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn set_option(socket: &UdpSocket, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option's value is a number of this size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_makes_the_whole_zero() {
        let mut bytes = vec![8, 0, 0, 0, 0, 1, 0, 1, 0xff, 0xfe, 7];
        let sum = checksum(&bytes).to_be_bytes();
        bytes[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&bytes), 0);
    }
}
