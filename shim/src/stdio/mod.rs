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
        stdio.stdout = output(&streams.stdout)?;
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
            stdio.stderr = output(&streams.stderr)?;
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

fn output(name: &str) -> Result<Option<Output>> {
    if name.is_empty() {
        return Ok(None);
    }
    let (path, hold) = match target(name)? {
        Target::Path(path) => (path, hold(path)?),
        Target::File(path) => (path, None),
        Target::Binary(_) => {
            return Err(Error::invalid(format!(
                "open stream {name}: a logging program takes both output streams, or none"
            )));
        }
    };
    let write = match &hold {
        Some(_) => open_file(path, OpenOptions::new().write(true))?,
        None => {
            if let Some(directory) = Path::new(path).parent() {
                std::fs::create_dir_all(directory)
                    .context(|| format!("make the directory {}", directory.display()))?;
            }
            open_file(
                path,
                OpenOptions::new().append(true).create(true).mode(0o644),
            )?
        }
    };
    Ok(Some(Output { write, hold }))
}

/// Holds a FIFO open for both ways, so that no other opening of it waits and none of its ends sees the
/// other go. `None` for what is no FIFO.
fn hold(path: &str) -> Result<Option<OwnedFd>> {
    match std::fs::metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {
            open_file(path, OpenOptions::new().read(true).write(true)).map(Some)
        }
        _ => Ok(None),
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
        let streams = Streams {
            stdout: path.display().to_string(),
            ..Default::default()
        };
        let stdio = open(&streams, "", "").await.expect("open");
        let output = stdio.stdout.expect("output");
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
