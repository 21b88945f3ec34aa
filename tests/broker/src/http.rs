//! HTTP/1.1 as a server has it.

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a client may send, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
const LONGEST_BODY: usize = 4 << 20;

/// A request.
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    pub cookie: Option<String>,
    pub body: Vec<u8>,
}

/// An answer.
pub(crate) struct Answer {
    pub status: u16,
    pub cookie: Option<String>,
    pub body: Vec<u8>,
}

/// Reads a request; nothing at the connection's end.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            ensure!(head.is_empty(), "a head was cut off");
            return Ok(None);
        }
        head.push(byte[0]);
        ensure!(head.len() <= LONGEST_HEAD, "a head is too long");
    }
    let head = String::from_utf8(head).context("a head is not text")?;
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let [method, path, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else {
        bail!("a request begins with {first:?}");
    };
    let (mut length, mut cookie, mut host) = (0, None, false);
    for line in lines {
        let (name, value) = line.split_once(": ").context("a field has no value")?;
        match name {
            "Content-Length" => length = value.parse()?,
            "Cookie" => cookie = Some(value.to_owned()),
            "Host" => host = true,
            _ => {}
        }
    }
    ensure!(host, "a request has no Host");
    ensure!(length <= LONGEST_BODY, "a request is too long");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        cookie,
        body,
    }))
}

/// Writes an answer; or its head, and so many bytes of its body, with the length that it should have.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: &Answer,
    length: u64,
) -> Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n",
        answer.status
    );
    if let Some(cookie) = &answer.cookie {
        head += &format!(
            "set-cookie: kbs-session-id={cookie}; Expires=Fri, 01 Jan 2100 00:00:00 GMT\r\n"
        );
    }
    let bytes = [head.as_bytes(), b"\r\n", &answer.body].concat();
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}
