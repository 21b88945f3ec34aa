//! What PID 1 does once the host asks for containers: it starts the program that makes them, the agent,
//! and reaps.
//!
//! That is a program of its own since it is four times as large and a guest's image is in memory as long as
//! the guest lives, twice while it is unpacked. Of a file that the host shares only those pages are that
//! are used, and they can be given up.
//!
//! And it is a process of its own: every process whose parent is gone becomes PID 1's child, and so would
//! the containers' processes be if PID 1 made them: it could not tell the ones that somebody waits for from
//! those that nobody does. In two processes it needs not: all children of this one but one are nobody's.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use trefoil_agent_common::share;
use trefoil_agent_protocol::{AGENT_SHARE, SHARE_TAG};

use crate::{machine, root};

/// The program's name.
const NAME: &str = "trefoil-agent";

/// Where the guest's image has the program, if it has. It comes first: a guest that was measured trusts
/// what was measured with it and nothing that a host shares.
const IN_IMAGE: &str = "/agent";

/// Why the guest can't go on.
#[derive(Debug)]
pub(crate) enum Error {
    /// the root can't be made one that containers can leave
    Root(&'static str, Errno),
    /// there is no place for what the host shares
    Place(io::Error),
    /// what the host shares can't be mounted
    Share(Errno),
    /// leaving it to ourselves to reap failed
    Reaping(Errno),
    /// the agent can't be started
    Start(PathBuf, io::Error),
    /// waiting for it failed
    Wait(Errno),
    /// it has ended, and not because the host asked for it
    Ended(WaitStatus),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(step, why) => {
                write!(formatter, "leaving the first root failed to {step}: {why}")
            }
            Self::Place(why) => write!(formatter, "making {} failed: {why}", share::PLACE),
            Self::Share(why) => write!(
                formatter,
                "the image holds no agent, and mounting what the host shares as {SHARE_TAG} failed: {why}"
            ),
            Self::Reaping(why) => write!(formatter, "making ready to reap failed: {why}"),
            Self::Start(program, why) => {
                let program = program.display();
                write!(formatter, "starting the agent, {program}, failed: {why}")
            }
            Self::Wait(why) => write!(formatter, "waiting for the agent failed: {why}"),
            Self::Ended(how) => write!(formatter, "the agent has ended: {how:?}"),
        }
    }
}

/// Has the agent serve the host on its connection, until it has no more use for the guest.
pub(crate) fn serve(host: File) -> Result<(), Error> {
    root::leave_initramfs().map_err(|(step, why)| Error::Root(step, why))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(share::PLACE)
        .map_err(Error::Place)?;
    let program = find()?;
    machine::reap_ourselves().map_err(Error::Reaping)?;
    let agent = start(&program, host).map_err(|why| Error::Start(program, why))?;
    reap_until(agent)
}

/// The agent's program.
fn find() -> Result<PathBuf, Error> {
    let in_image = Path::new(IN_IMAGE);
    if in_image.exists() {
        return Ok(in_image.to_owned());
    }
    share::mount().map_err(Error::Share)?;
    Ok(Path::new(share::PLACE).join(AGENT_SHARE))
}

/// Starts it with the connection as its standard input; then the connection is its alone, so that its end
/// is that of the connection, too.
fn start(program: &Path, host: File) -> io::Result<Pid> {
    let agent = Command::new(program)
        .arg0(NAME)
        .env_clear()
        .stdin(Stdio::from(host))
        .spawn()?;
    Ok(Pid::from_raw(agent.id().cast_signed()))
}

/// Reaps children until this one is among them.
fn reap_until(agent: Pid) -> Result<(), Error> {
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(agent) => {
                return match status {
                    WaitStatus::Exited(_, 0) => Ok(()),
                    how => Err(Error::Ended(how)),
                };
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(why) => return Err(Error::Wait(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_agent_has_the_connection_and_nobody_else() {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        let host = File::from(OwnedFd::from(ours));
        let agent = start(Path::new("/bin/sh"), host).expect("start");
        theirs.write_all(b"exit 3\n").expect("write");
        // It is over when the agent is.
        assert_eq!(theirs.read(&mut [0]).expect("read"), 0);
        let ended = reap_until(agent).expect_err("it failed").to_string();
        assert!(ended.starts_with("the agent has ended: Exited"), "{ended}");
    }

    #[test]
    fn what_can_not_be_started_is_said_by_us() {
        let missing = Path::new("/missing");
        let host = File::open("/dev/null").expect("null");
        let why = start(missing, host).expect_err("there is nothing");
        let text = Error::Start(missing.into(), why).to_string();
        assert!(
            text.starts_with("starting the agent, /missing, failed: No such file"),
            "{text}"
        );
    }
}
