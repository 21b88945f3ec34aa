//! The socket between a machine and its parent.
//!
//! First the parent sends what the machine is to be, with the descriptors of it all: one message. From
//! then on, small messages: requests one way, of which one brings descriptors, a disk's; answers, in the
//! requests' order, the other way, with word of the start and of the end. All are JSON in packets (`SOCK_SEQPACKET`) of bounded
//! size, and whatever is not exactly as written here is refused.
//!
//! [`Control`] is the machine's end; the parent's is a [`Process`](crate::process::Process)'s. Each
//! trusts the other with less than it could: the machine never waits for a parent that doesn't
//! read, and the parent reads a machine that may have been taken over by its guest.

mod machine;
pub(crate) mod packet;

pub use machine::{CONTROL, Control};
pub(crate) use machine::{parent_is_gone, send_last_words};
pub use packet::pair;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, sentence};

/// The most bytes of a message after the first.
pub const MOST_BYTES: usize = 8 << 10;
/// The most bytes of the first message.
pub const MOST_LAUNCH_BYTES: usize = 64 << 10;
/// The most descriptors that come with the first message. The kernel takes at most 253 in one.
pub const MOST_DESCRIPTORS: usize = 200;

/// What the parent can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Request {
    /// Stop the virtual CPUs. A machine that is paused stays so.
    Pause,
    /// Let them run.
    Resume,
    /// Only answer.
    Stats,
    /// End in order, as if the guest had powered itself off.
    PowerOff,
    /// End at once.
    Kill,
    /// Put a disk into a place that was kept for one. Its files come along as descriptors.
    Attach(Attach),
    /// Take a disk out again.
    Detach(Detach),
}

/// A disk that comes. It is made of the files that come along, from 1 to
/// [`MOST_PARTS`](crate::devices::block::MOST_PARTS), one after the other; several can only be read. Each
/// has a length that is a multiple of 512.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attach {
    /// Which device, counted as in the configuration; it must be a
    /// [`Slot`](crate::configuration::Device::Slot).
    pub device: u8,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// By which the guest can find it; at most 20 bytes.
    pub serial: String,
}

/// A disk that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Detach {
    /// Where it is.
    pub device: u8,
}

/// What the machine says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Message {
    /// The guest runs.
    Running,
    /// To a request. There is none to one that ends the machine.
    Answer(Answer),
    /// The last one.
    Ended(Exit),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done(Stats),
    /// It was not, and why, in a sentence.
    Refused(#[serde(with = "sentence")] String),
}

/// How the machine is. What it counts is in the memory it shares: [`crate::metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stats {
    /// The virtual CPUs are stopped.
    pub paused: bool,
}

/// Why the socket is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// the other side is gone
    #[error("the other side of the control socket is gone")]
    Gone,
    /// the message is not what it must be
    #[error("read {what}: {why}")]
    Wrong {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// the kernel refuses
    #[error("{doing}: {why}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        why: std::io::Error,
    },
}

impl Failure {
    /// For `map_err` on a system call's outcome.
    pub(crate) fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::System {
            doing,
            why: why.into(),
        }
    }
}

/// Reads a message's text, of which `whole` says whether all of it arrived.
pub(crate) fn parse<T: DeserializeOwned>(
    what: &'static str,
    text: &[u8],
    whole: bool,
) -> Result<T, Failure> {
    let wrong = |why| Failure::Wrong { what, why };
    if !whole {
        return Err(wrong(format!(
            "it has more than {} bytes, or descriptors",
            text.len()
        )));
    }
    // The library's message quotes what it did not expect, which may be as long as all of it.
    serde_json::from_slice(text).map_err(|why| wrong(sentence::cut(&why.to_string())))
}

/// For fuzzing: each takes any bytes, and fails only by panicking.
#[cfg(any(test, fuzzing))]
pub mod fuzzing {
    use std::os::fd::AsFd;

    use super::*;

