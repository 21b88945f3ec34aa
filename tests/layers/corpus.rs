//! Layers of all that a tar archive can hold and that two versions of a program might take for different things.

use std::io::{self, Read, Write};

use anyhow::Result;
use tar::{Builder, EntryType, Header};

/// A layer's name, and what writes it.
pub type Case = (&'static str, fn(&mut Archive<'_>) -> Result<()>);

pub const CASES: &[Case] = &[
    ("an empty archive", |_| Ok(())),
    ("hard links", hard_links),
    ("an extended attribute for each file", attributes),
    ("whiteouts and opaque directories", whiteouts),
    ("devices, FIFOs and links", devices),
    ("sparse files and zeros", sparse),
    ("names that are not UTF-8, and long ones", names),
    ("directories that have no entry", implied),
    ("entries that come twice", repeated),
    ("owners, modes and times", owners),
    ("equal files", equal),
];

/// Those that take minutes.
pub const LARGE: &[Case] = &[("100,000 files", many), ("a file of more than 4 GiB", long)];

/// An archive being written.
pub struct Archive<'a>(Builder<&'a mut dyn Write>);

impl<'a> Archive<'a> {
    pub fn write(to: &'a mut dyn Write, case: Case) -> Result<()> {
        let mut archive = Archive(Builder::new(to));
        case.1(&mut archive)?;
        archive.0.finish()?;
        Ok(())
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    }

    fn add(&mut self, mut header: Header, path: impl AsRef<[u8]>, content: &[u8]) -> Result<()> {
        self.add_from(&mut header, path, content)
    }

    fn add_from(
        &mut self,
        header: &mut Header,
        path: impl AsRef<[u8]>,
        from: impl Read,
    ) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(path.as_ref());
        Ok(self.0.append_data(header, path, from)?)
    }

    fn file(&mut self, path: impl AsRef<[u8]>, content: &[u8]) -> Result<()> {
        self.add(
            Self::header(EntryType::Regular, 0o644, content.len() as u64),
            path,
            content,
        )
    }

    fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(Self::header(EntryType::Directory, mode, 0), path, &[])
    }

    fn link(&mut self, kind: EntryType, path: &str, target: &str) -> Result<()> {
        let mut header = Self::header(kind, 0o777, 0);
        Ok(self.0.append_link(&mut header, path, target)?)
    }

    fn node(&mut self, kind: EntryType, path: &str, major: u32, minor: u32) -> Result<()> {
        let mut header = Self::header(kind, 0o660, 0);
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        self.add(header, path, &[])
    }

    fn attribute(&mut self, name: &str, value: &[u8]) -> Result<()> {
        let name = format!("SCHILY.xattr.{name}");
        Ok(self.0.append_pax_extensions([(name.as_str(), value)])?)
    }
}

fn hard_links(archive: &mut Archive<'_>) -> Result<()> {
    archive.directory("bin", 0o755)?;
    archive.file("bin/busybox", &[7; 9000])?;
    for number in 0..300 {
        archive.link(
            EntryType::Link,
            &format!("bin/applet{number}"),
            "bin/busybox",
        )?;
    }
    // A link's entry may have the other's mode and owner, or not.
    archive.link(EntryType::Link, "elsewhere/busybox", "bin/applet7")
}

fn attributes(archive: &mut Archive<'_>) -> Result<()> {
    for number in 0..60 {
        let value = vec![b'a' + number % 26; usize::from(number) * 9];
        let name =
            ["user.note", "security.capability", "trusted.overlay.origin"][usize::from(number % 3)];
        archive.attribute(name, &value)?;
        archive.file(format!("file{number}"), &[number])?;
    }
    archive.attribute("user.long", &[b'x'; 5000])?;
    archive.directory("directory", 0o755)
}

fn whiteouts(archive: &mut Archive<'_>) -> Result<()> {
    archive.directory("etc", 0o755)?;
    archive.file("etc/.wh.passwd", &[])?;
    archive.file(".wh.srv", &[])?;
    archive.directory("var", 0o755)?;
    archive.file("var/.wh..wh..opq", &[])?;
    archive.file("var/new", b"new")?;
    // Before the directory, and without one.
    archive.file("opt/.wh..wh..opq", &[])?;
    archive.directory("opt", 0o700)?;
    archive.file("nowhere/.wh..wh..opq", &[])?;
    archive.file("nowhere/.wh.gone", &[])
}

