//! Doing what the host asks by lines, until it has no more use for the guest or wants containers.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};

use trefoil_agent_protocol::{Log, ParseError, Request};

/// Why the host can't be served any further.
#[derive(Debug)]
pub(crate) enum Error {
    /// reading a request failed
    Read(io::Error),
    /// answering failed
    Answer(io::Error),
    /// reading the kernel's log failed
    Log(io::Error),
    /// a request can't be understood
    Request(ParseError),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(why) => write!(formatter, "reading a request failed: {why}"),
            Self::Answer(why) => write!(formatter, "answering failed: {why}"),
            Self::Log(why) => write!(formatter, "reading the kernel's log failed: {why}"),
            Self::Request(why) => write!(formatter, "a request can't be understood: {why}"),
        }
    }
}

/// What comes after the lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The end of the guest.
    End,
    /// The host speaks ttrpc from now on: what it says is the agent's to read.
    Agent,
}

/// Answers requests until one asks for the end, or the connection ends, which asks for the same: a
/// guest without a host is of no use to anyone. `log` makes the answer to [`Request::Log`].
pub(crate) fn serve(
    host: &mut (impl Read + Write),
    log: impl Fn() -> io::Result<Vec<u8>>,
) -> Result<Next, Error> {
    while let Some(request) = next(host)? {
        match request {
            Request::PowerOff => return Ok(Next::End),
            Request::Serve => return Ok(Next::Agent),
            Request::Log => {
                let text = log().map_err(Error::Log)?;
                let length = text.len();
                say(host, format_args!("{}", Log { length })).map_err(Error::Answer)?;
                host.write_all(&text).map_err(Error::Answer)?;
            }
        }
    }
    Ok(Next::End)
}

/// Says one line, at once: on a vsock each write is a packet.
pub(crate) fn say(host: &mut impl Write, message: fmt::Arguments<'_>) -> io::Result<()> {
    let mut line = [0; 128];
    let mut rest = line.as_mut_slice();
    writeln!(rest, "{message}")?;
    let unused = rest.len();
    let length = line.len() - unused;
    host.write_all(&line[..length])
}

/// The next request; none is the end of the connection. Nothing that follows its line is read, since that
/// may be for the agent: so it is read byte by byte, of which there are few.
fn next(host: &mut impl Read) -> Result<Option<Request>, Error> {
    let mut line = [0; Request::LONGEST];
    let mut filled = 0;
    while filled < line.len() {
        match host.read(&mut line[filled..=filled]) {
            // What was begun, if anything, is not going to be finished.
            Ok(0) => return Ok(None),
            Ok(_) => filled += 1,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A host that was killed is gone as much as one that hung up.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(Error::Read(error)),
        }
        let received = &line[..filled];
        if received.ends_with(b"\n") {
            let line = std::str::from_utf8(received);
            let request = line.map_err(|_| ParseError::Unknown).and_then(str::parse);
            return request.map(Some).map_err(Error::Request);
        }
    }
    Err(Error::Request(ParseError::TooLong))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    /// A host that sends its packets, and then ends or fails.
    struct Host {
        packets: VecDeque<Vec<u8>>,
        failure: Option<ErrorKind>,
        heard: Vec<u8>,
    }

    impl Host {
        fn sending(packets: &[&str]) -> Self {
            Self {
                packets: packets
                    .iter()
                    .map(|text| text.as_bytes().to_vec())
                    .collect(),
                failure: None,
                heard: Vec::new(),
            }
        }
    }

    impl Read for Host {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(mut packet) = self.packets.pop_front() else {
                return self.failure.take().map_or(Ok(0), |kind| Err(kind.into()));
            };
            let count = packet.len().min(buffer.len());
            buffer[..count].copy_from_slice(&packet[..count]);
            if count < packet.len() {
                self.packets.push_front(packet.split_off(count));
            }
            Ok(count)
        }
    }

    impl Write for Host {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log() -> io::Result<Vec<u8>> {
        Ok(b"[0.000000] one\n".to_vec())
    }

    #[test]
    fn requests_come_whole_or_in_parts_or_several_at_once() {
        for packets in [
            ["log\n", "log\n", "power-off\n"].as_slice(),
            &["log\nlog\npower-off\nlog\n"],
            &["l", "o", "g", "\n", "log", "\npower", "-off\n"],
            &["log\nlog\n"],
            &["log\nlog\npower-of"],
        ] {
            let mut host = Host::sending(packets);
            serve(&mut host, log).unwrap();
            let twice = "log 15\n[0.000000] one\n".repeat(2);
            assert_eq!(String::from_utf8(host.heard).unwrap(), twice, "{packets:?}");
        }
    }

    #[test]
    fn what_follows_the_wish_for_containers_is_left_to_the_agent() {
        for (packets, rest) in [
            (["serve\n"].as_slice(), ""),
            (&["log\nserve\nlog\n"], "log\n"),
            (&["ser", "ve\n\0\0", "later"], "\0\0later"),
        ] {
            let mut host = Host::sending(packets);
            let next = serve(&mut host, log).unwrap();
            assert_eq!(next, Next::Agent, "{packets:?}");
            let mut left = String::new();
            host.read_to_string(&mut left).unwrap();
            assert_eq!(left, rest, "{packets:?}");
        }
    }

    #[test]
    fn a_host_that_is_gone_is_the_end_and_no_failure() {
        for failure in [None, Some(ErrorKind::ConnectionReset)] {
            let mut host = Host::sending(&[]);
            host.failure = failure;
            serve(&mut host, log).unwrap();
        }
        let mut host = Host::sending(&["power-off\n"]);
        host.failure = Some(ErrorKind::Interrupted);
        serve(&mut host, log).unwrap();
    }

    #[test]
    fn what_cannot_be_understood_is_a_failure() {
        for (sent, why) in [
            ("reboot\n", "it doesn't begin as the message does"),
            ("\u{e9}\n", "it doesn't begin as the message does"),
            (&"x".repeat(1 << 20), "it is longer than any message"),
        ] {
            let mut host = Host::sending(&[sent]);
            let error = serve(&mut host, log).unwrap_err();
            let text = format!("a request can't be understood: {why}");
            assert_eq!(error.to_string(), text);
            assert_eq!(host.heard, b"");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_no_request() {
        let mut host = Host::sending(&[]);
        host.packets.push_back(b"log\xff\n".to_vec());
        assert!(matches!(
            serve(&mut host, log),
            Err(Error::Request(ParseError::Unknown))
        ));
    }

    #[test]
    fn every_failure_says_what_was_being_done() {
        let mut host = Host::sending(&[]);
        host.failure = Some(ErrorKind::TimedOut);
        let error = serve(&mut host, log).unwrap_err();
        assert!(error.to_string().starts_with("reading a request failed: "));

        let mut host = Host::sending(&["log\n"]);
        let error = serve(&mut host, || Err(ErrorKind::NotFound.into())).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("reading the kernel's log failed: ")
        );
    }

    #[test]
    fn it_serves_a_socket() {
        let (mut agent, mut host) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || serve(&mut agent, log).map_err(|e| e.to_string()));
        host.write_all(b"log\n").unwrap();
        let mut answer = [0; 22];
        host.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"log 15\n[0.000000] one\n");
        drop(host);
        serving.join().unwrap().unwrap();
    }

    #[test]
    fn a_line_is_one_write() {
        let mut heard = Host::sending(&[]);
        say(&mut heard, format_args!("ready {}", 1)).unwrap();
        assert_eq!(heard.heard, b"ready 1\n");
        let long = "x".repeat(200);
        assert!(say(&mut heard, format_args!("{long}")).is_err());
    }
}
