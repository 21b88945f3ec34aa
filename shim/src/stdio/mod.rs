//! The streams that containerd names in a request, opened.
//!
//! A stream is a FIFO's path, or a URI: `fifo://`, `file://` (appended to) or `binary://` (a logging
//! program, see [`binary`]). FIFOs are opened here once and handed on as they are: a container's init
//! writes straight to containerd, and no byte passes through the shim.

mod binary;

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::time::{Instant, sleep};
use trefoil_core::{Context, Error, Input, Output, Result, Stdio};

/// What a request says of a process's streams. An empty name means no stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Whether the process gets a terminal.
    pub terminal: bool,
    /// Where its input comes from.
    pub stdin: String,
    /// Where its output goes.
    pub stdout: String,
    /// Where its error output goes, unless it has a terminal.
    pub stderr: String,
}

/// How long a FIFO is waited for to be read.
const READER: Duration = Duration::from_secs(10);

/// What a stream's name means.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    /// A path, usually a FIFO's.
    Path(&'a str),
    /// A file to append to; made if it isn't there.
    File(&'a str),
    /// A logging program and its arguments, as a URI.
    Binary(&'a str),
}

fn target(name: &str) -> Result<Target<'_>> {
    match name.split_once("://") {
        None => Ok(Target::Path(name)),
        Some(("fifo", path)) => Ok(Target::Path(path)),
        Some(("file", path)) => Ok(Target::File(path)),
        Some(("binary", _)) => Ok(Target::Binary(name)),
        Some((scheme, _)) => Err(Error::invalid(format!(
            "open stream {name}: {scheme:?} is no kind of stream known here; fifo, file and binary are"
        ))),
    }
}

/// Opens a process's streams. `namespace` and `id` are told to a logging program.
pub async fn open(streams: &Streams, namespace: &str, id: &str) -> Result<Stdio> {
    let mut stdio = Stdio {
        terminal: streams.terminal,
        stdin: input(&streams.stdin, streams.terminal)?,
        ..Default::default()
    };
    if let Ok(Target::Binary(uri)) = target(&streams.stdout) {
        (stdio.stdout, stdio.stderr) = binary::start(uri, namespace, id).await?;
    } else {
        stdio.stdout = output(&streams.stdout).await?;
        if streams.stderr == streams.stdout
            && matches!(target(&streams.stderr), Ok(Target::File(_)))
        {
            // One file for both: a duplicate shares the position.
            stdio.stderr = match &stdio.stdout {
                Some(stdout) => Some(Output {
                    write: stdout
                        .write
                        .try_clone()
                        .context(|| format!("open stream {}", streams.stderr))?,
                    hold: None,
                }),
                None => None,
            };
        } else {
            stdio.stderr = output(&streams.stderr).await?;
        }
    }
    if streams.terminal {
        stdio.stderr = None;
    }
    Ok(stdio)
}

fn input(name: &str, terminal: bool) -> Result<Option<Input>> {
    if name.is_empty() {
        return Ok(None);
    }
    let Target::Path(path) = target(name)? else {
        return Err(Error::invalid(format!(
            "open stream {name}: input comes from a FIFO only"
        )));
    };
    // Non-blocking, so as not to wait for a writer.
    let read = open_file(
        path,
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK),
    )?;
    let hold = if terminal { hold(path)? } else { None };
    Ok(Some(Input { read, hold }))
}

async fn output(name: &str) -> Result<Option<Output>> {
    if name.is_empty() {
        return Ok(None);
    }
    match target(name)? {
        Target::Path(path) if is_fifo(path) => fifo(path, READER).await.map(Some),
        Target::Path(path) | Target::File(path) => {
            if let Some(directory) = Path::new(path).parent() {
                std::fs::create_dir_all(directory)
                    .context(|| format!("make the directory {}", directory.display()))?;
            }
            let write = open_file(
                path,
                OpenOptions::new().append(true).create(true).mode(0o644),
            )?;
            Ok(Some(Output { write, hold: None }))
        }
        Target::Binary(_) => Err(Error::invalid(format!(
            "open stream {name}: a logging program takes both output streams, or none"
        ))),
    }
}

