//! Archives in the "newc" format of cpio, which the kernel unpacks its first root from.
//!
//! The format is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst. What is
//! made here depends on nothing but what was asked for: owners are root, times are zero, inode
//! numbers are counted, and the order is the caller's.
//!
//! The kernel makes no parents and says nothing of entries that it can't make, so a mistake would
//! be found as a missing file in a guest. It is an error here instead: a parent must be a directory
//! added before, and nothing may be added twice.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// An archive being made.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// What was added, and whether it can hold more.
    entries: BTreeMap<String, bool>,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";

/// The kernel passes over names longer than this, the zero byte that ends them counted in, and over
/// symbolic links to such.
const LONGEST_PATH: usize = 4096;

impl Archive {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory. Paths are relative to the root, without `.` or `..`; `mode` holds the
    /// permissions only.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, DIRECTORY, mode, (0, 0), &[])
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.add(path, FILE, mode, (0, 0), content)
    }

    /// Adds a symbolic link; any `target` will do that a link can have, there or not.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        if target.is_empty() || target.len() >= LONGEST_PATH || target.contains('\0') {
            bail!("{path} can't be a symbolic link to {target:?}");
        }
        self.add(path, SYMLINK, 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> Result<()> {
        self.add(path, CHARACTER_DEVICE, mode, (major, minor), &[])
    }

    /// The whole archive, with the entry that ends it.
    pub fn finish(mut self) -> Vec<u8> {
        self.push(TRAILER, [0; 8], &[]);
        self.bytes
    }

    fn add(
        &mut self,
        path: &str,
        kind: u32,
        mode: u32,
        (major, minor): (u32, u32),
        content: &[u8],
    ) -> Result<()> {
        self.check(path)?;
        if mode > 0o7777 {
            bail!("{mode:o} is more than the permissions of {path}");
        }
        let size = file_size(path, content.len())?;
        self.entries.insert(path.to_owned(), kind == DIRECTORY);
        let inode = u32::try_from(self.entries.len()).context("too many entries")?;
        // The kernel takes two entries of one inode for one file only where these say it has more
        // links than one; a directory is linked by itself too.
        let links = if kind == DIRECTORY { 2 } else { 1 };
        let fields = [inode, kind | mode, links, size, 0, 0, major, minor];
        self.push(path, fields, content);
        Ok(())
    }

    fn check(&self, path: &str) -> Result<()> {
        let bad = |name: &str| matches!(name, "" | "." | "..") || name.contains('\0');
        if path.split('/').any(bad) {
            bail!("{path:?} can't be in an initramfs: it must be relative to its root, and plain");
        }
        if path == TRAILER || path.len() >= LONGEST_PATH {
            bail!("{path:?} can't be in an initramfs: the kernel would pass over it");
        }
        if self.entries.contains_key(path) {
            bail!("{path} was added to the initramfs before");
        }
        match path.rsplit_once('/') {
            Some((parent, _)) if self.entries.get(parent) != Some(&true) => {
                bail!("{path} has no parent: add the directory {parent} before")
            }
            _ => Ok(()),
        }
    }

    /// `fields` are inode, mode, links, size, and the major and minor numbers of the device it is
    /// on and of the device it is.
    fn push(&mut self, path: &str, fields: [u32; 8], content: &[u8]) {
        let [inode, mode, links, size, on_major, on_minor, major, minor] = fields;
        // No path gets here that is longer than LONGEST_PATH.
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let (owner, group, time, checksum) = (0, 0, 0, 0);
        self.bytes.extend_from_slice(b"070701");
        for field in [
            inode, mode, owner, group, links, time, size, on_major, on_minor, major, minor, name,
            checksum,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    /// Headers and contents begin at multiples of four.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Sizes have eight hexadecimal digits.
fn file_size(path: &str, size: usize) -> Result<u32> {
    u32::try_from(size)
        .with_context(|| format!("{path} is too large for an initramfs: {size} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One entry, as a reader that knows only the format's text sees it.
    #[derive(Debug, PartialEq, Eq)]
    struct Entry {
        inode: u32,
        mode: u32,
        owner: (u32, u32),
        links: u32,
        time: u32,
        on: (u32, u32),
        device: (u32, u32),
        checksum: u32,
        path: String,
        content: Vec<u8>,
    }

    fn read(archive: &[u8]) -> Vec<Entry> {
        let mut at = 0;
        let mut entries = Vec::new();
        loop {
            assert_eq!(at % 4, 0, "a header that isn't aligned");
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |number: usize| {
                let begin = at + 6 + number * 8;
                let digits = std::str::from_utf8(&archive[begin..begin + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (size, name) = (field(6) as usize, field(11) as usize);
            let path = &archive[at + 110..at + 110 + name];
            let (&end, path) = path.split_last().unwrap();
            assert_eq!(end, 0);
            let content = (at + 110 + name).next_multiple_of(4);
            let padding = &archive[at + 110 + name..content];
            assert!(padding.iter().all(|byte| *byte == 0));
            entries.push(Entry {
                inode: field(0),
                mode: field(1),
                owner: (field(2), field(3)),
                links: field(4),
                time: field(5),
                on: (field(7), field(8)),
                device: (field(9), field(10)),
                checksum: field(12),
                path: String::from_utf8(path.to_vec()).unwrap(),
                content: archive[content..content + size].to_vec(),
            });
            at = (content + size).next_multiple_of(4);
            if path == TRAILER.as_bytes() {
                assert_eq!(at, archive.len(), "something after the trailer");
                entries.pop();
                return entries;
            }
        }
    }

    fn entry(inode: u32, mode: u32, path: &str, content: &[u8]) -> Entry {
        Entry {
            inode,
            mode,
            owner: (0, 0),
            links: if mode & DIRECTORY == DIRECTORY { 2 } else { 1 },
            time: 0,
            on: (0, 0),
            device: (0, 0),
            checksum: 0,
            path: path.to_owned(),
            content: content.to_vec(),
        }
    }

    #[test]
    fn what_was_added_is_read_back() {
        let mut archive = Archive::new();
        archive.directory("dev", 0o755).unwrap();
        archive
            .character_device("dev/console", 0o600, 5, 1)
            .unwrap();
        archive.file("init", 0o755, b"seventeen bytes..").unwrap();
        archive.symlink("sbin", "/usr/sbin").unwrap();
        archive.file("empty", 0o444, b"").unwrap();
        let console = Entry {
            device: (5, 1),
            ..entry(2, CHARACTER_DEVICE | 0o600, "dev/console", b"")
        };
        let expected = [
            entry(1, DIRECTORY | 0o755, "dev", b""),
            console,
            entry(3, FILE | 0o755, "init", b"seventeen bytes.."),
            entry(4, SYMLINK | 0o777, "sbin", b"/usr/sbin"),
            entry(5, FILE | 0o444, "empty", b""),
        ];
        assert_eq!(read(&archive.finish()), expected);
    }

    #[test]
    fn names_and_contents_of_every_length_are_aligned() {
        let mut archive = Archive::new();
        for length in 1..=9 {
            let content = vec![b'x'; length];
            archive.file(&"n".repeat(length), 0o644, &content).unwrap();
        }
        let read = read(&archive.finish());
        assert_eq!(read.len(), 9);
        assert!(
            read.iter()
                .all(|entry| entry.path.len() == entry.content.len())
        );
    }

    #[test]
    fn an_empty_archive_is_its_trailer() {
        let bytes = Archive::new().finish();
        assert_eq!(read(&bytes), []);
        assert_eq!(bytes.len(), 124);
    }

    #[test]
    fn the_same_calls_make_the_same_bytes() {
        let make = || {
            let mut archive = Archive::new();
            archive.directory("a", 0o700).unwrap();
            archive.file("a/b", 0o600, b"c").unwrap();
            archive.finish()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn a_bad_path_is_refused() {
        let long = "x".repeat(LONGEST_PATH);
        for path in [
            "", "/init", "a//b", "a/", "./a", "../a", "a/..", "a\0b", TRAILER, &long,
        ] {
            let mut archive = Archive::new();
            archive.directory("a", 0o755).unwrap();
            assert!(archive.file(path, 0o644, b"").is_err(), "{path:?}");
            assert_eq!(read(&archive.finish()).len(), 1, "{path:?} left something");
        }
        assert!(Archive::new().file(&long[1..], 0o644, b"").is_ok());
    }

    #[test]
    fn a_parent_must_be_a_directory_added_before() {
        let mut archive = Archive::new();
        let error = archive.file("dev/null", 0o666, b"").unwrap_err();
        assert!(error.to_string().contains("add the directory dev before"));
        archive.file("dev", 0o644, b"").unwrap();
        assert!(archive.file("dev/null", 0o666, b"").is_err());
    }

    #[test]
    fn nothing_is_added_twice() {
        let mut archive = Archive::new();
        archive.file("init", 0o755, b"one").unwrap();
        let error = archive.symlink("init", "two").unwrap_err();
        assert_eq!(error.to_string(), "init was added to the initramfs before");
    }

    #[test]
    fn a_mode_holds_permissions_only() {
        assert!(Archive::new().file("init", 0o100_755, b"").is_err());
        assert!(Archive::new().file("sudo", 0o4755, b"").is_ok());
    }

    #[test]
    fn a_link_leads_somewhere() {
        let long = "x".repeat(LONGEST_PATH);
        for target in ["", "a\0b", &long] {
            assert!(Archive::new().symlink("link", target).is_err());
        }
    }

    #[test]
    fn what_the_size_field_cannot_hold_is_refused() {
        assert_eq!(file_size("a", 0xffff_ffff).unwrap(), u32::MAX);
        let error = file_size("a", 0x1_0000_0000).unwrap_err();
        assert!(error.to_string().contains("a is too large"));
    }
}
