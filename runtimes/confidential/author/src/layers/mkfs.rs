//! `mkfs.erofs`, by the arguments that containerd's differ calls it with.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use trefoil_core::{Context, Error, Result};
use uuid::Uuid;

use super::Digest;

/// Those of containerd, from 2.1 to 2.4, with `mkfs_options = ["-T0", "--mkfs-time"]` in its configuration:
/// without these two an image has the time in it. `-b4096` is the default where pages have 4096 bytes.
const ARGUMENTS: [&str; 7] = [
    "--tar=f",
    "--aufs",
    "--quiet",
    "-Enoinline_data",
    "-b4096",
    "-T0",
    "--mkfs-time",
];
/// The first version that has them all.
const OLDEST: (u32, u32) = (1, 8);
/// How much is read at once.
const CHUNK: usize = 1 << 16;
/// How much of what it says is shown.
const MOST_SAID: u64 = 400;

/// A program that makes EROFS images.
#[derive(Clone, Debug)]
pub struct Mkfs {
    program: PathBuf,
    version: (u32, u32),
    /// Whether it is to take itself for root.
    as_root: bool,
}

impl Mkfs {
    /// The program of this name or path, if it is there and new enough.
    ///
    /// # Errors
    /// If it is not.
    pub fn new(program: &Path) -> Result<Self> {
        let shown = program.display();
        let told = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|why| {
                Error::precondition(format!(
                    "start {shown}: {why}; root hashes need the package erofs-utils, 1.8 or later"
                ))
            })?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        match version(&told) {
            Some(version) if version >= OLDEST => Ok(Self {
                program: program.into(),
                version,
                as_root: !rustix::process::geteuid().is_root(),
            }),
            _ => {
                let said: String = told
                    .lines()
                    .next()
                    .unwrap_or("nothing")
                    .chars()
                    .take(80)
                    .collect();
                Err(Error::precondition(format!(
                    "{shown} says that its version is {said:?}; root hashes need erofs-utils 1.8 or later"
                )))
            }
        }
    }

    /// The first two numbers of its version.
    pub(super) fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Makes an image of an archive, all of which is read, once: `look` reads as much of it as it wants to know,
    /// and what it answers is answered. The digest is that of the layer as the manifest has it: it is in the
    /// image's UUID.
    pub(super) fn make<T>(
        &self,
        archive: impl Read,
        layer: &Digest,
        image: &Path,
        look: impl FnOnce(&mut dyn Read) -> io::Result<T>,
    ) -> Result<T> {
        let doing = || format!("make an EROFS image by {}", self.program.display());
        let mut said = tempfile::tempfile().context(doing)?;
        let mut child = self
            .command(layer, image)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(said.try_clone().context(doing)?)
            .spawn()
            .context(doing)?;
        let mut fed = Fed {
            archive,
            to: child.stdin.take(),
        };
        let found = look(&mut fed);
        // Bytes that are not those of the digest are why they make no sense, too.
        let found = drain(&mut fed).and(found);
        drop(fed);
        let ended = child.wait().context(doing)?;
        // What is wrong with the archive is why its reader has ended early, and not the other way round.
        let found = found.context(|| "read the archive")?;
        match ended.success() {
            true => Ok(found),
            false => Err(failure(&mut said, ended).context(doing())),
        }
    }

    fn command(&self, layer: &Digest, image: &Path) -> Command {
        let mut command = match self.as_root {
            // Directories that the archive has no entry for are of who runs it, and on a node that is root.
            true => {
                let mut unshare = Command::new("unshare");
                unshare
                    .args(["--user", "--map-root-user", "--"])
                    .arg(&self.program);
                unshare
            }
            false => Command::new(&self.program),
        };
        command
            .args(ARGUMENTS)
            .arg("-U")
            .arg(uuid(layer).to_string())
            .arg(image)
            // Another time than the arguments have.
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }
}

/// As containerd names a layer's image.
fn uuid(layer: &Digest) -> Uuid {
    Uuid::new_v5(
        &Uuid::NAMESPACE_URL,
        format!("erofs:blobs/{layer}").as_bytes(),
    )
}

