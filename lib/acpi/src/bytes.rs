//! A row of bytes that grows in the room that there is.

use crate::TooLong;

/// What has been written so far.
pub struct Bytes<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let end = self.length.checked_add(bytes.len()).ok_or(TooLong)?;
        let place = self.room.get_mut(self.length..end).ok_or(TooLong)?;
        place.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Appends zeros until the length is a multiple of `alignment`.
    pub fn align(&mut self, alignment: usize) -> Result<(), TooLong> {
        while !self.length.is_multiple_of(alignment) {
            self.push(&[0])?;
        }
        Ok(())
    }

    /// Overwrites bytes that have been appended.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> Result<(), TooLong> {
        let written = self.room.get_mut(..self.length).ok_or(TooLong)?;
        let place = written.get_mut(at..at + bytes.len()).ok_or(TooLong)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// Changes the byte at `checksum`, which is zero, so that all from `start` on add up to zero.
    pub fn add_up(&mut self, start: usize, checksum: usize) -> Result<(), TooLong> {
        let written = self.room.get(start..self.length).ok_or(TooLong)?;
        let sum = written
            .iter()
            .fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        self.put(checksum, &[sum.wrapping_neg()])
    }
}
