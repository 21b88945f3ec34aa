//! Session keyrings: keyrings(7). They are inherited across `fork` and `execve` and know no namespaces.

use std::io;

use nix::errno::Errno;

/// `KEY_SPEC_SESSION_KEYRING`: the caller's own, whichever that is.
const OWN_SESSION: i32 = -3;

/// Leaves the inherited session keyring for a new, empty one without a name. A kernel without keyrings
/// has nothing to share, and is no error. May be called between fork and execve.
///
/// # Errors
/// `EDQUOT` if the user has too many.
pub fn leave_session() -> io::Result<()> {
    match keyctl(libc::KEYCTL_JOIN_SESSION_KEYRING, 0, 0) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// The number of the session keyring that this thread has; it is made if there is none.
///
/// # Errors
/// `ENOSYS` on a kernel without keyrings.
pub fn session() -> io::Result<i64> {
    Ok(keyctl(libc::KEYCTL_GET_KEYRING_ID, OWN_SESSION, 1)?)
}

/// The two operations take a number each, of which 0 is a null name to the first.
fn keyctl(operation: u32, first: i32, second: i32) -> Result<libc::c_long, Errno> {
    let (operation, second) = (libc::c_ulong::from(operation), libc::c_long::from(second));
    // SAFETY: both operations take numbers, and no memory is read where the first has no name.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            operation,
            libc::c_long::from(first),
            second,
        )
    };
    Errno::result(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_left_for_another() {
        // Of this thread alone: tests beside it keep theirs.
        std::thread::spawn(|| {
            let before = session().expect("a keyring");
            leave_session().expect("another");
            assert_ne!(session().expect("that"), before);
        })
        .join()
        .expect("the thread");
    }
}
