//! Tells of everything that is opened, read, written, made or removed in a filesystem, by fanotify(7).

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is told of, with its name.
const EVENTS: [(u64, &str); 14] = [
    (libc::FAN_OPEN, "opened"),
    (libc::FAN_OPEN_EXEC, "executed"),
    (libc::FAN_ACCESS, "read"),
    (libc::FAN_MODIFY, "written"),
    (libc::FAN_CLOSE_WRITE, "closed after writing"),
    (libc::FAN_CLOSE_NOWRITE, "closed"),
    (libc::FAN_ATTRIB, "given other attributes"),
    (libc::FAN_CREATE, "made"),
    (libc::FAN_DELETE, "removed"),
    (libc::FAN_DELETE_SELF, "gone"),
    (libc::FAN_MOVED_FROM, "moved away"),
    (libc::FAN_MOVED_TO, "moved here"),
    (libc::FAN_MOVE_SELF, "moved"),
    (libc::FAN_Q_OVERFLOW, "touched more often than can be told"),
];

/// Bytes of an event before what says which file it is about. Source: `struct
/// fanotify_event_metadata` of linux/fanotify.h.
const HEAD: usize = 24;

/// A watch upon a whole filesystem.
pub struct Watcher(OwnedFd);

impl Watcher {
    /// Watches the filesystem that `path` is in.
    pub fn new(path: &Path) -> Self {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_REPORT_DFID_NAME;
        // SAFETY: fanotify_init takes numbers.
        let fd = unsafe { libc::fanotify_init(flags, 0) };
        assert!(fd >= 0, "fanotify: {}", std::io::Error::last_os_error());
        // SAFETY: the kernel has just made this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = EVENTS
            .iter()
            .map(|(event, _)| event)
            .filter(|event| **event != libc::FAN_Q_OVERFLOW)
            .fold(libc::FAN_ONDIR, |all, event| all | event);
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the name is a C string that lives through the call.
        let outcome = unsafe {
            libc::fanotify_mark(fd.as_raw_fd(), flags, events, libc::AT_FDCWD, name.as_ptr())
        };
        assert_eq!(outcome, 0, "watch: {}", std::io::Error::last_os_error());
        Self(fd)
    }

    /// What has happened since the last call, each in one line.
    pub fn drain(&self) -> Vec<String> {
        let mut told = Vec::new();
        let mut buffer = vec![0_u8; 64 * 1024];
        loop {
            match rustix::io::read(&self.0, &mut buffer[..]) {
                Ok(length) => told.extend(events(&buffer[..length])),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(why) => panic!("read what was watched: {why}"),
            }
        }
        told.dedup();
        told
    }
}

fn events(mut bytes: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    while bytes.len() >= HEAD {
        let length = number(bytes, 0, 4);
        let Some(event) = bytes.get(..length).filter(|event| event.len() >= HEAD) else {
            break;
        };
        let mask = number(event, 8, 8) as u64;
        let what: Vec<_> = EVENTS
            .iter()
            .filter(|(bit, _)| mask & bit != 0)
            .map(|(_, name)| *name)
            .collect();
        let pid = number(event, 20, 4);
        let name = name(&event[HEAD..]).unwrap_or_default();
        told.push(format!(
            "{name:?} was {} by process {pid}",
            what.join(" and ")
        ));
        bytes = &bytes[length..];
    }
    told
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    let mut wide = [0; 8];
    wide[..length].copy_from_slice(&bytes[at..at + length]);
    usize::try_from(u64::from_ne_bytes(wide)).unwrap()
}

/// The name in the first record, which is of the kind that has one: after a header of 4 bytes and a
/// filesystem's number of 8 comes a handle, with its length first. Source: `struct
/// fanotify_event_info_fid`.
fn name(records: &[u8]) -> Option<String> {
    let length = number(records.get(..16)?, 12, 4);
    let name = records
        .get(20 + length..)?
        .split(|byte| *byte == 0)
        .next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}
