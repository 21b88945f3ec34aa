//! What of a tar archive makes its image depend on the version of `mkfs.erofs`, looked for as it passes.
//!
//! Two things are known, between 1.8 and 1.9: several extended attributes of one file come in another order,
//! and 1.8 takes the fraction of a time for a whole number. Nothing else depends on what is found here: an
//! archive that is odd, or meant to be, is followed as far as it can be.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// The most of an extended header that is looked at, in bytes.
const MOST_RECORDS: u64 = 1 << 20;

/// What may be made differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caution {
    /// A file has several extended attributes.
    Attributes,
    /// A time has a fraction.
    Fraction,
}

/// An archive that is looked at as it is read.
pub(super) struct Watched<R> {
    inner: R,
    scan: Scan,
}

impl<R: Read> Watched<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            scan: Scan::default(),
        }
    }

    /// What was found, the first of it.
    pub fn caution(&self) -> Option<Caution> {
        self.scan.found
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.scan.take(&buffer[..read]);
        Ok(read)
    }
}

/// What the next bytes are.
#[derive(Clone, Copy, Default)]
enum Next {
    /// A header.
    #[default]
    Header,
    /// More of a header, which says where a sparse file has its content; the content is so long.
    Extended(u64),
    /// Records for the next header.
    Records,
    /// Content, so much of it.
    Content(u64),
    /// Nothing that is understood.
    Lost,
}

#[derive(Default)]
struct Scan {
    next: Next,
    /// What has come of a header, or of records.
    bytes: Vec<u8>,
    /// How much must come, for that.
    wanted: usize,
    /// The length of the next content, if records have told of it.
    length: Option<u64>,
    found: Option<Caution>,
}

impl Scan {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.found.is_none() {
            match self.next {
                Next::Lost => return,
                Next::Content(left) => {
                    let skipped = left.min(bytes.len() as u64);
                    bytes = &bytes[skipped as usize..];
                    self.next = match left - skipped {
                        0 => Next::Header,
                        left => Next::Content(left),
                    };
                }
                Next::Header | Next::Extended(_) | Next::Records => {
                    let wanted = self.wanted.max(BLOCK) - self.bytes.len();
                    let (front, rest) = bytes.split_at(wanted.min(bytes.len()));
                    self.bytes.extend_from_slice(front);
                    bytes = rest;
                    if front.len() == wanted {
                        let whole = std::mem::take(&mut self.bytes);
                        self.wanted = 0;
                        self.next = self.whole(&whole).unwrap_or(Next::Lost);
                    }
                }
            }
        }
    }

    /// Takes a header, or the records of one; answers what follows it.
    fn whole(&mut self, bytes: &[u8]) -> Option<Next> {
        match self.next {
            Next::Records => {
                self.records(bytes);
                Some(Next::Header)
            }
            Next::Extended(length) => match bytes[504] {
                0 => Some(content(length)),
                _ => Some(Next::Extended(length)),
            },
            _ => self.header(bytes),
        }
    }

    fn header(&mut self, header: &[u8]) -> Option<Next> {
        let length = number(&header[124..136])?;
        match header[156] {
            // Blocks of zeros at the end.
            0 if header.iter().all(|byte| *byte == 0) => Some(Next::Header),
            b'x' if length <= MOST_RECORDS => {
                self.wanted = length.next_multiple_of(BLOCK as u64) as usize;
                Some(match length {
                    0 => Next::Header,
                    _ => Next::Records,
                })
            }
            b'x' | b'g' | b'L' | b'K' => Some(content(length)),
            b'1'..=b'6' => {
                self.length = None;
                Some(Next::Header)
            }
            kind => {
                let length = self.length.take().unwrap_or(length);
                Some(match kind == b'S' && header[482] != 0 {
                    true => Next::Extended(length),
                    false => content(length),
                })
            }
        }
    }

    /// Records are `LENGTH NAME=VALUE` and the end of a line; the length is of all that.
    fn records(&mut self, mut bytes: &[u8]) {
        let mut attributes = 0;
        while let Some((name, value, rest)) = record(bytes) {
            bytes = rest;
            match name {
                b"size" => self.length = str::from_utf8(value).ok().and_then(|is| is.parse().ok()),
                b"mtime" if has_fraction(value) => self.found = Some(Caution::Fraction),
                _ if name.starts_with(b"SCHILY.xattr.")
                    || name.starts_with(b"LIBARCHIVE.xattr.") =>
                {
                    attributes += 1;
                }
                _ => {}
            }
        }
        if attributes > 1 {
            self.found = Some(Caution::Attributes);
        }
    }
}

