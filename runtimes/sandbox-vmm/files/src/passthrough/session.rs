//! The beginning and the end of a guest's use of what is shared: a mount of it.

use nix::errno::Errno;

use super::Passthrough;
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{InitIn, InitOut, Wire, init};

const MAJOR: u32 = 7;
const MINOR: u32 = 38;
/// Older kernels say less than is read here. Linux 5.17 is the first that does.
const LEAST_MINOR: u32 = 36;

/// The most bytes of content in one request, and how many pages that is.
pub(super) const MOST_BYTES: u32 = 1 << 20;
const MOST_PAGES: u16 = 256;

/// How many requests that nobody waits for the guest's kernel makes at a time. Among them may be as many
/// as wait for a filesystem that hangs (`server::stalled`): others have room beside them.
const MOST_BACKGROUND: u16 = 256;

/// What we do if the guest's kernel knows of it.
///
/// Not among them: a cache that writes back, since the host is to see what was written.
const KNOWN: u32 = init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::FLOCK_LOCKS
    | init::ATOMIC_O_TRUNC
    | init::BIG_WRITES
    | init::DONT_MASK
    | init::AUTO_INVAL_DATA
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::POSIX_ACL
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::SUBMOUNTS
    | init::HANDLE_KILLPRIV_V2
    | init::SETXATTR_EXT
    | init::INIT_EXT;

/// Without these a guest would believe or do what is not so.
const NEEDED: u32 = init::DONT_MASK | init::HANDLE_KILLPRIV_V2 | init::SETXATTR_EXT;

impl Passthrough {
    pub(super) fn init(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let asked: InitIn = request.take()?;
        self.end();
        if asked.major != MAJOR || asked.minor < LEAST_MINOR {
            return Err(Errno::EPROTO);
        }
        let flags = asked.flags & KNOWN;
        if flags & NEEDED != NEEDED {
            return Err(Errno::EPROTO);
        }
        self.tables().begin(flags);
        InitOut {
            major: MAJOR,
            minor: MINOR,
            max_readahead: asked.max_readahead,
            flags,
            max_background: MOST_BACKGROUND,
            congestion_threshold: MOST_BACKGROUND / 4 * 3,
            max_write: MOST_BYTES,
            time_gran: 1,
            max_pages: MOST_PAGES,
            ..InitOut::default()
        }
        .put(&mut self.said);
        Ok(Answer::Said)
    }

    pub(super) fn destroy(&mut self) -> Outcome<Answer> {
        self.end();
        Ok(Answer::Said)
    }

    /// Lets go of all that the guest holds.
    fn end(&self) {
        let gone = self.tables().end();
        drop(gone);
    }
}