    fn same_again<T>(text: &[u8])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        if let Ok(value) = parse::<T>("bytes", text, true) {
            let again = serde_json::to_vec(&value).unwrap_or_default();
            assert_eq!(parse::<T>("it again", &again, true).ok(), Some(value));
        }
    }

    /// A request and what the machine says, as both sides read them.
    pub fn messages(bytes: &[u8]) {
        same_again::<Request>(bytes);
        same_again::<Message>(bytes);
    }

    /// Packets of at most 127 bytes as a machine receives them after its start, before each its length
    /// and whether a descriptor comes along.
    /// Every one of them gets an answer or is a request.
    pub fn requests(mut bytes: &[u8]) {
        let Ok((ours, theirs)) = packet::pair() else {
            return;
        };
        let Ok(mut control) = Control::over(theirs) else {
            return;
        };
        while let Some((&length, rest)) = bytes.split_first() {
            let (text, rest) = rest.split_at(rest.len().min(usize::from(length % 128)));
            bytes = rest;
            let brought = [ours.as_fd()];
            let brought = brought.get(..usize::from(length / 128)).unwrap_or_default();
            packet::send(&ours, text, brought).unwrap_or_default();
            let outcome = control.receive();
            assert!(outcome.is_ok(), "{outcome:?}");
            let requested = outcome.unwrap_or_default();
            let expected = parse::<Request>("it", text, true).ok();
            let is_disk = matches!(expected, Some(Request::Attach(_)));
            let expected = expected.filter(|_| brought.is_empty() != is_disk);
            let count = requested.as_ref().map_or(0, |(_, came)| came.len());
            assert!(count == 0 || count == brought.len());
            let requested = requested.map(|(request, _)| request);
            assert_eq!(expected, requested);
            if requested.is_none() {
                let mut answer = [0; MOST_BYTES];
                let received = packet::receive(&ours, &mut answer).unwrap_or_default();
                let text = answer.get(..received.length).unwrap_or_default();
                let answer = parse("an answer", text, received.whole);
                assert!(
                    matches!(answer, Ok(Message::Answer(Answer::Refused(_)))),
                    "{answer:?}"
                );
            }
        }
    }

    /// A first message, without descriptors, of the given configuration.
    pub fn launch<C: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        same_again::<C>(bytes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exit::Registers;

    fn an_exit() -> impl Strategy<Value = Exit> {
        prop_oneof![
            Just(Exit::PoweredOff),
            Just(Exit::Reset),
            Just(Exit::Killed),
            Just(Exit::TripleFault { registers: None }),
            any::<[u64; 4]>().prop_map(|[rip, cr2, efer, idt_base]| Exit::TripleFault {
                registers: Some(Registers {
                    rip,
                    cr2,
                    efer,
                    idt_base,
                    ..Registers::default()
                })
            }),
            ["[^\\p{Cc}]{0,500}", "[^\\p{Cc}]{0,20}", "[^\\p{Cc}]{0,20}"]
                .prop_map(|[part, doing, why]| Exit::Internal { part, doing, why }),
        ]
    }

    fn a_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            Just(Message::Running),
            any::<bool>().prop_map(|paused| Message::Answer(Answer::Done(Stats { paused }))),
            "[^\\p{Cc}]{0,500}".prop_map(|why| Message::Answer(Answer::Refused(why))),
            an_exit().prop_map(Message::Ended),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_is_understood(message in a_message()) {
            let text = serde_json::to_vec(&message).expect("serialize");
            prop_assert!(text.len() <= MOST_BYTES);
            prop_assert_eq!(parse::<Message>("it", &text, true).expect("parse"), message);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            fuzzing::messages(&bytes);
        }

        #[test]
        fn any_packets_are_answered(bytes: Vec<u8>) {
            fuzzing::requests(&bytes);
        }

        #[test]
        fn text_that_is_nearly_right_is_read_or_refused(
            message in a_message(), at: prop::sample::Index, byte: u8,
        ) {
            let mut text = serde_json::to_vec(&message).expect("serialize");
            let at = at.index(text.len());
            text[at] = byte;
            fuzzing::messages(&text);
            fuzzing::messages(&text[..at]);
        }
    }

    #[test]
    fn requests_are_the_words_of_the_documentation() {
        for (text, request) in [
            ("\"pause\"", Request::Pause),
            ("\"resume\"", Request::Resume),
            ("\"stats\"", Request::Stats),
            ("\"power-off\"", Request::PowerOff),
            ("\"kill\"", Request::Kill),
            (
                r#"{"attach":{"device":5,"read-only":true,"serial":"layers"}}"#,
                Request::Attach(Attach {
                    device: 5,
                    read_only: true,
                    serial: "layers".into(),
                }),
            ),
            (
                r#"{"detach":{"device":5}}"#,
                Request::Detach(Detach { device: 5 }),
            ),
        ] {
            assert_eq!(
                parse::<Request>("it", text.as_bytes(), true).expect(text),
                request
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_a_bounded_sentence() {
        let why = parse::<Request>("a request", b"\"halt\"", true).expect_err("halt");
        assert!(
            why.to_string()
                .starts_with("read a request: unknown variant `halt`, expected one of `pause`"),
            "{why}"
        );
        let long = format!("\"{}\"", "x".repeat(5000));
        let why = parse::<Request>("a request", long.as_bytes(), true).expect_err("long");
        assert!(why.to_string().len() < 600);
        let why = parse::<Stats>("stats", br#"{"paused":true,"more":1}"#, true).expect_err("more");
        assert!(why.to_string().contains("unknown field `more`"), "{why}");
        let why = parse::<Request>("a request", b"\"pau", false).expect_err("cut");
        assert_eq!(
            why.to_string(),
            "read a request: it has more than 4 bytes, or descriptors"
        );
    }
}
