//! The body of an answer, whole or in chunks, and never more of it than a bound.

use httparse::Status;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::head::{Head, Length};
use crate::Failure;

/// A chunk's line, or one behind the last chunk, is no longer, in bytes.
const LONGEST_LINE: usize = 256;

/// No more lines stand behind the last chunk.
const MOST_TRAILERS: usize = 16;

/// Reads a body of at most so many bytes; and whether the connection is at the next answer then.
pub(super) async fn read(
    stream: &mut (impl AsyncBufRead + Unpin),
    head: &Head,
    longest: usize,
) -> Result<(Vec<u8>, bool), Failure> {
    let mut body = Vec::new();
    match head.length {
        Length::Known(length) => {
            exactly(stream, &mut body, length, longest).await?;
            Ok((body, true))
        }
        Length::Chunked => {
            chunks(stream, &mut body, longest).await?;
            Ok((body, true))
        }
        Length::ToTheEnd => {
            let most = u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1);
            let end = stream.take(most).read_to_end(&mut body).await;
            end.map_err(|why| broken(&why))?;
            if body.len() > longest {
                return Err(too_long(longest));
            }
            Ok((body, false))
        }
    }
}

/// Adds exactly so many bytes to a body.
async fn exactly(
    stream: &mut (impl AsyncBufRead + Unpin),
    body: &mut Vec<u8>,
    length: u64,
    longest: usize,
) -> Result<(), Failure> {
    let room = longest.saturating_sub(body.len());
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= room)
        .ok_or_else(|| too_long(longest))?;
    let before = body.len();
    // It grows as bytes come: what a head announces alone takes no memory.
    let mut part = stream.take(u64::try_from(length).unwrap_or(u64::MAX));
    part.read_to_end(body).await.map_err(|why| broken(&why))?;
    match body.len() - before == length {
        true => Ok(()),
        false => Err(Failure::away("it hung up in the midst of an answer")),
    }
}

async fn chunks(
    stream: &mut (impl AsyncBufRead + Unpin),
    body: &mut Vec<u8>,
    longest: usize,
) -> Result<(), Failure> {
    loop {
        let line = line(stream).await?;
        let size = match httparse::parse_chunk_size(&line) {
            Ok(Status::Complete((_, size))) => size,
            _ => return Err(Failure::wrong("a chunk of it has no size")),
        };
        if size == 0 {
            break;
        }
        exactly(stream, body, size, longest).await?;
        if self::line(stream).await? != b"\r\n" {
            return Err(Failure::wrong("a chunk of it is longer than it says"));
        }
    }
    for _ in 0..MOST_TRAILERS {
        if line(stream).await? == b"\r\n" {
            return Ok(());
        }
    }
    Err(Failure::wrong("too much stands behind its last chunk"))
}

/// A line, with its end.
async fn line(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, Failure> {
    let mut line = Vec::new();
    let most = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
    let read = stream.take(most).read_until(b'\n', &mut line).await;
    read.map_err(|why| broken(&why))?;
    match line.ends_with(b"\r\n") {
        true => Ok(line),
        false if line.len() < LONGEST_LINE && !line.ends_with(b"\n") => {
            Err(Failure::away("it hung up in the midst of an answer"))
        }
        false => Err(Failure::wrong("a line of its chunks has no end")),
    }
}

fn broken(why: &std::io::Error) -> Failure {
    Failure::away(format!("hear the answer: {why}"))
}

fn too_long(longest: usize) -> Failure {
    Failure::wrong(format!("it is longer than {longest} bytes"))
}
