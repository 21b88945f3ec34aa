//! Reading a request.

use std::ffi::CStr;

use nix::errno::Errno;
use trefoil_virtio::Buffers;

use super::Outcome;
use super::wire::{InHeader, Opcode, Wire, WriteIn};

/// The longest a request may be, but for a file's content: an extended attribute's value, its name
/// and what comes before.
const MOST: usize = (64 << 10) + 1024;
/// The longest name a file may have, in bytes.
const MOST_NAME: usize = 255;
/// The longest name an extended attribute may have, and the longest target of a link: a page.
const MOST_TEXT: usize = 4095;

/// A request: its header, and what of the rest was not taken yet.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What it begins with.
    pub header: InHeader,
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// Copies a request out of the guest's memory into `room`, a file's content excepted, and reads
    /// its header.
    ///
    /// `None` if it has none that makes sense, so that there is nobody who could be answered.
    pub fn copy(buffers: &Buffers, room: &'a mut Vec<u8>) -> Option<Self> {
        let length = buffers.len();
        if length < InHeader::SIZE {
            return None;
        }
        let mut start = [0; InHeader::SIZE];
        buffers.read(&mut start).ok()?;
        let header = InHeader::take(&mut start.as_slice())?;
        let most = match Opcode::new(header.opcode) {
            Some(Opcode::Write) => InHeader::SIZE + WriteIn::SIZE,
            _ => MOST,
        };
        let said = usize::try_from(header.len).ok()?;
        if said != length || (said > most && header.opcode != Opcode::Write as u32) {
            return None;
        }
        room.resize(length.min(most), 0);
        buffers.read(room).ok()?;
        // It is the header that was checked, whatever the guest has made of it since.
        let rest = room.get(InHeader::SIZE..)?;
        Some(Self { header, rest })
    }

    /// A request that was copied before, once more.
    pub fn again(header: InHeader, room: &'a [u8]) -> Option<Self> {
        let rest = room.get(InHeader::SIZE..)?;
        Some(Self { header, rest })
    }

    /// The next structure.
    pub fn take<T: Wire>(&mut self) -> Outcome<T> {
        T::take(&mut self.rest).ok_or(Errno::EINVAL)
    }

    /// The next name, of one file in a directory: no path, nor a way up.
    pub fn name(&mut self) -> Outcome<&'a CStr> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::EINVAL),
            bytes if bytes.len() > MOST_NAME => Err(Errno::ENAMETOOLONG),
            bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
            _ => Ok(name),
        }
    }

    /// The next text: a link's target, or an attribute's name.
    pub fn text(&mut self) -> Outcome<&'a CStr> {
        let text = CStr::from_bytes_until_nul(self.rest).map_err(|_| Errno::EINVAL)?;
        self.rest = self
            .rest
            .get(text.to_bytes_with_nul().len()..)
            .unwrap_or_default();
        match text.to_bytes().len() {
            0 => Err(Errno::EINVAL),
            length if length > MOST_TEXT => Err(Errno::ENAMETOOLONG),
            _ => Ok(text),
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.rest = rest;
        Ok(bytes)
    }
}
