//! The oldest kernel that pods are made on.

use nix::sys::utsname::uname;
use trefoil_core::{Context, Error, ErrorKind, Result};

/// Linux 5.14, for `cgroup.kill`; `mount_setattr` takes 5.12. What came later is used where it is there.
const OLDEST: (u32, u32) = (5, 14);

/// Refuses a kernel that is too old, before anything is made that it could not finish.
pub fn check() -> Result<()> {
    let names = uname().context(|| "ask for the kernel's release")?;
    check_release(&names.release().to_string_lossy())
}

fn check_release(release: &str) -> Result<()> {
    let (major, minor) = OLDEST;
    let refused = |why| {
        let message = format!("Linux {release} {why}: pods take {major}.{minor} or later");
        Err(Error::new(ErrorKind::FailedPrecondition, message))
    };
    match version(release) {
        Some(version) if version >= OLDEST => Ok(()),
        Some(_) => refused("is too old"),
        None => refused("has no version that is a number"),
    }
}

/// The first two numbers of a release like `5.14.0-503.el9.x86_64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_is_refused_by_its_name() {
        for right in [
            "5.14.0",
            "5.14-rc1",
            "5.14.0-503.el9.x86_64",
            "6.1",
            "10.0.1+",
        ] {
            assert_eq!(check_release(right), Ok(()), "{right}");
        }
        let why = check_release("4.18.0-553.el8_10.x86_64").expect_err("old");
        assert_eq!(
            why.to_string(),
            "Linux 4.18.0-553.el8_10.x86_64 is too old: pods take 5.14 or later"
        );
        for wrong in ["5.13.19", "5.9", "", "x", "6", "5.x"] {
            check_release(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn this_one_is_not_too_old() {
        check().expect("new enough");
    }
}
