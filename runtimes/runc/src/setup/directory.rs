//! The working directory must lie inside the container.
//!
//! A directory descriptor that leaks from the host is reachable as `/proc/self/fd/N`; a process
//! whose working directory is there walks the host with relative paths (CVE-2024-21626). All
//! descriptors are closed before the directory is entered, and where we arrived is checked.

use std::path::Path;

use super::error::{Doing, Failure};

/// The step, for its error.
pub(crate) fn entering(cwd: &Path) -> String {
    format!("chdir to cwd ({:?})", cwd.display().to_string())
}

/// Fails unless the current directory is below the current root.
pub(crate) fn verify_inside(cwd: &Path) -> Result<(), Failure> {
    // rustix makes the system call itself. The C library's function walks ".." when the kernel says
    // "(unreachable)", and may come back with a path that looks harmless.
    let path = rustix::process::getcwd(Vec::new()).doing(|| {
        format!(
            "verify the working directory {:?}",
            cwd.display().to_string()
        )
    })?;
    match path.as_bytes().first() {
        Some(b'/') => Ok(()),
        _ => Err(Failure::new(format!(
            "the working directory {:?} lies outside the container's root filesystem",
            cwd.display().to_string()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, chdir, chroot, fork};
    use trefoil_os::process::exit_now;

    /// What a process finds whose root is `root` and whose directory is `cwd`.
    fn verdict(root: &str, cwd: &str) -> bool {
        assert!(
            nix::unistd::geteuid().is_root(),
            "chroot needs root: run the tests as root"
        );
        // SAFETY: the C library makes the allocator usable in a forked child, and the child uses
        // nothing else that another thread of this process may have locked.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let prepared = chdir(cwd).and_then(|()| chroot(root));
                let inside = verify_inside(Path::new(cwd));
                let status = match (prepared, inside) {
                    (Ok(()), Ok(())) => 0,
                    (Ok(()), Err(why)) if why.to_string().contains("lies outside") => 1,
                    _ => 2,
                };
                exit_now(status)
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, 0) => true,
                WaitStatus::Exited(_, 1) => false,
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn a_directory_outside_the_root_is_found_out() {
        assert!(verdict("/", "/etc"));
        assert!(verdict("/usr", "/usr/bin"));
        assert!(!verdict("/usr", "/etc"));
        assert!(!verdict("/usr", "/"));
    }
}
