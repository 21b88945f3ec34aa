//! Writing an answer.

use nix::errno::Errno;
use trefoil_virtio::Buffers;

use super::wire::{OutHeader, Wire};

/// What a request was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With what is in the buffer of answers.
    Said,
    /// With as many bytes of content, which are in the guest's memory already.
    Content(usize),
    /// With nothing: it is one that is not answered.
    Nothing,
    /// Later: it is to be done again.
    Later,
}

/// Writes an answer to where the guest wants it, and says how long it is. Zero if there is no room
/// for it: the guest's kernel takes that for an error.
pub fn write(unique: u64, outcome: Result<Answer, Errno>, said: &[u8], buffers: &Buffers) -> u32 {
    let (error, length) = match outcome {
        Ok(Answer::Nothing | Answer::Later) => return 0,
        Ok(Answer::Said) => (0, said.len()),
        Ok(Answer::Content(length)) => (0, length),
        Err(why) => (-(why as i32), 0),
    };
    let Ok(len) = u32::try_from(OutHeader::SIZE + length) else {
        return 0;
    };
    let header = OutHeader { len, error, unique };
    let mut bytes = Vec::with_capacity(OutHeader::SIZE + said.len());
    header.put(&mut bytes);
    if outcome == Ok(Answer::Said) {
        bytes.extend(said);
    }
    match buffers.write(&bytes) {
        Ok(()) => len,
        Err(_) => 0,
    }
}
