//! What the server, the helper and a worker say to each other.
//!
//! On the control socket: one byte with one descriptor, a request's socket. On a request's socket: the
//! request, then the answer, each a length (4 bytes, little endian) and that much JSON; descriptors
//! travel with the length.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use oci_spec::runtime as oci;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use trefoil_core::{Error, ErrorKind, Mount, RuntimeOptions};
use trefoil_os::message::{self, Wait};

/// Most descriptors that travel with one message.
pub const MAX_DESCRIPTORS: usize = 4;

/// Longest message, in bytes: no process's description is longer, and a wrong length is noticed.
const MAX_LENGTH: u32 = 64 << 20;

/// What the server asks a worker to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Make a container.
    Create(Create),
    /// Run the hooks that follow its start.
    Poststart(Poststart),
    /// Run one more process in it.
    Exec(Box<Exec>),
    /// Remove what is left of it.
    Delete(Delete),
    /// Do nothing but answer.
    Ping,
}

impl Request {
    /// The request as a verb and its object.
    pub fn name(&self) -> String {
        match self {
            Request::Create(create) => format!("create container {}", create.id),
            Request::Poststart(start) => format!("start container {}", start.id),
            Request::Exec(exec) => format!("exec in container {}", exec.id),
            Request::Delete(delete) => format!("delete container {}", delete.id),
            Request::Ping => "answer".to_owned(),
        }
    }
}

/// Which of a process's three streams come with the request, in the order stdin, stdout, stderr.
pub type GivenStreams = [bool; 3];

/// Make a container. Its streams come along, unless it is to have a terminal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    /// What makes up its root.
    pub rootfs: Vec<Mount>,
    /// The handler's options.
    pub options: RuntimeOptions,
    /// Whether its init gets a terminal, whose master is answered.
    pub terminal: bool,
    /// Which streams come along.
    pub streams: GivenStreams,
    /// Whether it is the holder of a pod's namespaces, whose program is put into its root.
    pub holder: bool,
}

/// Run the hooks that follow a container's start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Poststart {
    /// The container's name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    /// Its init.
    pub pid: u32,
}

/// Run one more process in a container. A pidfd of the container's init comes along, before the streams.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container's name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    /// What to run.
    pub process: oci::Process,
    /// The directories of the container's cgroup.
    pub cgroups: Vec<PathBuf>,
    /// The handler's options.
    pub options: RuntimeOptions,
    /// Whether it gets a terminal, whose master is answered.
    pub terminal: bool,
    /// Which streams come along.
    pub streams: GivenStreams,
}

/// Remove what is left of a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Delete {
    /// The container's name.
    pub id: String,
    /// Its directory.
    pub bundle: PathBuf,
    /// Its cgroup, as its configuration names it.
    pub cgroups_path: Option<PathBuf>,
    /// The handler's options.
    pub options: RuntimeOptions,
}

/// What a worker answers when all went well.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// The process that was made.
    pub pid: u32,
}

/// What a worker answers when something did not.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// Told in one sentence.
    pub message: String,
    /// A process that was made all the same, has ended, and is the server's to reap.
    pub pid: Option<u32>,
}

impl From<Error> for Failure {
    fn from(why: Error) -> Self {
        Self {
            kind: why.kind(),
            message: why.to_string(),
            pid: None,
        }
    }
}

/// What comes back on a request's socket.
pub type Outcome = std::result::Result<Answer, Failure>;

/// What a worker has done for a request: an answer, and descriptors that go with it.
pub type Served = std::result::Result<(Answer, Vec<OwnedFd>), Failure>;

fn encode<T: Serialize>(message: &T) -> io::Result<(u32, Vec<u8>)> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= MAX_LENGTH)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"))?;
    Ok((length, body))
}

fn checked_length(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(bytes);
    if length > MAX_LENGTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes was announced"),
        ));
    }
    Ok(length as usize)
}

/// Sends `bytes` with descriptors, in one piece or not at all.
fn send(socket: BorrowedFd<'_>, bytes: &[u8], given: &[BorrowedFd<'_>]) -> nix::Result<()> {
    let sent = message::send(socket, &[IoSlice::new(bytes)], given, Wait::Yes)?;
    match sent == bytes.len() {
        true => Ok(()),
        false => Err(Errno::EMSGSIZE),
    }
}

