//! That the namespaces are the process's own. The parent makes them when it makes the process; that
//! it did is looked up, since all that follows would hit the host otherwise.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::sethostname;

use crate::Failure;

/// Those that are looked up. That of processes is known by being their first.
const OWN: [&str; 4] = ["mnt", "net", "ipc", "uts"];

/// Fails unless this process has one thread and namespaces of its own: of processes, whose first it
/// is, of mounts, networks, IPC and host names.
///
/// # Errors
/// Which of that is not so.
pub fn verify() -> Result<(), Failure> {
    let doing = "look at the process's own namespaces";
    if std::process::id() != 1 {
        return Err(Failure::new(
            doing,
            "it is not the first process of a namespace of its own",
        ));
    }
    // Here /proc is still the parent's: it has the parent's ids.
    let status = fs::read_to_string("/proc/self/stat").map_err(Failure::at(doing))?;
    let Some([parent, threads]) = parent_and_threads(&status) else {
        return Err(Failure::new(doing, "/proc/self/stat is not as expected"));
    };
    if threads != 1 {
        let why = format!("it has {threads} threads, of which only one would be confined");
        return Err(Failure::new(doing, why));
    }
    if parent == 0 {
        return Err(Failure::new(doing, "/proc does not show its parent"));
    }
    for name in OWN {
        let id = |whose: &str| {
            let link = format!("/proc/{whose}/ns/{name}");
            let status =
                fs::metadata(&link).map_err(|why| Failure::new(doing, format!("{link}: {why}")))?;
            Ok((status.dev(), status.ino()))
        };
        if id("self")? == id(&parent.to_string())? {
            let why = format!("it shares the {name} namespace with its parent");
            return Err(Failure::new(doing, why));
        }
    }
    Ok(())
}

/// The two numbers out of a line of `/proc/PID/stat`.
fn parent_and_threads(line: &str) -> Option<[u32; 2]> {
    // The second field is the name, in parentheses, with anything in it.
    let (_, rest) = line.rsplit_once(')')?;
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse().ok();
    Some([field(4)?, field(20)?])
}

/// Gives the process and its own host a name.
///
/// # Errors
/// If the host's name is not the process's own to change.
pub fn rename(name: &CStr) -> Result<(), Failure> {
    let doing = "set the host's and the process's name";
    sethostname(OsStr::from_bytes(name.to_bytes())).map_err(Failure::at(doing))?;
    // SAFETY: no byte is read.
    let outcome = unsafe { libc::setdomainname(name.as_ptr(), 0) };
    Errno::result(outcome).map_err(Failure::at(doing))?;
    prctl::set_name(name).map_err(Failure::at(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_and_the_threads_are_found() {
        let line = "7 (a) b) S 5 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 100 0 0";
        assert_eq!(parent_and_threads(line), Some([5, 3]));
        assert_eq!(parent_and_threads("7 (a) S 5"), None);
        assert_eq!(parent_and_threads(""), None);
        let own = fs::read_to_string("/proc/self/stat").expect("read");
        let [parent, threads] = parent_and_threads(&own).expect("parse");
        assert_eq!(parent, std::os::unix::process::parent_id());
        assert!(threads >= 1);
    }

    #[test]
    fn a_process_among_others_is_refused() {
        let why = verify().expect_err("not the first");
        assert!(why.to_string().contains("not the first process"), "{why}");
    }
}
