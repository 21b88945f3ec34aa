//! The server: connections, sessions, and what is answered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64ct::{Base64, Encoding};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Identity;
use crate::ear::Signer;
use crate::fault::{Fault, Step};
use crate::http::{self, Answer, Request};
use crate::protocol::{Attestation, Challenge, ErrorInformation, TeePubKey, VERSION};
use crate::verifier::{Claims, verify};
use crate::{jwe, random};

/// What is kept for guests.
#[derive(Debug, Clone, Default)]
pub struct Resource {
    /// The secret.
    pub content: Vec<u8>,
    /// The launch digests, in hex, of the guests that get it; nothing: any guest that has attested.
    pub references: Option<Vec<String>>,
}

/// What a broker is like. The default one accepts nobody.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// Whether the evidence of a SIMULATED TEE is accepted.
    pub accept_simulated: bool,
    /// The launch digests of guests that may attest, in hex; nothing: any.
    pub references: Option<Vec<String>>,
    /// Resources, by `repository/type/tag`.
    pub resources: BTreeMap<String, Resource>,
    /// The hash for report data; nothing: sha384, which is not told.
    pub hash: Option<String>,
    /// What is wrong with it.
    pub fault: Option<Fault>,
}

struct Session {
    nonce: String,
    tee: String,
    attested: Option<(TeePubKey, Claims, String)>,
}

/// A broker.
pub struct Broker {
    configuration: Configuration,
    signer: Signer,
    sessions: Mutex<BTreeMap<String, Session>>,
    connections: AtomicUsize,
    attestations: AtomicUsize,
}

