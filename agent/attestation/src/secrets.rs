//! A pod's secrets: fetched once, kept in the guest's memory, and what is sealed with them opened.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use trefoil_initdata::{Broker, Credential};
use zeroize::Zeroizing;

use crate::client::{Client, Resources};
use crate::failure::Failure;
use crate::http::Stream;
use crate::resource::ResourceUri;
use crate::sealed::Sealed;

/// What is held, as long as it is looked at.
type Held<'a> = MutexGuard<'a, Resources>;

/// What a pod has of its broker.
///
/// A resource that is here is never asked for again: a container that is started again needs no broker, and
/// a secret that the broker changes is a new pod's.
pub struct Secrets<C> {
    client: Client<C>,
    credentials: Vec<ResourceUri>,
    /// Resources by the names that a sealed secret's `kid` may have for them.
    names: BTreeMap<String, ResourceUri>,
    /// Locked while an exchange lasts: who needs the same waits for it.
    held: Mutex<Resources>,
}

impl<C, F, S> Secrets<C>
where
    C: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: Stream + 'static,
{
    /// Those of a client's broker, of which none has been fetched.
    ///
    /// # Errors
    /// If the initdata names a credential that is none.
    pub fn new(client: Client<C>, broker: &Broker) -> Result<Self, Failure> {
        let mut names = BTreeMap::new();
        let mut credentials = Vec::new();
        for Credential { resource_uri, path } in &broker.credentials {
            let uri: ResourceUri = resource_uri.parse()?;
            let name = path.rsplit('/').next().unwrap_or_default().to_owned();
            if names.insert(name, uri.clone()).is_some() {
                return Err(Failure::here(format!(
                    "two credentials of cdh.toml have paths that end like {path:?}"
                )));
            }
            credentials.push(uri);
        }
        Ok(Self {
            client,
            credentials,
            names,
            held: Mutex::default(),
        })
    }

    /// Fetches what these values need if they are sealed, and the credentials, in one exchange.
    ///
    /// # Errors
    /// If one is sealed and can't be opened by what its name says, or the exchange fails.
    pub async fn fetch_for(&self, values: &[&str]) -> Result<(), Failure> {
        let mut wanted: BTreeSet<ResourceUri> = self.credentials.iter().cloned().collect();
        for value in values {
            if let Some(sealed) = Sealed::parse(value)? {
                wanted.insert(self.signer(&sealed)?);
                wanted.insert(sealed.resource().clone());
            }
        }
        self.hold(wanted).await.map(drop)
    }

    /// The secret that a value stands for; nothing if the value is not sealed.
    ///
    /// # Errors
    /// If it is sealed and can't be opened.
    pub async fn unseal(&self, value: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let Some(sealed) = Sealed::parse(value)? else {
            return Ok(None);
        };
        let signer = self.signer(&sealed)?;
        let wanted = [signer.clone(), sealed.resource().clone()];
        let held = self.hold(wanted.into()).await?;
        sealed.open(&signer, &held).map(Some)
    }

    /// Unseals what is sealed of an environment, `NAME=value` each.
    ///
    /// # Errors
    /// The first variable's that can't be: it is named, the secret is not.
    pub async fn unseal_environment(&self, environment: &mut [String]) -> Result<(), Failure> {
        self.in_time(self.unseal_each(environment)).await?
    }

    /// What comes of `work`, within [`Limits::whole`](crate::Limits::whole): for several things that one request
    /// needs.
    ///
    /// # Errors
    /// [`Failure::Away`] if it takes longer.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let limit = self.client.limits().whole;
        let late = |_| Failure::late("to get a pod's secrets", limit);
        timeout(limit, work).await.map_err(late)
    }

    async fn unseal_each(&self, environment: &mut [String]) -> Result<(), Failure> {
        for variable in environment {
            let Some((name, value)) = variable.split_once('=') else {
                continue;
            };
            let secret = self.unseal(value).await;
            let doing = || format!("environment variable {name}");
            let Some(secret) = secret.map_err(|why| why.context(&doing()))? else {
                continue;
            };
            let text = std::str::from_utf8(&secret).ok();
            let text = text.filter(|text| !text.contains('\0')).ok_or_else(|| {
                Failure::here("the secret is not UTF-8 without zero bytes").context(&doing())
            })?;
            *variable = format!("{name}={text}");
        }
        Ok(())
    }

    /// A resource, by its name, fetched if it is not here.
    ///
    /// # Errors
    /// The exchange's.
    pub async fn resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let held = self.hold([uri.clone()].into()).await?;
        let missing = || Failure::here(format!("{uri} has not been fetched"));
        held.get(uri).cloned().ok_or_else(missing)
    }

    fn signer(&self, sealed: &Sealed) -> Result<ResourceUri, Failure> {
        match self.names.get(sealed.signer()) {
            Some(uri) => Ok(uri.clone()),
            None => sealed.signer().parse().map_err(|_| {
                Failure::here(format!(
                    "a sealed secret's kid {:?} is neither a resource nor a credential of cdh.toml",
                    sealed.signer()
                ))
            }),
        }
    }

    /// All that is held, once these are: in time, whoever else is waited for.
    async fn hold(&self, wanted: BTreeSet<ResourceUri>) -> Result<Held<'_>, Failure> {
        self.in_time(self.fetch_missing(wanted)).await?
    }

    async fn fetch_missing(&self, wanted: BTreeSet<ResourceUri>) -> Result<Held<'_>, Failure> {
        let mut held = self.held.lock().await;
        let missing: Vec<ResourceUri> = wanted
            .into_iter()
            .filter(|uri| !held.contains_key(uri))
            .collect();
        if !missing.is_empty() {
            held.extend(self.client.fetch(&missing).await?);
        }
        Ok(held)
    }
}
