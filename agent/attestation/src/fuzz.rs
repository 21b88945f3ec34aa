//! What a broker says, chosen by a fuzzer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trefoil_initdata::{Broker, Endpoint};

use crate::jwe;
use crate::key::TeeKey;
use crate::{Client, Limits, Options, ResourceUri, Sealed, Simulated};

/// A stream that says these bytes and takes all others.
struct Said(Arc<Vec<u8>>, usize);

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.0.get(self.1..).unwrap_or_default();
        let count = rest.len().min(to.remaining());
        to.put_slice(rest.get(..count).unwrap_or_default());
        self.1 += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Bytes as all that a broker says in an exchange, as a resource, or as a sealed secret: the first one
/// says which.
pub fn answers(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 4 {
        0 => {
            let _ = jwe::open(bytes, &TeeKey::of(&[1; 32]));
        }
        1 => {
            if let Ok(text) = std::str::from_utf8(bytes) {
                let _ = Sealed::parse(text);
            }
        }
        2 => exchange(bytes.to_vec()),
        _ => exchange(framed(bytes)),
    }
}

/// Lines as bodies of sound answers, so that more than HTTP is reached.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let answer = |body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nset-cookie: kbs-session-id=1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    bytes
        .split(|byte| *byte == b'\n')
        .flat_map(answer)
        .collect()
}

fn exchange(said: Vec<u8>) {
    let broker = Broker {
        endpoint: Endpoint {
            tls: false,
            host: "broker".into(),
            port: 80,
            path: String::new(),
        },
        certificates: None,
        credentials: Vec::new(),
    };
    let options = Options {
        limits: Limits {
            attempts: 1,
            pause: Duration::ZERO,
            longest_answer: 1 << 16,
            ..Limits::default()
        },
        floor: SystemTime::UNIX_EPOCH,
        allow_plain: true,
    };
    let said = Arc::new(said);
    let evidence = Box::new(Simulated::new(&[1], &[2]));
    let client = Client::new(&broker, evidence, None, options, || async {
        Ok(Said(said.clone(), 0))
    });
    let resource = "kbs:///a/b/c".parse::<ResourceUri>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    if let (Ok(client), Ok(resource), Ok(runtime)) = (client, resource, runtime) {
        let _ = runtime.block_on(client.fetch(&[resource]));
    }
}
