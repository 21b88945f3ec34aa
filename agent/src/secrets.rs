//! A confidential pod's secrets: fetched from its broker while the guest is set up, and put in the place of
//! what is sealed, in environments and files.
//!
//! What the policy has decided on is the sealed form. It is unsealed after that, so no secret is in what
//! the host says or hears. And it is unsealed only where the policy binds it to its place: the value of a
//! variable that is exact, a file that is a sealed secret. Sealed texts are published, so the host has all of
//! them, and would otherwise have one unsealed wherever a value is its to choose.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use trefoil_agent_protocol::BROKER_PORT;
use trefoil_agent_protocol::service::PutFilesRequest;
use trefoil_attestation::{Client, Evidence, Failure, Limits, Options, PREFIX, Secrets};
use trefoil_core::{Error, ErrorKind, Result};
use trefoil_initdata::{Broker, Initdata};
use trefoil_policy::{Content, Pattern, Policy, VolumeKind};

use crate::connection::Connection;
use crate::vsock;

/// The floor of time: when this was written, in seconds since 1970. The clock is the host's, and what it says
/// is raised to this, so that no certificate passes that had expired by then. One that has expired since may.
const WRITTEN: u64 = 1_796_000_000;

/// A connection to the broker that is being made.
type Dialling = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

/// What makes one.
type Dial = fn() -> Dialling;

/// What a pod has of its broker.
pub(crate) struct PodSecrets {
    /// Nothing, if the initdata names no broker.
    broker: Option<Arc<Secrets<Dial>>>,
    /// The sealed values of the policy: what they need is fetched before anything asks for it.
    named: Vec<String>,
}

impl PodSecrets {
    /// Those of the pod of an initdata. `named` are sealed values that it is known to need; `is_simulated`
    /// says that nothing protects the guest, and so that a broker without TLS may be asked.
    ///
    /// # Errors
    /// What is wrong with the broker that the initdata names, or with what it is trusted by.
    pub(crate) fn of(
        initdata: &Initdata,
        document: &[u8],
        named: Vec<String>,
        evidence: Box<dyn Evidence>,
        is_simulated: bool,
    ) -> Result<Self> {
        let broker = Broker::of(initdata).map_err(|why| Error::precondition(why.to_string()))?;
        let Some(broker) = broker else {
            return match named.is_empty() {
                true => Ok(Self {
                    broker: None,
                    named,
                }),
                false => Err(without_broker()),
            };
        };
        let options = Options {
            limits: Limits::default(),
            floor: UNIX_EPOCH + Duration::from_secs(WRITTEN),
            allow_plain: is_simulated,
        };
        // The document is TOML, and so it is UTF-8.
        let document = String::from_utf8_lossy(document).into_owned();
        let secrets = Client::new(&broker, evidence, Some(document), options, dial as Dial)
            .and_then(|client| Secrets::new(client, &broker))
            .map_err(said)?;
        Ok(Self {
            broker: Some(Arc::new(secrets)),
            named,
        })
    }

    /// Begins to fetch what the initdata and the policy name, while the guest goes on. Whoever needs some
    /// of it waits for it, and hears why it is not there. Must be called within the event loop.
    pub(crate) fn begin(&self) {
        let Some(secrets) = self.broker.clone() else {
            return;
        };
        let named = self.named.clone();
        tokio::spawn(async move {
            let named: Vec<&str> = named.iter().map(String::as_str).collect();
            if let Err(why) = secrets.fetch_for(&named).await {
                log::warn!("fetch the pod's secrets: {why}");
            }
        });
    }

