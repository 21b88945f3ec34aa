//! HTTP/1.1 as far as a broker's client needs it: one question after the other, each answer bounded.

mod body;
mod head;

use std::fmt::Write;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::Failure;

/// A connection's stream: the host's bytes, or TLS over them.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What is asked for.
pub(crate) struct Request<'a> {
    pub path: &'a str,
    /// JSON to send; without it, the request only gets.
    pub body: Option<&'a [u8]>,
    /// The session's cookie, as the broker has set it.
    pub cookie: Option<&'a str>,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub cookie: Option<String>,
    pub body: Vec<u8>,
    /// Whether another question may be asked on this connection.
    pub stays_open: bool,
}

/// A connection to a broker.
pub(crate) struct Connection<S> {
    stream: BufReader<S>,
    /// Host and port.
    authority: String,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(stream: S, authority: String) -> Self {
        Self {
            stream: BufReader::new(stream),
            authority,
        }
    }

    /// Asks, and takes an answer of at most so many bytes beside its head.
    ///
    /// # Errors
    /// [`Failure::Away`] if the connection fails, [`Failure::Wrong`] if the answer is none of HTTP's.
    pub(crate) async fn ask(
        &mut self,
        request: &Request<'_>,
        longest: usize,
    ) -> Result<Answer, Failure> {
        let head = self.head(request);
        let broken = |why: std::io::Error| Failure::away(format!("send a request: {why}"));
        self.stream
            .write_all(head.as_bytes())
            .await
            .map_err(broken)?;
        if let Some(body) = request.body {
            self.stream.write_all(body).await.map_err(broken)?;
        }
        self.stream.flush().await.map_err(broken)?;
        let head = head::read(&mut self.stream).await?;
        let (body, whole) = body::read(&mut self.stream, &head, longest).await?;
        Ok(Answer {
            status: head.status,
            cookie: head.cookie,
            body,
            stays_open: head.keep_alive && whole,
        })
    }

    fn head(&self, request: &Request<'_>) -> String {
        let method = if request.body.is_some() {
            "POST"
        } else {
            "GET"
        };
        let mut head = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n",
            request.path, self.authority
        );
        if let Some(cookie) = request.cookie {
            let _ = write!(head, "Cookie: {cookie}\r\n");
        }
        if let Some(body) = request.body {
            let length = body.len();
            let _ = write!(
                head,
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            );
        }
        head.push_str("\r\n");
        head
    }
}

#[cfg(test)]
mod tests;
