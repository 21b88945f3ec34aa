//! The gate of a container's init, from the server's side: what lies behind it is `setup/line.rs`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use trefoil_core::{Context, Error, Result};

use crate::setup::line::{GO, LONGEST, interpret};

/// The end of an init's line. When it is dropped, an init that waits there ends.
#[derive(Debug)]
pub(crate) struct Gate(UnixStream);

impl Gate {
    /// Takes over the descriptor. Must be called within the event loop.
    pub(crate) fn new(line: OwnedFd) -> Result<Self> {
        let stream = StdStream::from(line);
        stream
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(stream))
            .map(Self)
            .context(|| "take over the line to a container's init")
    }

    /// Lets the init go, and waits until it runs its program or says why it can't.
    pub(crate) async fn open(mut self) -> Result<()> {
        if self.0.write_all(&[GO]).await.is_err() {
            return Err(Error::precondition("its init has ended"));
        }
        let mut said = Vec::new();
        let limit = LONGEST as u64;
        self.0
            .take(limit)
            .read_to_end(&mut said)
            .await
            .context(|| "listen to the container's init")?;
        interpret(&said).map_err(Error::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::line::READY;
    use std::io::{Read, Write};

    fn init(says: &'static [u8]) -> (Gate, std::thread::JoinHandle<[u8; 1]>) {
        let (ours, mut theirs) = StdStream::pair().expect("pair");
        let gate = Gate::new(ours.into()).expect("gate");
        let init = std::thread::spawn(move || {
            let mut byte = [0];
            theirs.read_exact(&mut byte).expect("go");
            theirs.write_all(says).expect("say");
            byte
        });
        (gate, init)
    }

    #[tokio::test]
    async fn an_init_is_let_go_and_listened_to() {
        for (says, expected) in [
            (&[READY][..], None),
            (
                b"exec /x: exec format error",
                Some("exec /x: exec format error"),
            ),
            (b"", Some("killed before it could run")),
        ] {
            let (gate, init) = init(says);
            let outcome = gate.open().await;
            assert_eq!(init.join().expect("join"), [GO]);
            match expected {
                None => outcome.expect("it runs"),
                Some(text) => {
                    let why = outcome.expect_err("it does not run").to_string();
                    assert!(why.contains(text), "{why}");
                }
            }
        }
    }

    #[tokio::test]
    async fn an_init_that_has_gone_is_not_started() {
        let (ours, theirs) = StdStream::pair().expect("pair");
        let gate = Gate::new(ours.into()).expect("gate");
        drop(theirs);
        assert!(gate.open().await.is_err());
    }
}
