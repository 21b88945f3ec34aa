//! As whom the server acts.
//!
//! Whether somebody in the guest may do a thing, the guest's kernel has decided; what is left is to
//! whom new files belong, and whether a change takes set-user-id bits away. Both are properties of
//! the thread, which stay until another request needs them otherwise: most follow one of the same
//! user's.

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};

use crate::capabilities;
use crate::fuse::Outcome;

/// As whom the thread acts now.
#[derive(Debug)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    mask: u32,
    /// Changes leave set-user-id bits as they are.
    keeps_suid: bool,
}

impl Credentials {
    /// The thread's own ones, with all of the kept capabilities.
    pub fn new() -> Self {
        umask(Mode::empty());
        Self {
            uid: set_fs_id(libc::setfsuid, u32::MAX),
            gid: set_fs_id(libc::setfsgid, u32::MAX),
            mask: 0,
            keeps_suid: true,
        }
    }

    /// Files made from now on belong to these, and have these bits of their mode cleared.
    pub fn create_as(&mut self, uid: u32, gid: u32, mask: u32) -> Outcome<()> {
        // The last id means "tell me".
        if [uid, gid].contains(&u32::MAX) {
            return Err(Errno::EINVAL);
        }
        if (uid, gid) != (self.uid, self.gid) {
            self.gid = change_fs_id(libc::setfsgid, gid)?;
            self.uid = change_fs_id(libc::setfsuid, uid)?;
            // The kernel takes it back with each change of ids.
            trefoil_jail::end_with_parent()?;
        }
        let mask = mask & 0o777;
        if mask != self.mask {
            umask(Mode::from_bits_truncate(mask));
            self.mask = mask;
        }
        Ok(())
    }

    /// Whether changes from now on take set-user-id and set-group-id bits away, as those of a user
    /// who has not CAP_FSETID.
    pub fn clear_suid(&mut self, clear: bool) -> Outcome<()> {
        if self.keeps_suid == clear {
            capabilities::set_effective(match clear {
                true => capabilities::KEPT & !capabilities::bit(capabilities::FSETID),
                false => capabilities::KEPT,
            })?;
            self.keeps_suid = !clear;
        }
        Ok(())
    }
}

/// `setfsuid` or `setfsgid`.
type SetId = unsafe extern "C" fn(u32) -> libc::c_int;

/// Sets it, or with `u32::MAX` only tells it: the call can't fail, and answers what was before.
fn set_fs_id(call: SetId, id: u32) -> u32 {
    // SAFETY: the call takes a number.
    unsafe { call(id) }.cast_unsigned()
}

fn change_fs_id(call: SetId, id: u32) -> Outcome<u32> {
    set_fs_id(call, id);
    match set_fs_id(call, u32::MAX) {
        now if now == id => Ok(now),
        _ => Err(Errno::EPERM),
    }
}
