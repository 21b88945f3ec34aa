//! A user's home directory, from the container's own `/etc/passwd`.
//!
//! Read by hand and with care: the C library would load name service modules, and the file is the
//! container's to replace with a pipe that never ends or a device that never stops.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;

use nix::unistd::Uid;

const FILE: &str = "/etc/passwd";
/// As much of the file as is searched.
const LONGEST: u64 = 1 << 20;
/// For users that the container does not know.
const DEFAULT: &str = "/";

/// The home directory of `uid`, by the `/etc/passwd` of the root this process is in now.
pub(crate) fn home_of(uid: Uid) -> String {
    open()
        .and_then(|file| find(file, uid))
        .unwrap_or_else(|| DEFAULT.to_owned())
}

fn open() -> Option<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(FILE)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn find(file: impl Read, uid: Uid) -> Option<String> {
    let mut lines = BufReader::new(file.take(LONGEST));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).ok()? > 0 {
        // name:password:uid:gid:comment:home:shell
        let home = std::str::from_utf8(&line).ok().and_then(|text| {
            let fields: Vec<_> = text.trim().split(':').collect();
            let known: u32 = fields.get(2)?.parse().ok()?;
            let home = fields.get(5).copied().filter(|home| !home.is_empty())?;
            (known == uid.as_raw() && !home.contains('\0')).then(|| home.to_owned())
        });
        if home.is_some() {
            return home;
        }
        line.clear();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "# users\nroot:x:0:0:root:/root:/bin/bash\n\nshort:x:7\n\
        bad:x:no:0::/bad:\nnohome:x:5:5:::/bin/sh\napp:x:1000:1000:App,,,:/home/app:/bin/sh\n\
        late:x:1000:1000::/late:/bin/sh\nlast:x:8:8::/last:/bin/sh";

    fn home(text: &str, uid: u32) -> Option<String> {
        find(text.as_bytes(), Uid::from_raw(uid))
    }

    #[test]
    fn homes_are_found() {
        assert_eq!(home(PASSWD, 0).as_deref(), Some("/root"));
        assert_eq!(home(PASSWD, 1000).as_deref(), Some("/home/app"));
        assert_eq!(home(PASSWD, 8).as_deref(), Some("/last"));
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for uid in [5, 7, 42] {
            assert_eq!(home(PASSWD, uid), None, "{uid}");
        }
        assert_eq!(home("", 0), None);
    }

    #[test]
    fn a_file_without_end_is_given_up_on() {
        assert_eq!(find(std::io::repeat(b'x'), Uid::from_raw(0)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), uid: u32) {
            find(&bytes[..], Uid::from_raw(uid));
        }

        #[test]
        fn a_users_line_is_found_among_others(
            uid in 1_u32..100_000, home in "(/[a-z]{1,6}){1,3}", noise in "[a-z:\n]{0,80}"
        ) {
            let text = format!("{noise}\nuser:x:{uid}:1::{home}:/bin/sh\n");
            prop_assert_eq!(self::home(&text, uid), Some(home));
        }
    }
}
