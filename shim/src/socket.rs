//! The socket of a pod's server: where it is, whether somebody listens there, and listening there.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use trefoil_core::{Context, Error, Result};

/// Longest path that fits a `sockaddr_un`, in bytes; one more is its end mark.
const MAX_SOCKET_PATH: usize = 107;

/// The path in an address like `unix:///run/containerd/s/…`.
pub fn socket_path(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap_or(address))
}

/// Whether a server listens at `address`.
pub fn is_served(address: &str) -> bool {
    UnixStream::connect(socket_path(address)).is_ok()
}

/// Listens at `address`; `None` if the pod's server is there already.
pub fn listen(address: &str) -> Result<Option<UnixListener>> {
    let path = socket_path(address);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        return Err(Error::invalid(format!(
            "listen at {}: the path is longer than the {MAX_SOCKET_PATH} bytes a socket's may be",
            path.display()
        )));
    }
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(directory)
            .context(|| format!("make the socket directory {}", directory.display()))?;
    }
    // Whatever the mask that containerd runs with: nobody but root is served.
    let bind = || {
        let mask = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(mask);
        bound
    };
    match bind() {
        Err(why) if why.kind() == std::io::ErrorKind::AddrInUse => {
            if is_served(address) {
                return Ok(None);
            }
            // A server that was killed left its socket.
            std::fs::remove_file(path)
                .and_then(|()| bind())
                .map(Some)
                .context(|| format!("replace the dead socket {}", path.display()))
        }
        outcome => outcome
            .map(Some)
            .context(|| format!("listen at {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_roots_alone_whatever_the_mask() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("start-socket-{}", std::process::id()));
        let mask = umask(Mode::empty());
        let listener = listen(&format!("unix://{}", path.display()));
        let after = umask(mask);
        let mode = std::fs::metadata(&path).map(|found| found.mode() & 0o7777);
        std::fs::remove_file(&path).expect("remove");
        assert!(listener.expect("listen").is_some());
        assert_eq!(mode.expect("mode"), 0o600);
        assert_eq!(after, Mode::empty());
    }

    #[test]
    fn a_long_socket_path_is_refused_in_words() {
        let address = format!("unix:///{}", "x".repeat(120));
        let why = listen(&address).expect_err("too long");
        assert!(why.to_string().contains("107 bytes"), "{why}");
    }
}
