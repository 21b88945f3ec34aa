//! rtnetlink: the kernel's own way of being told about networks.

mod message;

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use message::HEADER;
pub use message::{Attributes, Message, find, ip, octets, u16_at, u32_at};

use trefoil_os::{Context, Result};

use crate::error::Refusal;

/// Larger than what the kernel sends at once, which is at most 32 KiB.
const ANSWER: usize = 64 << 10;
/// An answer's flag: the request is not repeated in it, so that attributes follow the error at once.
const CAPPED: u16 = libc::NLM_F_CAPPED as u16;
/// An answer's flag: attributes follow the error.
const HAS_ATTRIBUTES: u16 = libc::NLM_F_ACK_TLVS as u16;
/// An answer's flag: what it is about has changed since its beginning.
const INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;
/// Among the attributes of an error: the kernel's words.
const WORDS: u16 = 1;
/// How often a list is asked for again because it changed while it was told.
const ATTEMPTS: usize = 10;

/// An answer's type and what follows its header.
pub type Answer = (u16, Vec<u8>);

/// A socket to the kernel's part for networks, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one.
    ///
    /// # Errors
    /// The kernel has none to give.
    pub fn open() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context(|| "open a netlink socket")?;
        // Words for its errors, and those without the request's copy; a kernel without is as good.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            enable(&socket, option);
        }
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; ANSWER],
        })
    }

    /// Asks for one thing to be done.
    pub fn request(&mut self, message: Message) -> std::result::Result<(), Refusal> {
        self.send(message, libc::NLM_F_ACK)?;
        while !self.receive(&mut |_, _| {})? {}
        Ok(())
    }

    /// Asks for all there is of a kind.
    pub fn dump(&mut self, message: &Message) -> std::result::Result<Vec<Answer>, Refusal> {
        for _ in 0..ATTEMPTS {
            self.send(message.clone(), libc::NLM_F_DUMP)?;
            let mut answers = Vec::new();
            let mut changed = false;
            let mut take = |header: &Header, content: &[u8]| {
                changed |= header.flags & INTERRUPTED != 0;
                answers.push((header.kind, content.to_vec()));
            };
            while !self.receive(&mut take)? {}
            if !changed {
                return Ok(answers);
            }
        }
        Err(Errno::EINTR.into())
    }

    fn send(&mut self, message: Message, flags: libc::c_int) -> std::result::Result<(), Refusal> {
        self.sequence += 1;
        let bytes = message.finish(flags, self.sequence);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Receives what the kernel sends at once; whether the answer has ended.
    fn receive(
        &mut self,
        take: &mut impl FnMut(&Header, &[u8]),
    ) -> std::result::Result<bool, Refusal> {
        // With this flag the length is the message's own, whether or not it fits.
        let length = recv(
            self.socket.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_TRUNC,
        )?;
        let mut left = self.buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
        while let Some(header) = Header::read(left) {
            let content = left.get(HEADER..header.length).ok_or(Errno::EBADMSG)?;
            left = left.get(header.length.next_multiple_of(4)..).unwrap_or(&[]);
            if header.sequence != self.sequence {
                // What is left of an answer that was given up.
                continue;
            }
            match libc::c_int::from(header.kind) {
                libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                    return outcome(&header, content).map(|()| true);
                }
                _ => take(&header, content),
            }
        }
        Ok(false)
    }
}

/// A message's header.
struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            length: usize::try_from(u32_at(bytes, 0)?).ok()?.max(HEADER),
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
        })
    }
}

/// How the kernel says that a request went: the error's number negated, then perhaps words.
fn outcome(header: &Header, content: &[u8]) -> std::result::Result<(), Refusal> {
    let number = u32_at(content, 0).unwrap_or(0).cast_signed();
    if number >= 0 {
        return Ok(());
    }
    let is_error = i32::from(header.kind) == libc::NLMSG_ERROR;
    // After an error comes the request, or its header only.
    let repeated = match is_error {
        true if header.flags & CAPPED != 0 => HEADER,
        true => u32_at(content, 4).map_or(0, |length| length as usize),
        false => 0,
    };
    let words = (header.flags & HAS_ATTRIBUTES != 0)
        .then(|| content.get(4 + repeated.next_multiple_of(4)..))
        .flatten()
        .and_then(|attributes| find(attributes, WORDS))
        .map(|words| {
            String::from_utf8_lossy(words)
                .trim_end_matches('\0')
                .to_owned()
        });
    Err(Refusal {
        errno: Errno::from_raw(-number),
        words,
    })
}

/// Sets an option of the socket to 1.
fn enable(socket: &OwnedFd, option: libc::c_int) {
    let one: libc::c_int = 1;
    // SAFETY: the option's value is an int, which lives until the call is over.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&one).cast(),
            size_of_val(&one) as libc::socklen_t,
        );
    }
}