fn devices(archive: &mut Archive<'_>) -> Result<()> {
    archive.directory("dev", 0o755)?;
    archive.node(EntryType::Char, "dev/null", 1, 3)?;
    archive.node(EntryType::Block, "dev/sda300", 259, 300)?;
    archive.node(EntryType::Fifo, "run/fifo", 0, 0)?;
    archive.link(EntryType::Symlink, "dev/fd", "/proc/self/fd")?;
    archive.link(EntryType::Symlink, "a", &"../x/".repeat(18))
}

fn sparse(archive: &mut Archive<'_>) -> Result<()> {
    archive.file("zeros", &vec![0; 9 << 20])?;
    let mut holes = vec![0; 3 << 20];
    holes[0] = 1;
    holes[(2 << 20) + 5] = 2;
    archive.file("holes", &holes)?;
    // GNU's old form: two pieces of a file of 1 MiB.
    let mut header = Archive::header(EntryType::GNUSparse, 0o644, 1024);
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.set_real_size(1 << 20);
        for (place, offset) in gnu.sparse.iter_mut().zip([4096, 1 << 19]) {
            place.set_offset(offset);
            place.set_length(512);
        }
    }
    archive.add(header, "sparse", &[9; 1024])
}

fn names(archive: &mut Archive<'_>) -> Result<()> {
    archive.file(b"\xff\xfe-\x80", b"1")?;
    archive.file(b"caf\xe9/\xc3\x28", b"2")?;
    archive.file("n".repeat(255), b"3")?;
    archive.file("d/".repeat(120) + "deep", b"4")?;
    archive.file("new\nline \t\x1b[2J", b"5")?;
    for name in ["é", "e\u{301}", "-rf", "..a", " "] {
        archive.file(name, b"6")?;
    }
    Ok(())
}

/// They are of who runs the program, and of the time that it takes for now.
fn implied(archive: &mut Archive<'_>) -> Result<()> {
    let mut header = Archive::header(EntryType::Regular, 0o600, 1);
    header.set_uid(7);
    header.set_gid(8);
    archive.add(header, "a/b/c/file", b"1")?;
    archive.link(EntryType::Symlink, "x/y/link", "z")?;
    archive.directory("a/b", 0o700)
}

fn repeated(archive: &mut Archive<'_>) -> Result<()> {
    archive.file("file", &[1; 20_000])?;
    archive.file("file", b"second")?;
    archive.file("directory/below", b"1")?;
    archive.directory("directory", 0o711)?;
    archive.file("./directory/./other", b"2")?;
    archive.directory("becomes-a-file", 0o755)?;
    archive.file("file-becomes-a-link", b"3")?;
    archive.link(EntryType::Symlink, "file-becomes-a-link", "file")
}

fn owners(archive: &mut Archive<'_>) -> Result<()> {
    for (number, (id, mode, time)) in [
        (0, 0o4755, 0),
        (1000, 0o2755, 1),
        (65_536, 0o1777, 1 << 31),
        (2_000_000, 0, 1 << 33),
        (u64::from(u32::MAX) - 1, 0o7777, 1_700_000_001),
    ]
    .into_iter()
    .enumerate()
    {
        let mut header = Archive::header(EntryType::Regular, mode, 1);
        header.set_uid(id);
        header.set_gid(id);
        header.set_mtime(time);
        archive.add(header, format!("file{number}"), b"1")?;
    }
    Ok(())
}

fn equal(archive: &mut Archive<'_>) -> Result<()> {
    for number in 0..40 {
        archive.file(format!("file{number}"), &[5; 50_000])?;
    }
    Ok(())
}

/// Most are empty, as each that is not takes a block.
fn many(archive: &mut Archive<'_>) -> Result<()> {
    for number in 0..100_000_u32 {
        let content = number.to_le_bytes();
        let content = if number % 20 == 0 { &content[..] } else { &[] };
        archive.file(format!("d{}/file{number}", number % 317), content)?;
    }
    Ok(())
}

fn long(archive: &mut Archive<'_>) -> Result<()> {
    let size = (4 << 30) + 12_345;
    let mut header = Archive::header(EntryType::Regular, 0o644, size);
    let front = io::Cursor::new(vec![3; 12_345]);
    archive.add_from(
        &mut header,
        "long",
        front.chain(io::repeat(0).take(4 << 30)),
    )?;
    archive.file("behind", b"1")
}
