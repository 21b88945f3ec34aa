//! Noticing that the kernel killed a process of the container because memory ran out.
//!
//! What is counted are kills in the container's cgroup, by the counter `oom_kill` that both
//! versions have. The event that makes the descriptor readable only says that it is worth looking:
//! on v1 an eventfd also fires when memory of a parent ran out and another container's process was
//! killed, and when the cgroup is removed; on v2 inotify fires for every change of `memory.events`.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::error::{Doing, Result, is_absent, unavailable};
use super::file;
use super::layout::{Controller, Layout};
use super::tree::walk;
use super::{Cgroup, parse};

/// v1 fires before it kills: the counter is asked so many times, this long apart, until it has
/// moved.
const COUNTER_TRIES: u32 = 10;
const COUNTER_PAUSE: Duration = Duration::from_millis(1);

/// Watches a cgroup for kills by the OOM killer. Its descriptor is readable when
/// [`OomWatch::drain`] may have news; it never blocks.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    /// The file with the counter. Stays open, so that it is found without a path walk and cannot
    /// become that of another cgroup of the same name.
    counter: File,
    path: PathBuf,
    seen: u64,
    gone: bool,
}

#[derive(Debug)]
enum Source {
    V1 { event: EventFd, dir: PathBuf },
    V2(Inotify),
}

impl Cgroup {
    /// Starts to watch for OOM kills; those that were before do not count. The cgroup must exist.
    ///
    /// # Errors
    /// If the memory controller is not there.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        let unavailable =
            || unavailable("watch for OOM kills in", self.path(), "memory controller");
        let (dir, name) = match &self.layout {
            Layout::V1(_) => {
                let dir = self.v1(Controller::Memory).ok_or_else(unavailable)?;
                (dir, "memory.oom_control")
            }
            Layout::V2(dir) => (dir.as_path(), "memory.events"),
        };
        let path = dir.join(name);
        let counter = match File::open(&path) {
            Ok(counter) => counter,
            Err(error) if is_absent(&error) => return Err(unavailable()),
            Err(error) => return Err(error).doing("open", &path),
        };
        let source = match self.layout {
            Layout::V1(_) => Source::V1 {
                event: subscribe(dir, &counter)?,
                dir: dir.to_path_buf(),
            },
            Layout::V2(_) => {
                let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
                    .doing("make an inotify instance for", &path)?;
                inotify
                    .add_watch(&path, AddWatchFlags::IN_MODIFY)
                    .doing("watch", &path)?;
                Source::V2(inotify)
            }
        };
        let mut watch = OomWatch {
            source,
            counter,
            path,
            seen: 0,
            gone: false,
        };
        watch.seen = watch.count()?;
        Ok(watch)
    }
}

/// Has an eventfd fire when memory runs out in a v1 cgroup.
fn subscribe(dir: &Path, control: &File) -> Result<EventFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .doing("make an eventfd for", dir)?;
    let request = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
    file::write(&dir.join("cgroup.event_control"), &request)?;
    Ok(event)
}

impl OomWatch {
    /// Takes away what made the descriptor readable and tells how many processes were killed since
    /// the last call.
    ///
    /// Call it when the descriptor is readable, and once more when the container's init has exited:
    /// then the last kill has been counted for sure. Once the cgroup is gone the answer is 0, see
    /// [`OomWatch::is_gone`].
    ///
    /// # Errors
    /// If the events or the counter cannot be read.
    pub fn drain(&mut self) -> Result<u64> {
        let fired = match &self.source {
            Source::V1 { event, .. } => match event.read() {
                Ok(_) => true,
                Err(Errno::EAGAIN) => false,
                Err(error) => return Err(error).doing("read the events of", &self.path),
            },
            Source::V2(inotify) => loop {
                match inotify.read_events() {
                    Ok(_) => {}
                    // Nothing is killed between the change of this file and the event.
                    Err(Errno::EAGAIN) => break false,
                    Err(error) => return Err(error).doing("read the events of", &self.path),
                }
            },
        };
        let mut count = self.count()?;
        for _ in 0..COUNTER_TRIES {
            if !fired || self.gone || count != self.seen {
                break;
            }
            sleep(COUNTER_PAUSE);
            count = self.count()?;
        }
        // Below the cgroup others may have gone, with what they had counted.
        let new = count.saturating_sub(self.seen);
        self.seen = count;
        Ok(new)
    }

    /// Whether the cgroup was removed, as far as the last [`OomWatch::drain`] saw. There will be no
    /// more news.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    fn count(&mut self) -> Result<u64> {
        let mut buffer = [0; 512];
        let text = match self.counter.read_at(&mut buffer, 0) {
            Ok(length) => String::from_utf8_lossy(buffer.get(..length).unwrap_or(&[])).into_owned(),
            Err(error) if is_absent(&error) => {
                self.gone = true;
                return Ok(self.seen);
            }
            Err(error) => return Err(error).doing("read", &self.path),
        };
        let own = parse::pair(&text, "oom_kill").unwrap_or(0);
        match &self.source {
            // v1 counts for each cgroup by itself.
            Source::V1 { dir, .. } => Ok(own.saturating_add(count_below(dir)?)),
            Source::V2(_) => Ok(own),
        }
    }
}

fn count_below(dir: &Path) -> Result<u64> {
    let mut count: u64 = 0;
    walk(dir, |place| {
        if !place.is_root
            && let Some(text) = place.read("memory.oom_control")?
        {
            count = count.saturating_add(parse::pair(&text, "oom_kill").unwrap_or(0));
        }
        Ok(())
    })?;
    Ok(count)
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2(inotify) => inotify.as_fd(),
        }
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> i32 {
        self.as_fd().as_raw_fd()
    }
}