/// Receives at most `bytes.len()` bytes and the descriptors that came with them.
fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut given = Vec::new();
    let received = message::receive(socket, bytes, Wait::Yes, |fd| given.push(fd))?;
    match received.descriptors_lost || given.len() > MAX_DESCRIPTORS {
        true => Err(Errno::EMSGSIZE),
        false => Ok((received.length, given)),
    }
}

/// Sends a request's socket to the helper.
pub fn send_descriptor(control: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> nix::Result<()> {
    send(control, &[0], &[socket])
}

/// Waits for a request's socket; `None` when the server is gone.
pub fn receive_descriptor(control: BorrowedFd<'_>) -> nix::Result<Option<OwnedFd>> {
    loop {
        match receive(control, &mut [0]) {
            Ok((0, _)) => return Ok(None),
            Ok((_, mut given)) => {
                if let Some(socket) = given.pop() {
                    return Ok(Some(socket));
                }
            }
            Err(why) => return Err(why),
        }
    }
}

/// The server's side of a request: sends it and waits for what comes back.
pub async fn exchange(
    socket: OwnedFd,
    request: &Request,
    given: &[BorrowedFd<'_>],
) -> io::Result<std::result::Result<(Answer, Vec<OwnedFd>), Failure>> {
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    let mut stream = tokio::net::UnixStream::from_std(stream)?;
    let (length, body) = encode(request)?;
    stream.writable().await?;
    send(stream.as_fd(), &length.to_le_bytes(), given)?;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &body).await?;

    let mut header = [0; 4];
    let (n, descriptors) = stream
        .async_io(Interest::READABLE, || {
            Ok(receive(stream.as_fd(), &mut header)?)
        })
        .await?;
    if n < header.len() {
        return Err(io::Error::other("the worker died before it answered"));
    }
    let mut body = vec![0; checked_length(header)?];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await?;
    let outcome: Outcome = serde_json::from_slice(&body)?;
    Ok(outcome.map(|answer| (answer, descriptors)))
}

/// The worker's side: waits for the request.
pub fn receive_request<T: DeserializeOwned>(socket: &OwnedFd) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut header = [0; 4];
    let (n, given) = receive(socket.as_fd(), &mut header)?;
    if n < header.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut body = vec![0; checked_length(header)?];
    let mut stream = UnixStream::from(socket.try_clone()?);
    stream.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, given))
}

/// The worker's side: answers.
pub fn send_outcome(
    socket: &OwnedFd,
    outcome: &Outcome,
    given: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let (length, body) = encode(outcome)?;
    send(socket.as_fd(), &length.to_le_bytes(), given)?;
    UnixStream::from(socket.try_clone()?).write_all(&body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .expect("socketpair")
    }

    fn delete(id: &str) -> Request {
        Request::Delete(Delete {
            id: id.into(),
            bundle: "/b".into(),
            cgroups_path: None,
            options: RuntimeOptions::default(),
        })
    }

    #[tokio::test]
    async fn a_request_and_its_descriptors_arrive_and_are_answered() {
        let (ours, theirs) = pair();
        // Longer than a socket's buffer.
        let id = "x".repeat(1 << 20);
        let expected = id.clone();
        let worker = std::thread::spawn(move || {
            let (request, given): (Request, _) = receive_request(&theirs).expect("request");
            assert_eq!(request.name(), format!("delete container {expected}"));
            assert_eq!(given.len(), 3);
            let back: Vec<_> = given.iter().take(2).map(AsFd::as_fd).collect();
            send_outcome(&theirs, &Ok(Answer { pid: 7 }), &back).expect("answer");
        });
        let null = std::fs::File::open("/dev/null").expect("null");
        let given = [null.as_fd(); 3];
        let (answer, descriptors) = exchange(ours, &delete(&id), &given)
            .await
            .expect("exchange")
            .expect("success");
        worker.join().expect("worker");
        assert_eq!(answer.pid, 7);
        assert_eq!(descriptors.len(), 2);
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_told_from_one_that_answers() {
        for bytes in [&b""[..], &[9, 0], &[0xff; 4], &[2, 0, 0, 0, b'{']] {
            let (ours, theirs) = pair();
            let bytes = bytes.to_vec();
            let worker = std::thread::spawn(move || {
                let (_, _): (Request, _) = receive_request(&theirs).expect("request");
                UnixStream::from(theirs).write_all(&bytes).expect("write");
            });
            assert!(exchange(ours, &delete("c"), &[]).await.is_err());
            worker.join().expect("worker");
        }
    }
}
