//! One session with a broker: its nonce, our evidence, then resources, on a connection that is made again
//! where the broker closes it.

use std::future::Future;
use std::io;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::evidence::Evidence;
use crate::failure::Failure;
use crate::http::{Answer, Connection, Request, Stream};
use crate::jwe;
use crate::key::TeeKey;
use crate::limits::Limits;
use crate::resource::ResourceUri;
use crate::runtime_data::{HASHES, RuntimeData, hash_of};
use crate::tls::Tls;

/// The protocol's version. Brokers take exactly their own.
pub const PROTOCOL: &str = "0.4.0";

/// What the protocol's paths begin with.
const PREFIX: &str = "/kbs/v0";

/// A connection, with TLS or without.
type Boxed = Box<dyn Stream>;

/// What sessions have in common.
pub(crate) struct Peer<C> {
    /// Connects to the broker.
    pub connect: C,
    /// What the `Host` field of HTTP says.
    pub authority: String,
    /// What paths begin with, before the protocol's.
    pub path: String,
    pub tls: Option<Tls>,
    pub limits: Limits,
}

#[derive(Deserialize)]
struct Challenge {
    nonce: String,
    #[serde(rename = "extra-params", default)]
    extra: Value,
}

/// What a broker says with a refusal.
#[derive(Deserialize)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    detail: String,
}

/// A session.
pub(crate) struct Session<'a, C> {
    peer: &'a Peer<C>,
    key: TeeKey,
    cookie: Option<String>,
    connection: Option<Connection<Boxed>>,
}

impl<'a, C, F, S> Session<'a, C>
where
    C: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: Stream + 'static,
{
    /// One with a key of its own.
    pub(crate) fn new(peer: &'a Peer<C>) -> Result<Self, Failure> {
        Ok(Self {
            peer,
            key: TeeKey::generate()?,
            cookie: None,
            connection: None,
        })
    }

    /// Asks for the challenge and answers it with evidence. The broker's token says to others what the
    /// session's cookie says to the broker: it is not read.
    pub(crate) async fn attest(
        &mut self,
        evidence: &dyn Evidence,
        initdata: Option<&str>,
    ) -> Result<(), Failure> {
        let ask = json!({
            "version": PROTOCOL,
            "tee": evidence.tee(),
            "extra-params": {"supported-hash-algorithms": HASHES},
        });
        let answer = self.post("auth", &ask).await?;
        let challenge: Challenge = parse(&answer)?;
        let data = RuntimeData::new(&challenge.nonce, &self.key)?;
        let report_data = data.report_data(hash_of(&challenge.extra)?);
        let primary = evidence
            .evidence(&report_data)
            .await
            .map_err(|why| Failure::here(format!("get evidence of {}: {why}", evidence.tee())))?;
        let proof = json!({
            "init-data": initdata.map(|body| json!({"format": "toml", "body": body})),
            "runtime-data": data.json(&self.key),
            "tee-evidence": {"primary_evidence": primary, "additional_evidence": ""},
        });
        let answer = self.post("attest", &proof).await?;
        parse::<IgnoredAny>(&answer).map(drop)
    }

    /// A resource, decrypted.
    pub(crate) async fn resource(
        &mut self,
        uri: &ResourceUri,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let answer = self.ask(&format!("resource/{}", uri.path()), None).await?;
        jwe::open(&answer, &self.key)
    }

    async fn post(&mut self, what: &str, body: &Value) -> Result<Vec<u8>, Failure> {
        let body = body.to_string();
        self.ask(what, Some(body.as_bytes())).await
    }

    /// Asks, and takes an answer that is none of a refusal.
    async fn ask(&mut self, what: &str, body: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        // A broker may have closed a connection that it has answered on, at any time.
        if let Some(connection) = self.connection.take() {
            match self.ask_on(connection, what, body).await {
                Err(Failure::Away(_)) => {}
                done => return accepted(what, done?),
            }
        }
        let connection = Self::connect(self.peer).await?;
        accepted(what, self.ask_on(connection, what, body).await?)
    }

    /// Asks on a connection, within the time limit, and keeps it if another question may follow.
    async fn ask_on(
        &mut self,
        mut connection: Connection<Boxed>,
        what: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, Failure> {
        let path = format!("{}{PREFIX}/{what}", self.peer.path);
        let request = Request {
            path: &path,
            body,
            cookie: self.cookie.as_deref(),
        };
        let limits = &self.peer.limits;
        let answer = timeout(
            limits.answer,
            connection.ask(&request, limits.longest_answer),
        )
        .await
        .map_err(|_| Failure::late("the answer", limits.answer))??;
        if answer.stays_open {
            self.connection = Some(connection);
        }
        if answer.cookie.is_some() {
            self.cookie.clone_from(&answer.cookie);
        }
        Ok(answer)
    }

    async fn connect(peer: &Peer<C>) -> Result<Connection<Boxed>, Failure> {
        let limit = peer.limits.connect;
        let connecting = async {
            let stream = (peer.connect)()
                .await
                .map_err(|why| Failure::away(format!("connect: {why}")))?;
            let stream: Boxed = match &peer.tls {
                Some(tls) => Box::new(tls.connect(stream).await?),
                None => Box::new(stream),
            };
            Ok(Connection::new(stream, peer.authority.clone()))
        };
        timeout(limit, connecting)
            .await
            .map_err(|_| Failure::late("to connect", limit))?
    }
}

/// The answer's body, or what is wrong with it.
fn accepted(what: &str, answer: Answer) -> Result<Vec<u8>, Failure> {
    let status = answer.status;
    match status {
        200 => Ok(answer.body),
        408 | 429 | 500..=599 => Err(Failure::away(format!(
            "it answers {what} with status {status}"
        ))),
        401 | 403 | 404 => Err(Failure::refused(refusal(what, status, &answer.body))),
        _ => Err(Failure::wrong(format!("status {status}"))),
    }
}

/// What was refused, and why, in the broker's words where it has any.
fn refusal(what: &str, status: u16, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            let kind = problem.kind.rsplit('/').next().unwrap_or_default();
            format!("{what}: {} ({kind}, status {status})", problem.detail)
        }
        Err(_) => format!("{what} with status {status} and no reason"),
    }
}

fn parse<T: for<'a> Deserialize<'a>>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer)
        .map_err(|why| Failure::wrong(format!("not of the protocol: {why}")))
}
