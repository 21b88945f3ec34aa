//! Extended attributes.
//!
//! Which of them a guest may use, the kernel decides by what the server has: `user.*`,
//! `security.capability` (CAP_SETFCAP) and access lists. `trusted.*` and the labels of security
//! modules need CAP_SYS_ADMIN, and are the host's; for those of an overlay see [`overlay`].

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use rustix::fs::{XattrFlags, getxattr, getxattr_query, listxattr, removexattr, setxattr};

use super::{Passthrough, overlay, place};
use crate::fuse::Outcome;
use crate::fuse::answer::Answer;
use crate::fuse::request::Request;
use crate::fuse::wire::{GetxattrIn, GetxattrOut, SETXATTR_ACL_KILL_SGID, SetxattrIn, Wire};

/// The longest value, and list of names, that the kernel knows (`XATTR_SIZE_MAX`).
const MOST: usize = 64 << 10;

/// What access lists are called.
const ACCESS_LISTS: [&CStr; 2] = [c"system.posix_acl_access", c"system.posix_acl_default"];

impl Passthrough {
    pub(super) fn getxattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let GetxattrIn { size, .. } = request.take()?;
        let name = request.text()?;
        let hosts = overlay::to_hosts(name, Errno::ENODATA)?;
        let place = place(self.attributed(request)?.as_fd());
        let outcome = self.say_value(size, |room| {
            // rustix has a function of its own for asking how long it is.
            let length = match room.is_empty() {
                true => getxattr_query(place.as_c_str(), &*hosts),
                false => getxattr(place.as_c_str(), &*hosts, room),
            };
            length.map_err(errno)
        });
        match outcome {
            // The guest's kernel asks for them itself, and would take this for a failure.
            Err(Errno::EOPNOTSUPP) if ACCESS_LISTS.contains(&name) => Err(Errno::ENODATA),
            outcome => outcome,
        }
    }

    pub(super) fn listxattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let GetxattrIn { size, .. } = request.take()?;
        let place = place(self.attributed(request)?.as_fd());
        let mut names = vec![0; MOST];
        let length = listxattr(place.as_c_str(), names.as_mut_slice()).map_err(errno)?;
        names.truncate(length);
        let names = overlay::list_to_guests(&names);
        self.say_value(size, |room| match room.len() {
            0 => Ok(names.len()),
            length if length < names.len() => Err(Errno::ERANGE),
            _ => {
                room[..names.len()].copy_from_slice(&names);
                Ok(names.len())
            }
        })
    }

    /// Answers with a value, or, if no room for it is given, with its length.
    fn say_value(
        &mut self,
        size: u32,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Outcome<Answer> {
        let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?.min(MOST);
        self.said.resize(size, 0);
        let length = read(&mut self.said)?;
        if size == 0 {
            let size = u32::try_from(length).map_err(|_| Errno::E2BIG)?;
            GetxattrOut { size, padding: 0 }.put(&mut self.said);
        } else {
            self.said.truncate(length);
        }
        Ok(Answer::Said)
    }

    pub(super) fn setxattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let SetxattrIn {
            size,
            flags,
            setxattr_flags,
            ..
        } = request.take()?;
        let name = request.text()?;
        let hosts = overlay::to_hosts(name, Errno::EPERM)?;
        let value = request.bytes(usize::try_from(size).map_err(|_| Errno::E2BIG)?)?;
        let clear = setxattr_flags & SETXATTR_ACL_KILL_SGID != 0;
        self.credentials.clear_suid(clear)?;
        let place = place(self.attributed(request)?.as_fd());
        let flags = XattrFlags::from_bits_retain(flags);
        match setxattr(place.as_c_str(), &*hosts, value, flags).map_err(errno) {
            // Only files and directories can have what users name. Of the others an overlay notes where
            // they came from, which it can do without.
            Err(Errno::EPERM) if overlay::is_mark(name) && !self.has_users(request)? => {}
            outcome => outcome?,
        }
        Ok(Answer::Said)
    }

    /// Whether the file that is meant can have attributes of users.
    fn has_users(&self, request: &Request<'_>) -> Outcome<bool> {
        let kind = self.inode(request.header.nodeid)?.kind;
        Ok(matches!(kind, libc::S_IFREG | libc::S_IFDIR))
    }

    pub(super) fn removexattr(&mut self, request: &mut Request<'_>) -> Outcome<Answer> {
        let name = overlay::to_hosts(request.text()?, Errno::EPERM)?;
        let place = place(self.attributed(request)?.as_fd());
        removexattr(place.as_c_str(), &*name).map_err(errno)?;
        Ok(Answer::Said)
    }

    /// The file whose attributes are meant.
    fn attributed(&self, request: &Request<'_>) -> Outcome<Arc<OwnedFd>> {
        Ok(self.inode(request.header.nodeid)?.file)
    }
}

fn errno(why: rustix::io::Errno) -> Errno {
    Errno::from_raw(why.raw_os_error())
}
