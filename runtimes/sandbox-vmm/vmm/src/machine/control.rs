//! The machine's end of its control socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
pub use trefoil_jail::control::Failure;
use trefoil_jail::control::{self, Received};

use crate::client::control::{Answer, Message, Request};
use crate::client::exit::Exit;

/// The machine's end of the socket.
#[derive(Debug)]
pub struct Control(control::Control);

impl Control {
    /// The end that this process was started with. Every descriptor above it is closed.
    ///
    /// # Safety
    ///
    /// As [`trefoil_jail::Control::take`]: it is called once, and before anything in this process has
    /// opened a descriptor.
    ///
    /// # Errors
    /// If it was started with none.
    pub unsafe fn take() -> Result<Self, Failure> {
        // SAFETY: our contract is the callee's.
        unsafe { control::Control::take() }.map(Self)
    }

    /// Waits for the first message: what the machine is to be, and the descriptors that come with
    /// it, in their order.
    ///
    /// # Errors
    /// [`Failure::Gone`] if the parent is, and what else is wrong with what came.
    pub fn launch<C: DeserializeOwned>(&self) -> Result<(C, Vec<OwnedFd>), Failure> {
        self.0.launch()
    }

    /// The next request, if there is one now, with the descriptors that it brings: some for a disk's
    /// arrival, none for all else. A packet that is none is answered with what is wrong, and `None`.
    ///
    /// # Errors
    /// [`Failure::Gone`] once the parent is.
    pub fn receive(&mut self) -> Result<Option<(Request, Vec<OwnedFd>)>, Failure> {
        match self.0.receive(Request::brings_descriptors)? {
            Received::Request(request, descriptors) => Ok(Some((request, descriptors))),
            Received::Wrong(why) => {
                self.send(&Message::Answer(Answer::Refused(why.to_string())));
                Ok(None)
            }
            Received::Nothing => Ok(None),
        }
    }

    /// Sends a message, unless the parent is gone or has left so many unread that there is no room:
    /// it is not waited for. Answers whether it was sent.
    pub fn send(&self, message: &Message) -> bool {
        self.0.send(message)
    }