/// A broker that serves, until this is dropped.
pub struct Running {
    /// Where.
    pub address: SocketAddr,
    /// It.
    pub broker: Arc<Broker>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Broker {
    /// One that nobody has asked anything.
    ///
    /// # Errors
    /// If there are no random bytes.
    pub fn new(configuration: Configuration) -> Result<Self> {
        Ok(Self {
            configuration,
            signer: Signer::new()?,
            sessions: Mutex::default(),
            connections: AtomicUsize::new(0),
            attestations: AtomicUsize::new(0),
        })
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many guests have attested.
    pub fn attestations(&self) -> usize {
        self.attestations.load(Ordering::Relaxed)
    }

    /// Serves on an address, with TLS if there is a certificate to show.
    ///
    /// # Errors
    /// If it can't listen there.
    pub async fn start(self, address: SocketAddr, shown: Option<&Identity>) -> Result<Running> {
        let acceptor = shown.map(acceptor).transpose()?;
        let listener = TcpListener::bind(address).await.context("listen")?;
        let address = listener.local_addr()?;
        let broker = Arc::new(self);
        let serving = broker.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (broker, acceptor) = (serving.clone(), acceptor.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    match acceptor {
                        Some(acceptor) => broker.serve(acceptor.accept(stream).await?).await,
                        None => broker.serve(stream).await,
                    }
                });
            }
        });
        Ok(Running {
            address,
            broker,
            task,
        })
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        if matches!(self.configuration.fault, Some(Fault::HangsUp(first)) if number < first) {
            return Ok(());
        }
        while let Some(request) = http::read(&mut stream).await? {
            let step = match request.path.as_str() {
                "/kbs/v0/auth" => Step::Auth,
                "/kbs/v0/attest" => Step::Attest,
                _ => Step::Resource,
            };
            let answer = match self.answer(step, &request) {
                Ok(answer) => answer,
                Err(why) => refusal(&why)?,
            };
            if !self.tell(&mut stream, step, answer).await? {
                break;
            }
        }
        Ok(())
    }

    /// Tells an answer, or does what the fault says. Whether the connection goes on.
    async fn tell(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        step: Step,
        mut answer: Answer,
    ) -> Result<bool> {
        let length = answer.body.len() as u64;
        match self.configuration.fault {
            Some(Fault::Silent(at)) if at == step => std::future::pending().await,
            Some(Fault::Announced(at)) if at == step => {
                http::write(stream, &answer, 1 << 40).await?;
                std::future::pending().await
            }
            Some(Fault::Endless(at)) if at == step => {
                http::write(stream, &answer, 1 << 17).await?;
                loop {
                    stream.write_all(&[b' '; 4096]).await?;
                }
            }
            Some(Fault::Truncated(at)) if at == step => {
                http::write(stream, &answer, length + 1).await?;
                Ok(false)
            }
            Some(Fault::Status(at, status)) if at == step => {
                answer.status = status;
                answer.body.clear();
                http::write(stream, &answer, 0).await?;
                Ok(true)
            }
            Some(Fault::Garbage(at)) if at == step => {
                answer.body.fill(b'{');
                http::write(stream, &answer, length).await?;
                Ok(true)
            }
            fault => {
                http::write(stream, &answer, length).await?;
                Ok(fault != Some(Fault::Closes))
            }
        }
    }

    fn answer(&self, step: Step, request: &Request) -> Result<Answer> {
        let expected = if step == Step::Resource {
            "GET"
        } else {
            "POST"
        };
        ensure!(
            request.method == expected,
            "the method is {}",
            request.method
        );
        match step {
            Step::Auth => self.auth(&request.body),
            Step::Attest => self.attest(request),
            Step::Resource => self.resource(request),
        }
    }

    fn auth(&self, body: &[u8]) -> Result<Answer> {
        let request: crate::protocol::Request = serde_json::from_slice(body)?;
        ensure!(
            request.version == VERSION,
            "KBS Client Protocol Version Mismatch: expect ={VERSION} while the request is {}",
            request.version
        );
        let offered = &request.extra_params["supported-hash-algorithms"];
        ensure!(
            offered
                .as_array()
                .is_some_and(|all| all.contains(&json!("sha384"))),
            "sha384 is not offered"
        );
        let fault = self.configuration.fault;
        let nonce = match fault {
            Some(Fault::ReplayedNonce) => vec![7; 32],
            Some(Fault::NonceOf(size)) => vec![7; size],
            _ => random::<32>()?.to_vec(),
        };
        let nonce = Base64::encode_string(&nonce);
        let id = crate::base64_url(&random::<16>()?);
        let session = Session {
            nonce: nonce.clone(),
            tee: request.tee,
            attested: None,
        };
        self.sessions().insert(id.clone(), session);
        let extra_params = match (fault, &self.configuration.hash) {
            (Some(Fault::OtherHash), _) => json!({"selected-hash-algorithm": "md5"}),
            (_, Some(hash)) => json!({"selected-hash-algorithm": hash}),
            _ => json!(""),
        };
        let challenge = Challenge {
            nonce,
            extra_params,
        };
        Ok(Answer {
            status: 200,
            cookie: (fault != Some(Fault::NoCookie)).then_some(id),
            body: serde_json::to_vec(&challenge)?,
        })
    }

    fn attest(&self, request: &Request) -> Result<Answer> {
        let mut sessions = self.sessions();
        let session = session(&mut sessions, request)?;
        if let Some((_, _, token)) = &session.attested {
            return json_answer(&json!({ "token": token }));
        }
        let attestation: Attestation = serde_json::from_slice(&request.body)?;
        ensure!(
            attestation.runtime_data.nonce == session.nonce,
            "the nonce is not the session's"
        );
        let settings = &self.configuration;
        let hash = settings.hash.as_deref().unwrap_or("sha384");
        let claims = verify(&session.tee, &attestation, hash, settings.accept_simulated)
            .context("verify TEE evidence failed")?;
        check_reference(&settings.references, &claims)?;
        let token = self.signer.token(&claims, &attestation.runtime_data)?;
        let key = attestation.runtime_data.tee_pubkey;
        session.attested = Some((key, claims, token.clone()));
        self.attestations.fetch_add(1, Ordering::Relaxed);
        json_answer(&json!({ "token": token }))
    }

    fn resource(&self, request: &Request) -> Result<Answer> {
        let mut sessions = self.sessions();
        let session = session(&mut sessions, request)?;
        let (key, claims, _) = session
            .attested
            .as_ref()
            .context("the session has not attested")?;
        let name = request
            .path
            .strip_prefix("/kbs/v0/resource/")
            .unwrap_or_default();
        let Some(resource) = self.configuration.resources.get(name) else {
            bail!(NotFound(name.to_owned()));
        };
        check_reference(&resource.references, claims)?;
        json_answer(&jwe::encrypt(
            &resource.content,
            key,
            self.configuration.fault,
        )?)
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct NotFound(String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "there is no resource {}", self.0)
    }
}

impl std::error::Error for NotFound {}

fn acceptor(shown: &Identity) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let configuration = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![shown.certificate()], shown.key())?;
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}

fn session<'a>(
    sessions: &'a mut BTreeMap<String, Session>,
    request: &Request,
) -> Result<&'a mut Session> {
    let cookie = request.cookie.as_deref().context("cookie not found")?;
    let id = cookie
        .strip_prefix("kbs-session-id=")
        .ok_or_else(|| anyhow!("cookie not found"))?;
    sessions.get_mut(id).context("session not found")
}

fn check_reference(references: &Option<Vec<String>>, claims: &Claims) -> Result<()> {
    if let Some(references) = references {
        ensure!(
            references.contains(&claims.launch_digest),
            "reference value: launch digest {} is not among them",
            claims.launch_digest
        );
    }
    Ok(())
}

fn json_answer(value: &serde_json::Value) -> Result<Answer> {
    Ok(Answer {
        status: 200,
        cookie: None,
        body: serde_json::to_vec(value)?,
    })
}

fn refusal(why: &anyhow::Error) -> Result<Answer> {
    let (status, kind) = match why.is::<NotFound>() {
        true => (404, "NotFound"),
        false => (401, "AttestationFailed"),
    };
    let information = ErrorInformation {
        kind: format!("https://github.com/confidential-containers/kbs/errors/{kind}"),
        detail: format!("{why:#}"),
    };
    Ok(Answer {
        status,
        cookie: None,
        body: serde_json::to_vec(&information)?,
    })
}