fn content(length: u64) -> Next {
    match length.checked_next_multiple_of(BLOCK as u64) {
        Some(0) => Next::Header,
        Some(length) => Next::Content(length),
        None => Next::Lost,
    }
}

/// A number of a header: digits to the base 8, or bytes if the first one says so.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (front, back) = field.split_at(field.len() - 8);
        let small = front[0] == 0x80 && front[1..].iter().all(|byte| *byte == 0);
        return small.then(|| u64::from_be_bytes(back.try_into().unwrap_or_default()));
    }
    let text = str::from_utf8(field).ok()?;
    match text.trim_matches(|edge| matches!(edge, ' ' | '\0')) {
        "" => Some(0),
        digits => u64::from_str_radix(digits, 8).ok(),
    }
}

/// The first record: its name, its value, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn has_fraction(time: &[u8]) -> bool {
    let point = time.iter().position(|byte| *byte == b'.');
    point.is_some_and(|at| time[at + 1..].iter().any(|digit| *digit != b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tar::{Builder, EntryType, Header};

    use super::*;

    fn header(kind: EntryType, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header
    }

    fn archive(write: impl FnOnce(&mut Builder<Vec<u8>>) -> io::Result<()>) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        write(&mut builder).expect("archive");
        builder.into_inner().expect("archive")
    }

    /// Whatever comes before, of any kind, is passed over.
    fn before(builder: &mut Builder<Vec<u8>>) -> io::Result<()> {
        builder.append_data(
            &mut header(EntryType::Regular, 1000),
            "a",
            &[b'x'; 1000][..],
        )?;
        builder.append_data(
            &mut header(EntryType::Regular, 0),
            "n".repeat(200),
            io::empty(),
        )?;
        builder.append_link(&mut header(EntryType::Link, 0), "b", "a")?;
        builder.append_data(&mut header(EntryType::Directory, 0), "d", io::empty())?;
        builder.append_pax_extensions([("size", &b"512"[..]), ("mtime", b"5.000")])?;
        builder.append_data(&mut header(EntryType::Regular, 512), "c", &[0; 512][..])?;
        let mut sparse = header(EntryType::GNUSparse, 0);
        sparse.as_gnu_mut().expect("gnu").set_is_extended(true);
        builder.append_data(&mut sparse, "s", io::empty())?;
        builder.get_mut().extend([0; BLOCK]);
        let one = [("SCHILY.xattr.user.a", &b"1"[..])];
        builder.append_pax_extensions(one)?;
        builder.append_data(&mut header(EntryType::Regular, 1), "e", &b"1"[..])
    }

    fn found(archive: &[u8], piece: usize) -> Option<Caution> {
        let mut watched = Watched::new(archive);
        let mut buffer = vec![0; piece];
        while watched.read(&mut buffer).expect("read") > 0 {}
        watched.caution()
    }

    #[test]
    fn what_depends_on_the_version_is_found() {
        let two = [
            ("SCHILY.xattr.user.a", &b"1\n=2"[..]),
            ("LIBARCHIVE.xattr.user.b", b"Mg"),
        ];
        let fraction = [("mtime", &b"1700000000.25"[..])];
        for piece in [1, 511, 512, 4096] {
            assert_eq!(found(&archive(before), piece), None);
            let attributes = archive(|builder| {
                before(builder)?;
                builder.append_pax_extensions(two)?;
                builder.append_data(&mut header(EntryType::Regular, 0), "f", io::empty())
            });
            assert_eq!(found(&attributes, piece), Some(Caution::Attributes));
            let times = archive(|builder| {
                before(builder)?;
                builder.append_pax_extensions(fraction)?;
                builder.append_data(&mut header(EntryType::Regular, 0), "f", io::empty())
            });
            assert_eq!(found(&times, piece), Some(Caution::Fraction));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_may_come(
            front in prop::collection::vec(any::<u8>(), 0..2000),
            at in 0_usize..4000,
            changed: u8,
            piece in 1_usize..1000,
        ) {
            found(&front, piece);
            let mut archive = archive(before);
            let at = at % archive.len();
            archive[at] = changed;
            found(&archive, piece);
        }
    }
}