    /// Sends the last message and answers with what the process is to exit with.
    pub fn end(self, exit: Exit) -> i32 {
        self.0.end(exit)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For fuzzing: each takes any bytes, and fails only by panicking.
#[cfg(any(test, fuzzing))]
pub mod fuzzing {
    use std::os::fd::AsFd;

    use serde::Serialize;
    use trefoil_jail::control::{MOST_BYTES, packet, parse};

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
        let Ok(mut control) = control::Control::over(theirs).map(Control) else {
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
    use trefoil_jail::control::{MOST_BYTES, packet, parse};

    use super::*;
    use crate::client::configuration::Configuration;
    use crate::client::control::{Attach, Detach, Stats};
    use crate::client::exit::{Registers, Stop};

    fn an_exit() -> impl Strategy<Value = Exit> {
        prop_oneof![
            Just(Exit::Done(Stop::PoweredOff)),
            Just(Exit::Done(Stop::Reset)),
            Just(Exit::Killed),
            Just(Exit::Done(Stop::TripleFault { registers: None })),
            any::<[u64; 4]>().prop_map(|[rip, cr2, efer, idt_base]| {
                let registers = Some(Registers {
                    rip,
                    cr2,
                    efer,
                    idt_base,
                    ..Registers::default()
                });
                Exit::Done(Stop::TripleFault { registers })
            }),
            ["[^\\p{Cc}]{0,500}", "[^\\p{Cc}]{0,20}", "[^\\p{Cc}]{0,20}"].prop_map(
                |[part, doing, why]| trefoil_jail::Failure::new(doing, why).of(part).into()
            ),
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

    fn connected() -> (OwnedFd, Control) {
        let (ours, theirs) = packet::pair().expect("pair");
        (ours, Control(control::Control::over(theirs).expect("over")))
    }

    fn say(to: &OwnedFd, text: &[u8]) {
        packet::send(to, text, &[]).expect("send");
    }

    fn hear(from: &OwnedFd) -> Message {
        let mut room = [0; MOST_BYTES];
        let received = packet::receive(from, &mut room).expect("receive");
        parse("it", &room[..received.length], received.whole).expect("parse")
    }

    fn refusal(from: &OwnedFd) -> String {
        match hear(from) {
            Message::Answer(Answer::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn requests_and_answers_go_both_ways() {
        let (ours, mut control) = connected();
        assert!(matches!(control.receive(), Ok(None)));
        say(&ours, b"\"pause\"");
        say(&ours, b" \"power-off\" ");
        assert!(matches!(control.receive(), Ok(Some((Request::Pause, _)))));
        assert!(matches!(
            control.receive(),
            Ok(Some((Request::PowerOff, _)))
        ));
        assert!(matches!(control.receive(), Ok(None)));
        let answer = Message::Answer(Answer::Done(Stats { paused: true }));
        assert!(control.send(&answer));
        assert_eq!(hear(&ours), answer);
        assert_eq!(control.end(Exit::Done(Stop::Reset)), 11);
        assert_eq!(hear(&ours), Message::Ended(Exit::Done(Stop::Reset)));
        assert!(packet::is_gone(&ours));
    }

    #[test]
    fn a_wrong_request_is_refused_and_the_next_one_is_not() {
        let (ours, mut control) = connected();
        let long = vec![b' '; MOST_BYTES + 1];
        for (wrong, why) in [
            (&b"\"reboot\""[..], "unknown variant `reboot`"),
            (b"{}", "expected value"),
            (b"\xff\xfe", "expected value"),
            (b"\"pause\" \"kill\"", "trailing characters"),
            (b"", "EOF while parsing"),
            (&long, "more than 8192 bytes"),
        ] {
            say(&ours, wrong);
            assert!(matches!(control.receive(), Ok(None)));
            let said = refusal(&ours);
            assert!(said.starts_with("read a request: "), "{said}");
            assert!(said.contains(why), "{said}");
        }
        packet::send(&ours, b"\"kill\"", &[ours.as_fd()]).expect("send");
        assert!(matches!(control.receive(), Ok(None)));
        assert!(refusal(&ours).contains("1 descriptors came with it"));
        let disk = br#"{"attach":{"device":4,"read-only":false,"serial":"late"}}"#;
        say(&ours, disk);
        assert!(matches!(control.receive(), Ok(None)));
        assert!(refusal(&ours).contains("0 descriptors came with it"));
        packet::send(&ours, disk, &[ours.as_fd(), ours.as_fd()]).expect("send");
        let received = control.receive().expect("receive").expect("request");
        assert!(matches!(received.0, Request::Attach(_)), "{received:?}");
        assert_eq!(received.1.len(), 2);
        drop(received);
        say(&ours, b"\"kill\"");
        assert!(matches!(control.receive(), Ok(Some((Request::Kill, _)))));
        drop(ours);
        assert!(matches!(control.receive(), Err(Failure::Gone)));
    }

    #[test]
    fn a_parent_that_does_not_read_is_not_waited_for() {
        let (ours, mut control) = connected();
        let sent = (0..100_000)
            .take_while(|_| control.send(&Message::Running))
            .count();
        assert!((16..100_000).contains(&sent), "{sent}");
        say(&ours, b"\"nonsense\"");
        assert!(matches!(control.receive(), Ok(None)));
    }

    /// The fuzz target `control`, on its seeds and what they begin with: what it says is the same again.
    #[test]
    fn what_fuzzing_begins_with_is_read_or_refused() {
        let seeds = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/control"));
        let mut count = 0;
        for seed in seeds.expect("list") {
            let bytes = std::fs::read(seed.expect("list").path()).expect("read");
            for end in 0..=bytes.len() {
                fuzzing::messages(&bytes[..end]);
                fuzzing::requests(&bytes[..end]);
                fuzzing::launch::<Configuration>(&bytes[..end]);
            }
            count += 1;
        }
        assert!(count > 0, "there are no seeds");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_configuration_or_refused(bytes: Vec<u8>) {
            fuzzing::launch::<Configuration>(&bytes);
        }
    }
}
