//! The kernel's table of mounts, `/proc/<pid>/mountinfo`, as in proc_pid_mountinfo(5), and taking mounts
//! away that somebody has left.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::{Context, Error, Result};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Its number, as statx(2) tells it, too.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// What of its filesystem it shows.
    pub root: PathBuf,
    /// Where it is mounted, as seen from the root of the process that has the table.
    pub point: PathBuf,
    /// The mount's own options.
    pub options: Vec<String>,
    /// The filesystem's type.
    pub kind: String,
    /// The filesystem's options.
    pub super_options: Vec<String>,
}

/// Mounts lie upon each other in one place at most this often; more is a loop of our own making.
const MOST_IN_ONE_PLACE: usize = 128;

/// Unmounts all that is mounted at `target`, and with it what is mounted below. Returns how many lay
/// upon each other there; 0 if none did or there is no such place.
///
/// # Errors
/// What the kernel refuses.
pub fn unmount_all(target: &Path) -> Result<usize> {
    let doing = || format!("unmount {}", target.display());
    for done in 0..MOST_IN_ONE_PLACE {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(done),
            Err(why) => return Err(why).context(doing),
        }
    }
    Err(Error::invalid(doing(), "there is always one more"))
}

/// Reads a table, in its order. What is no line of such a table is left out.
pub fn parse(table: &[u8]) -> impl Iterator<Item = MountInfo> + '_ {
    table.split(|byte| *byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let (id, parent, _device) = (number(next()?)?, number(next()?)?, next()?);
    let (root, point, options) = (path(next()?), path(next()?), list(next()?));
    // A variable number of optional fields ends with a lone dash.
    while next()? != b"-" {}
    let kind = text(next()?);
    let _source = next()?;
    Some(MountInfo {
        id,
        parent,
        root,
        point,
        options,
        kind,
        super_options: list(next()?),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    text(field).split(',').map(str::to_owned).collect()
}

/// Undoes the octal escapes: space, tab, newline and backslash are written as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (byte, tail)
        {
            out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
            rest = after;
        } else {
            out.push(byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_all_that_is_in_it() {
        let table = b"36 35 98:0 /a\\040b /mnt\\0112\\134 rw,noatime master:1 propagate_from:2 - ext3 \
                      /dev/root rw,errors=continue\nnonsense\n37 36 0:5 / /proc rw - proc proc rw\n";
        let mounts: Vec<_> = parse(table).collect();
        let [first, second] = mounts.as_slice() else {
            panic!("{mounts:?}")
        };
        assert_eq!((first.id, first.parent), (36, 35));
        assert_eq!(first.root, PathBuf::from("/a b"));
        assert_eq!(first.point, PathBuf::from("/mnt\t2\\"));
        assert_eq!(first.options, ["rw", "noatime"]);
        assert_eq!(first.kind, "ext3");
        assert_eq!(first.super_options, ["rw", "errors=continue"]);
        assert_eq!((second.id, second.kind.as_str()), (37, "proc"));
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        for odd in ["\\", "\\04", "\\400", "\\08x", "a\\"] {
            assert_eq!(unescape(odd.as_bytes()), odd.as_bytes(), "{odd}");
        }
    }

    #[test]
    fn our_own_table_is_read_to_the_end() {
        let table = std::fs::read("/proc/self/mountinfo").expect("read");
        let lines = table.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(parse(&table).count(), lines);
    }

    proptest! {
        #[test]
        fn anything_is_read(table: Vec<u8>) {
            parse(&table).for_each(drop);
        }

        #[test]
        fn unescape_undoes_the_kernel(name: Vec<u8>) {
            let escaped: Vec<u8> = name.iter().flat_map(|byte| match byte {
                b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
                other => vec![*other],
            }).collect();
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
