//! What the processes that make a container's process say to each other: short messages with
//! descriptors, over a pair of sockets that keeps their bounds.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use trefoil_os::message::{self, Wait};

/// Longest text of a message, in bytes; longer ones are cut.
const LONGEST: usize = 16 * 1024;
/// Most descriptors of a message.
const MOST: usize = 4;

/// One end of the pair. Closed at `execve`.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What was said.
#[derive(Debug)]
pub(crate) struct Message {
    /// What the message is about; each pair of speakers has its own words.
    pub(crate) word: u8,
    /// Text that goes with it.
    pub(crate) text: String,
    /// Descriptors that came along.
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> Result<(Self, Self), Errno> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|why| Errno::from_raw(why.raw_os_error()))?;
        Ok((Self(one), Self(other)))
    }

    /// The end that a descriptor is.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Its descriptor.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Its descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Says something. A listener that is gone is an error, never a signal.
    pub(crate) fn say(
        &self,
        word: u8,
        text: &str,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let text = text.as_bytes();
        let slices = [
            IoSlice::new(std::slice::from_ref(&word)),
            IoSlice::new(text.get(..LONGEST).unwrap_or(text)),
        ];
        message::send(&self.0, &slices, descriptors, Wait::Yes).map(drop)
    }

    /// Waits for what is said next; `None` when nobody is left to say anything.
    pub(crate) fn hear(&self) -> Result<Option<Message>, Errno> {
        let mut bytes = vec![0; LONGEST + 1];
        let mut descriptors = Vec::new();
        let take = |given| descriptors.push(given);
        let received = message::receive(&self.0, &mut bytes, Wait::Yes, take)?;
        if received.descriptors_lost || descriptors.len() > MOST {
            return Err(Errno::EMSGSIZE);
        }
        let Some((word, text)) = bytes.get(..received.length).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        Ok(Some(Message {
            word: *word,
            text: String::from_utf8_lossy(text).into_owned(),
            descriptors,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        one.say(b'a', "first", &[null.as_fd(), null.as_fd()])
            .unwrap();
        one.say(b'b', "", &[]).unwrap();
        let first = other.hear().unwrap().unwrap();
        assert_eq!((first.word, first.text.as_str()), (b'a', "first"));
        assert_eq!(first.descriptors.len(), 2);
        let second = other.hear().unwrap().unwrap();
        assert_eq!((second.word, second.text.as_str()), (b'b', ""));
        assert!(second.descriptors.is_empty());
        drop(one);
        assert!(other.hear().unwrap().is_none());
        assert!(other.say(b'c', "", &[]).is_err());
    }

    #[test]
    fn long_texts_are_cut() {
        let (one, other) = Channel::pair().unwrap();
        one.say(b'x', &"é".repeat(LONGEST), &[]).unwrap();
        assert_eq!(other.hear().unwrap().unwrap().text.len(), LONGEST);
    }
}