/// A FIFO to write to, held open though its reader goes.
///
/// It waits for the reader: containerd opens in the background, and where all has been written and closed
/// before that, the bytes are lost and the reader waits for ever (moby/moby#22124, containerd/containerd#330).
/// Who has not come after `limit` is not to keep the container from running.
async fn fifo(path: &str, limit: Duration) -> Result<Output> {
    let doing = || format!("open stream {path}");
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    let write = loop {
        match options.open(path) {
            Ok(write) => break Some(write),
            Err(why) if why.raw_os_error() != Some(libc::ENXIO) => return Err(why).context(doing),
            Err(_) if Instant::now() >= until => break None,
            Err(_) => sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    let hold = hold(path)?;
    let write = match write {
        Some(write) => {
            let flags = fcntl(&write, FcntlArg::F_GETFL).context(doing)?;
            let flags = OFlag::from_bits_retain(flags) - OFlag::O_NONBLOCK;
            fcntl(&write, FcntlArg::F_SETFL(flags)).context(doing)?;
            write.into()
        }
        None => {
            log::warn!("{}: nobody reads it", doing());
            open_file(path, OpenOptions::new().write(true))?
        }
    };
    Ok(Output { write, hold })
}

fn is_fifo(path: &str) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Holds a FIFO open for both ways, so that no other opening of it waits and none of its ends sees the
/// other go. `None` for what is no FIFO.
fn hold(path: &str) -> Result<Option<OwnedFd>> {
    match is_fifo(path) {
        true => open_file(path, OpenOptions::new().read(true).write(true)).map(Some),
        false => Ok(None),
    }
}

fn open_file(path: &str, options: &OpenOptions) -> Result<OwnedFd> {
    options
        .open(path)
        .map(|file: File| file.into())
        .context(|| format!("open stream {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("stdio-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("directory");
        path
    }

    #[test]
    fn names_are_read_as_containerd_means_them() {
        assert_eq!(target("/a/b").expect("path"), Target::Path("/a/b"));
        assert_eq!(target("fifo:///a").expect("fifo"), Target::Path("/a"));
        assert_eq!(target("file:///a").expect("file"), Target::File("/a"));
        assert_eq!(
            target("binary:///a?k=v").expect("binary"),
            Target::Binary("binary:///a?k=v")
        );
        assert!(target("http://a").is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_fifo_opens_without_anyone_at_the_other_end_and_survives_its_going() {
        let directory = directory("fifo");
        let path = directory.join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let name = path.to_str().expect("UTF-8");
        let output = fifo(name, Duration::ZERO).await.expect("open");
        let mut file = File::from(output.write);
        file.write_all(b"one").expect("nobody reads yet");
        let mut reader = File::open(&path).expect("reader");
        let mut got = [0; 3];
        reader.read_exact(&mut got).expect("read");
        drop(reader);
        file.write_all(b"two").expect("nobody reads any more");
        drop(file);
        let mut reader = File::open(&path).expect("reader");
        drop(output.hold);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("the end is seen");
        std::fs::remove_dir_all(&directory).expect("remove");
        assert_eq!((&got, rest.as_str()), (b"one", "two"));
    }

    /// containerd opens FIFOs in the background, after it has asked for the process.
    #[tokio::test(flavor = "current_thread")]
    async fn what_ends_at_once_is_read_by_one_who_comes_late() {
        let directory = directory("late");
        let path = directory.join("out");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let (late, (sender, receiver)) = (path.clone(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            let _ = sender.send(std::fs::read_to_string(late));
        });
        let streams = Streams {
            stdout: path.display().to_string(),
            ..Default::default()
        };
        let output = open(&streams, "", "").await.expect("open").stdout;
        let Output { write, hold } = output.expect("output");
        let flags = fcntl(&write, FcntlArg::F_GETFL).expect("flags");
        assert_eq!(flags & libc::O_NONBLOCK, 0, "what a program gets blocks");
        File::from(write).write_all(b"one").expect("written");
        drop(hold);
        let read = receiver.recv_timeout(Duration::from_secs(20));
        std::fs::remove_dir_all(&directory).expect("remove");
        assert_eq!(read.expect("it was read").expect("read"), "one");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_file_takes_both_streams() {
        let directory = directory("file");
        let path = directory.join("sub/log");
        let uri = format!("file://{}", path.display());
        let streams = Streams {
            stdout: uri.clone(),
            stderr: uri,
            ..Default::default()
        };
        let stdio = open(&streams, "", "").await.expect("open");
        File::from(stdio.stdout.expect("out").write)
            .write_all(b"out ")
            .expect("write");
        File::from(stdio.stderr.expect("err").write)
            .write_all(b"err")
            .expect("write");
        let got = std::fs::read_to_string(&path).expect("read");
        std::fs::remove_dir_all(&directory).expect("remove");
        assert_eq!(got, "out err");
    }
}