/// Its first two numbers, from `mkfs.erofs (erofs-utils) 1.8.6` or `mkfs.erofs 1.4`.
fn version(told: &str) -> Option<(u32, u32)> {
    let mut words = told.lines().next()?.split_whitespace();
    let number = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let mut numbers = number.split(|other: char| !other.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// An archive that is handed on as it is read, as long as it is wanted: behind its end there may be more that
/// belongs to the layer's digest.
struct Fed<R, W> {
    archive: R,
    to: Option<W>,
}

impl<R: Read, W: Write> Read for Fed<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        if let Some(to) = &mut self.to {
            match to.write_all(&buffer[..read]) {
                Err(why) if why.kind() == io::ErrorKind::BrokenPipe => self.to = None,
                other => other?,
            }
        }
        Ok(read)
    }
}

/// Reads what is left.
fn drain(from: &mut impl Read) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
}

/// What it has said last.
fn failure(said: &mut File, ended: ExitStatus) -> Error {
    let mut text = Vec::new();
    let read = said
        .seek(SeekFrom::End(0))
        .and_then(|length| said.seek(SeekFrom::Start(length.saturating_sub(MOST_SAID))))
        .and_then(|_| said.take(MOST_SAID).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match (read, text.trim()) {
        (Ok(_), said) if !said.is_empty() => Error::internal(format!("{ended}: {said}")),
        _ => Error::internal(ended.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LAYER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    /// A program of a few lines.
    fn script(directory: &tempfile::TempDir, lines: &str) -> PathBuf {
        let path = directory.path().join("mkfs");
        std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
        path
    }

    fn make(lines: &str, archive: &[u8]) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir().expect("directory");
        let program = script(&directory, lines);
        let mkfs = Mkfs {
            program,
            version: OLDEST,
            as_root: false,
        };
        let image = directory.path().join("image");
        mkfs.make(archive, &LAYER.parse()?, &image, |_| Ok(()))?;
        Ok(std::fs::read(image).expect("image"))
    }

    #[test]
    fn the_version_is_looked_at() {
        for (told, expected) in [
            (
                "mkfs.erofs (erofs-utils) 1.8.6\navailable compressors: lz4",
                Some((1, 8)),
            ),
            ("mkfs.erofs 1.4-g1\n", Some((1, 4))),
            ("mkfs.erofs (erofs-utils) 2.0", Some((2, 0))),
            ("mkfs.erofs", None),
            ("", None),
        ] {
            assert_eq!(version(told), expected, "{told}");
        }
        let directory = tempfile::tempdir().expect("directory");
        let old = script(&directory, "echo 'mkfs.erofs 1.7.1'");
        let why = Mkfs::new(&old).expect_err("too old").to_string();
        assert!(
            why.contains("\"mkfs.erofs 1.7.1\"; root hashes need"),
            "{why}"
        );
        let why = Mkfs::new(Path::new("/nonexistent/mkfs.erofs")).expect_err("missing");
        assert!(
            why.to_string().contains("need the package erofs-utils"),
            "{why}"
        );
    }

    #[test]
    fn the_uuid_is_containerds() {
        // By Python's uuid.uuid5(uuid.NAMESPACE_URL, "erofs:blobs/" + digest).
        let expected = "c10bde68-dd4e-5792-ba63-78c7b75c15bf";
        assert_eq!(uuid(&LAYER.parse().expect("digest")).to_string(), expected);
    }

    #[test]
    fn it_is_called_as_containerd_calls_it() {
        let lines = "for last; do :; done; { cat; echo; printf '%s ' \"$@\"; } > \"$last\"";
        let said = String::from_utf8(make(lines, b"the archive").expect("image")).expect("text");
        let (archive, arguments) = said.split_once('\n').expect("lines");
        assert_eq!(archive, "the archive");
        assert!(
            arguments
                .starts_with("--tar=f --aufs --quiet -Enoinline_data -b4096 -T0 --mkfs-time -U "),
            "{arguments}"
        );
    }

    #[test]
    fn it_need_not_read_to_the_end() {
        let lines = "for last; do :; done; head -c 1 > \"$last\"";
        let image = make(lines, &vec![b'x'; 1 << 20]).expect("image");
        assert_eq!(image, b"x");
    }

    #[test]
    fn what_it_says_is_told_and_bounded() {
        let lines = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo 'no space' >&2; exit 3";
        let why = make(lines, b"").expect_err("failed").to_string();
        assert!(
            why.contains("exit status: 3") && why.ends_with("xno space"),
            "{why}"
        );
        assert!(why.len() < 600, "{}", why.len());
    }
}
