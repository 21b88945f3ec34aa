//! Volumes that the host changes as a whole: ConfigMaps, Secrets and the like, as kubelet lays them out
//! (kubernetes/pkg/volume/util/atomic_writer.go). Of these the guest has copies, and is told when the
//! link `..data` leads to something new.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Weak;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::task::JoinHandle;
use trefoil_agent_protocol::service::VolumeRequest;
use trefoil_core::{Context, Result};

use crate::guest::Guest;
use crate::guest::agent::{answer, making};

/// The link to the files of now.
const DATA: &str = "..data";

/// How many names a volume may have that is copied.
const MOST_NAMES: usize = 4096;

/// Tells a guest of a volume's changes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    /// Watches the volume at `path` of the host, and does what `tell` says when it has changed. Must be called
    /// within the event loop.
    ///
    /// # Errors
    /// The kernel's: `ENOSPC` or `EMFILE` if this user watches too much already.
    pub fn start<T>(path: &Path, tell: impl Fn() -> T + Send + 'static) -> Result<Self>
    where
        T: Future<Output = ()> + Send,
    {
        let doing = || format!("watch {} for changes", path.display());
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let inotify = Inotify::init(flags).context(doing)?;
        let kinds = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(path, kinds).context(doing)?;
        let readable = trefoil_os::watched::readable(OwnedFd::from(inotify)).context(doing)?;
        Ok(Self(tokio::spawn(async move {
            while let Ok(mut ready) = readable.readable().await {
                if has_swapped(&readable) {
                    tell().await;
                } else {
                    ready.clear_ready();
                }
            }
        })))
    }
}

/// Takes what has happened, all of it: whether anything was renamed into its place. Which name that was
/// does not matter: there is little else in such a volume, and the guest looks for itself.
fn has_swapped(inotify: &tokio::io::unix::AsyncFd<OwnedFd>) -> bool {
    let mut room = [0; 4096];
    let mut any = false;
    loop {
        match nix::unistd::read(inotify, &mut room) {
            Ok(1..) => any = true,
            Err(Errno::EINTR) => {}
            _ => return any,
        }
    }
}

/// Has the guest copy a volume again.
pub(crate) async fn tell(guest: &Weak<Guest>, name: &str) {
    let Some(guest) = guest.upgrade() else {
        return;
    };
    let request = VolumeRequest {
        share: name.to_owned(),
        ..Default::default()
    };
    let refresh = guest.agent.client.refresh_volume(making(), &request);
    if let Err(why) = answer(|| format!("have the guest copy {name} again"), refresh).await {
        log::warn!("{why}");
    }
}

/// Whether what is at a path is laid out as kubelet does: a link `..data` to a directory beside it, and
/// nothing else but links through that and names that begin with two dots.
pub(crate) fn is_swapped(path: &Path) -> bool {
    let is_name = |target: PathBuf| {
        let mut parts = target.components();
        let first = matches!(parts.next(), Some(Component::Normal(name)) if is_internal(name));
        first && parts.next().is_none()
    };
    let is_data = fs::read_link(path.join(DATA)).is_ok_and(is_name);
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    let is_of_it = |entry: fs::DirEntry| {
        is_internal(&entry.file_name())
            || fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(DATA))
    };
    let mut entries = entries.take(MOST_NAMES + 1).enumerate();
    is_data && entries.all(|(number, entry)| number < MOST_NAMES && entry.is_ok_and(is_of_it))
}

/// Those names are kubelet's own.
fn is_internal(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"..")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn kubelets_layout_is_told_from_others() {
        let volume = tempfile::tempdir().expect("volume");
        let at = |name: &str| volume.path().join(name);
        assert!(!is_swapped(volume.path()));
        fs::create_dir(at("..1")).expect("version");
        symlink("..1", at(DATA)).expect("data");
        symlink("..data/key", at("key")).expect("key");
        assert!(is_swapped(volume.path()));
        fs::write(at("file"), "").expect("file");
        assert!(!is_swapped(volume.path()), "a file of somebody's");
        fs::remove_file(at("file")).expect("remove");
        symlink("/etc/passwd", at("link")).expect("link");
        assert!(!is_swapped(volume.path()), "a link to elsewhere");
        fs::remove_file(at("link")).expect("remove");
        fs::remove_file(at(DATA)).expect("remove");
        for target in ["..1/x", "/etc", "plain", "..", "../.."] {
            symlink(target, at(DATA)).expect("data");
            assert!(!is_swapped(volume.path()), "{target}");
            fs::remove_file(at(DATA)).expect("remove");
        }
        assert!(!is_swapped(&at("none")));
    }
}