    /// Unseals what is sealed of a process's environment. `bound` are variables as the policy has them.
    ///
    /// # Errors
    /// The first variable's that is not bound, or can't be unsealed.
    pub(crate) async fn unseal_environment(
        &self,
        environment: &mut [String],
        bound: &[String],
    ) -> Result<()> {
        let mut sealed = environment.iter().filter(|variable| is_sealed(variable));
        if let Some(other) = sealed.clone().find(|variable| !bound.contains(variable)) {
            let name = other.split_once('=').map_or("", |(name, _)| name);
            return Err(unbound(
                &format!("environment variable {name}"),
                "its value",
            ));
        }
        match &self.broker {
            Some(secrets) => secrets.unseal_environment(environment).await.map_err(said),
            None if sealed.next().is_some() => Err(without_broker()),
            None => Ok(()),
        }
    }

    /// Unseals the files of a volume that are sealed secrets and nothing else. `bound` are the paths of those
    /// that the policy has as sealed secrets.
    ///
    /// # Errors
    /// The first file's that is not bound, or can't be unsealed.
    pub(crate) async fn unseal_files(
        &self,
        request: &mut PutFilesRequest,
        bound: &[String],
    ) -> Result<()> {
        match &self.broker {
            // All in one exchange, unless the policy is permissive and tells of none beforehand.
            Some(secrets) => secrets
                .in_time(self.unseal_each(request, bound))
                .await
                .map_err(said)?,
            None => self.unseal_each(request, bound).await,
        }
    }

    async fn unseal_each(&self, request: &mut PutFilesRequest, bound: &[String]) -> Result<()> {
        for file in &mut request.files {
            if !file.contents.starts_with(PREFIX.as_bytes()) {
                continue;
            }
            let doing = format!("file {:?} of volume {:?}", file.path, request.volume);
            if !bound.contains(&file.path) {
                return Err(unbound(&doing, "its text"));
            }
            let secrets = self.broker.as_ref().ok_or_else(without_broker);
            let secrets = secrets.map_err(|why| why.context(&doing))?;
            let Ok(value) = std::str::from_utf8(&file.contents) else {
                continue;
            };
            // An editor ends a file with a line's end.
            let secret = secrets.unseal(value.trim_end()).await;
            if let Some(secret) = secret.map_err(|why| said(why).context(&doing))? {
                file.contents = secret.to_vec();
            }
        }
        Ok(())
    }
}

/// Whether a variable's value is sealed, `NAME=value`.
pub(crate) fn is_sealed(variable: &str) -> bool {
    let value = variable.split_once('=').map(|(_, value)| value);
    value.is_some_and(|value| value.starts_with(PREFIX))
}

fn unbound(what: &str, by: &str) -> Error {
    Error::precondition(format!(
        "{what}: it is a sealed secret, and the policy has not {by}: only what it binds is unsealed"
    ))
}

/// The sealed secrets that a policy has: in variables, and as files.
pub(crate) fn sealed_values(policy: &Policy) -> Vec<String> {
    let variables = policy.containers.iter().flat_map(|one| &one.process.env);
    let exact = variables.filter_map(|variable| match &variable.value {
        Pattern::Exact(value) if value.starts_with(PREFIX) => Some(value.as_str()),
        _ => None,
    });
    let files = policy.volumes.iter().flat_map(|volume| match &volume.kind {
        VolumeKind::Files { files, .. } => files.as_slice(),
        _ => &[],
    });
    let sealed = files.filter_map(|rule| match &rule.content {
        // An editor ends a file with a line's end.
        Content::Sealed(text) => Some(text.trim_end()),
        _ => None,
    });
    exact.chain(sealed).map(str::to_owned).collect()
}

fn dial() -> Dialling {
    Box::pin(async { Connection::new(vsock::dial(BROKER_PORT).await?).map(|(stream, _)| stream) })
}

/// A failure as the host is told of it: the broker's reason, and nothing of a secret.
fn said(why: Failure) -> Error {
    match why {
        Failure::Away(_) => Error::new(ErrorKind::Unavailable, why.to_string()),
        _ => Error::precondition(why.to_string()),
    }
}

fn without_broker() -> Error {
    Error::precondition(
        "there is a sealed secret, and the initdata names no broker: set kbc in its cdh.toml",
    )
}

#[cfg(test)]
mod tests;
