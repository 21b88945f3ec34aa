//! The head of an answer.

use httparse::{EMPTY_HEADER, Header, Status};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::Failure;

/// No head is longer, in bytes, and none has more fields.
const LONGEST: usize = 16 << 10;
const MOST_FIELDS: usize = 64;

/// No cookie is longer, in bytes.
const LONGEST_COOKIE: usize = 1024;

/// The cookie that a session has.
const COOKIE: &str = "kbs-session-id";

/// So many heads may announce that an answer is being made.
const MOST_INTERIM: usize = 4;

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
    /// All that comes until the connection ends.
    ToTheEnd,
}

pub(super) struct Head {
    pub status: u16,
    pub length: Length,
    pub keep_alive: bool,
    pub cookie: Option<String>,
}

/// Reads the head of the answer, past those that announce one.
pub(super) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Head, Failure> {
    for _ in 0..MOST_INTERIM {
        let head = parse(&bytes(stream).await?)?;
        if !(100..200).contains(&head.status) {
            return Ok(head);
        }
    }
    Err(Failure::wrong(
        "there are more than 4 answers before the answer",
    ))
}

/// The bytes up to and with the empty line.
async fn bytes(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let came = stream
            .fill_buf()
            .await
            .map_err(|why| Failure::away(format!("hear the answer: {why}")))?;
        if came.is_empty() {
            return Err(Failure::away(match bytes.is_empty() {
                true => "it hung up without an answer",
                false => "it hung up in the midst of an answer's head",
            }));
        }
        let count = came
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(came.len(), |at| at + 1);
        bytes.extend_from_slice(came.get(..count).unwrap_or_default());
        stream.consume(count);
        if bytes.len() > LONGEST {
            return Err(Failure::wrong(format!(
                "its head is longer than {LONGEST} bytes"
            )));
        }
    }
    Ok(bytes)
}

/// What a head says.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Failure> {
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    match answer.parse(bytes) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Failure::wrong("its head has no end")),
        Err(why) => return Err(Failure::wrong(format!("it is not HTTP: {why}"))),
    }
    let status = answer.code.unwrap_or_default();
    Ok(Head {
        status,
        length: length(status, answer.headers)?,
        keep_alive: answer.version == Some(1) && !names(answer.headers, "connection", "close"),
        cookie: cookie(answer.headers),
    })
}

fn values<'a>(fields: &'a [Header<'_>], name: &'a str) -> impl Iterator<Item = &'a str> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| std::str::from_utf8(field.value).unwrap_or_default().trim())
}

/// Whether a field that is a list has a word in it.
fn names(fields: &[Header<'_>], name: &str, word: &str) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}

/// How long the body is. Where two fields say it, or one says it in two ways, nobody knows.
fn length(status: u16, fields: &[Header<'_>]) -> Result<Length, Failure> {
    let mut lengths = values(fields, "content-length");
    let mut encodings = values(fields, "transfer-encoding");
    let found = (lengths.next(), encodings.next());
    if lengths.next().is_some() || encodings.next().is_some() {
        return Err(Failure::wrong("its head tells its length more than once"));
    }
    match found {
        _ if status < 200 || status == 204 || status == 304 => Ok(Length::Known(0)),
        (None, None) => Ok(Length::ToTheEnd),
        (None, Some(encoding)) if encoding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
        (Some(digits), None) if digits.bytes().all(|one| one.is_ascii_digit()) => digits
            .parse()
            .map(Length::Known)
            .map_err(|_| Failure::wrong("its length is no number")),
        _ => Err(Failure::wrong(
            "its head does not tell its length as it should",
        )),
    }
}

/// The session's cookie, to be sent back as it is.
fn cookie(fields: &[Header<'_>]) -> Option<String> {
    let is_sound = |cookie: &&str| {
        let allowed = |one: u8| one.is_ascii_graphic() && !b"\",;\\".contains(&one);
        cookie.len() <= LONGEST_COOKIE
            && cookie.bytes().all(allowed)
            && cookie
                .split_once('=')
                .is_some_and(|(name, value)| name == COOKIE && !value.is_empty())
    };
    values(fields, "set-cookie")
        .filter_map(|value| value.split(';').next())
        .map(str::trim)
        .find(is_sound)
        .map(str::to_owned)
}
