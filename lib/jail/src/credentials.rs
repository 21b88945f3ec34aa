//! Who the process is: after this, nobody in particular, without a way to become anybody.

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::Failure;

/// Capabilities are the kernel's only: a program of root's has none, a change of user ids neither
/// gives nor takes any, and none is kept or handed on. And that stays so.
const SECURE_BITS: libc::c_int = libc::SECBIT_NOROOT
    | libc::SECBIT_NOROOT_LOCKED
    | libc::SECBIT_NO_SETUID_FIXUP
    | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
    | libc::SECBIT_KEEP_CAPS_LOCKED
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

/// Fails if these are no ids to become.
///
/// # Errors
/// Which is not.
pub fn check(uid: u32, gid: u32) -> Result<(), Failure> {
    for (what, id) in [("user", uid), ("group", gid)] {
        // The last one means "leave it as it is".
        if [0, u32::MAX].contains(&id) {
            let why = format!("{id} is not an unprivileged {what}'s");
            return Err(Failure::new(format!("become {what} {id}"), why));
        }
    }
    Ok(())
}

/// Becomes this user and group, with no capability but those `kept` (a bit each), and no way to
/// another.
///
/// # Errors
/// What could not be given up.
pub fn drop_all(uid: u32, gid: u32, kept: u64) -> Result<(), Failure> {
    for capability in 0..=63 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // The kernel has no such capability: that was all.
            Err(Errno::EINVAL) if capability > 0 => break,
            Err(why) => {
                let doing = format!("drop capability {capability} for ever");
                return Err(Failure::new(doing, why));
            }
        }
    }
    prctl(
        libc::PR_CAP_AMBIENT,
        libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs(),
        0,
    )
    .map_err(Failure::at("drop the ambient capabilities"))?;
    prctl(libc::PR_SET_SECUREBITS, SECURE_BITS.unsigned_abs(), 0)
        .map_err(Failure::at("lock the secure bits"))?;

    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&[]).map_err(Failure::at("leave all groups"))?;
    setresgid(group, group, group)
        .map_err(|why| Failure::new(format!("become group {group}"), why))?;
    setresuid(user, user, user).map_err(|why| Failure::new(format!("become user {user}"), why))?;
    set_capabilities(kept, kept).map_err(Failure::at("drop capabilities"))?;

    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(Failure::at("forgo new privileges"))?;
    // Nobody but root may trace the process or read its memory.
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(Failure::at("forbid others to look in"))?;
    trefoil_os::keyring::leave_session().map_err(Failure::at("join a new session keyring"))?;
    umask(Mode::from_bits_truncate(0o077));
    Ok(())
}

fn prctl(option: libc::c_int, first: u32, second: u32) -> Result<(), Errno> {
    let [first, second] = [first, second].map(libc::c_ulong::from);
    let none: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    Errno::result(unsafe { libc::prctl(option, first, second, none, none) }).map(drop)
}

/// Sets which capabilities the thread may have and which it has, a bit each. It hands none on.
///
/// # Errors
/// If it is to have one that it may not.
pub fn set_capabilities(permitted: u64, effective: u64) -> Result<(), Errno> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).map_err(|why| Errno::from_raw(why.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_refused() {
        check(1, 1).expect("nobody");
        let why = check(0, 1).expect_err("root");
        assert_eq!(
            why.to_string(),
            "become user 0: 0 is not an unprivileged user's"
        );
        check(1, 0).expect_err("root's group");
        check(u32::MAX, 1).expect_err("no change");
        check(1, u32::MAX).expect_err("no change");
    }
}
