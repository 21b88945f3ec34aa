//! A read-only image registry on loopback: as much of the distribution protocol as pulling needs.
//!
//! It serves whatever [`crate::images`] made, under every registry's name: containerd is told to
//! ask it first, and says in the query which registry it means, which we don't care about.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A running registry; it stops when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    /// Wakes the thread that accepts; a connection from here would be in another network.
    listener: TcpListener,
}

struct Content {
    blobs: PathBuf,
    tags: BTreeMap<String, String>,
}

impl Registry {
    /// Serves the images in a directory on a listening socket, which may be of another network
    /// namespace than ours.
    pub fn serve(listener: TcpListener, images: &Path) -> Result<Self> {
        let tags = serde_json::from_slice(&fs::read(images.join("tags.json"))?)?;
        let content = Arc::new(Content {
            blobs: images.join("blobs"),
            tags,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let address = listener.local_addr()?;
        let (accepting, stopping) = (listener.try_clone()?, stop.clone());
        thread::spawn(move || {
            for connection in accepting.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(connection) = connection else { continue };
                let content = content.clone();
                // A client that goes away in the middle is its own affair.
                thread::spawn(move || drop(content.converse(connection)));
            }
        });
        Ok(Self {
            address,
            stop,
            listener,
        })
    }

    /// Where it listens, in its network namespace.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        self.stop.store(true, Ordering::Relaxed);
        // The thread wakes with an error, and sees that it is to stop.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

enum Answer {
    Empty,
    File {
        path: PathBuf,
        kind: &'static str,
        digest: String,
    },
    Missing,
    Refused,
}

impl Content {
    /// Answers requests until the client has no more.
    fn converse(&self, connection: TcpStream) -> Result<()> {
        let mut writer = connection.try_clone()?;
        let mut reader = BufReader::new(connection);
        loop {
            let mut request = String::new();
            if reader.read_line(&mut request)? == 0 {
                return Ok(());
            }
            // The headers say nothing we need; requests that we take have no body.
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header)? <= 2 {
                    break;
                }
            }
            let mut words = request.split_whitespace();
            let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let path = target.split('?').next().unwrap_or("");
            let answer = match method {
                "GET" | "HEAD" => self.find(path),
                _ => Answer::Refused,
            };
            let refused = matches!(answer, Answer::Refused);
            reply(&mut writer, answer, method == "GET")?;
            if refused {
                // A body may follow that we would take for a request.
                return Ok(writer.shutdown(Shutdown::Both)?);
            }
        }
    }

    fn find(&self, path: &str) -> Answer {
        let Some(path) = path.strip_prefix("/v2/") else {
            return Answer::Missing;
        };
        if path.is_empty() {
            return Answer::Empty;
        }
        let (digest, kind) = if let Some((name, reference)) = path.split_once("/manifests/") {
            let digest = match self.tags.get(&format!("{name}:{reference}")) {
                Some(digest) => digest.clone(),
                None => reference.to_owned(),
            };
            (digest, MANIFEST)
        } else if let Some((_, digest)) = path.split_once("/blobs/") {
            (digest.to_owned(), "application/octet-stream")
        } else {
            return Answer::Missing;
        };
        // Only ever a name that a digest can have, so never a path out of the directory.
        let hex = digest.strip_prefix("sha256:").unwrap_or("");
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Answer::Missing;
        }
        let path = self.blobs.join(&digest);
        if path.is_file() {
            Answer::File { path, kind, digest }
        } else {
            Answer::Missing
        }
    }
}

fn reply(writer: &mut impl Write, answer: Answer, with_body: bool) -> Result<()> {
    match answer {
        Answer::Empty => write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?,
        Answer::Missing => write!(
            writer,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        )?,
        Answer::Refused => write!(
            writer,
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?,
        Answer::File { path, kind, digest } => {
            let mut file =
                File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            write!(
                writer,
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\r\n",
                file.metadata()?.len()
            )?;
            if with_body {
                std::io::copy(&mut file, writer)?;
            }
        }
    }
    Ok(writer.flush()?)
}
