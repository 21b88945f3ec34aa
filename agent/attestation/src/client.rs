//! The client: exchanges, each a session with a fresh key, begun again where the broker is away.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::SystemTime;

use tokio::time::{sleep, timeout};
use trefoil_initdata::{Broker, Endpoint};
use zeroize::Zeroizing;

use crate::evidence::Evidence;
use crate::failure::Failure;
use crate::http::Stream;
use crate::limits::Limits;
use crate::resource::ResourceUri;
use crate::session::{Peer, Session};
use crate::tls::Tls;

/// Resources by their names.
pub type Resources = BTreeMap<ResourceUri, Zeroizing<Vec<u8>>>;

/// What a client is told besides the broker.
pub struct Options {
    /// How long things may take, and how much they may be.
    pub limits: Limits,
    /// The time before which it is not: the image's build time. The clock is the host's.
    pub floor: SystemTime,
    /// Whether a broker without TLS is asked. Then the host may answer in its place.
    pub allow_plain: bool,
}

/// A client of one broker. `connect` makes a connection whose bytes reach it.
pub struct Client<C> {
    peer: Peer<C>,
    evidence: Box<dyn Evidence>,
    initdata: Option<String>,
}

impl<C, F, S> Client<C>
where
    C: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: Stream + 'static,
{
    /// One for a broker. `initdata` is the document, which the broker compares with the evidence.
    ///
    /// # Errors
    /// [`Failure::Here`] if the broker can't be trusted as it is named.
    pub fn new(
        broker: &Broker,
        evidence: Box<dyn Evidence>,
        initdata: Option<String>,
        options: Options,
        connect: C,
    ) -> Result<Self, Failure> {
        let endpoint = &broker.endpoint;
        let peer = Peer {
            connect,
            authority: endpoint.authority(),
            path: endpoint.path.clone(),
            tls: tls(endpoint, broker.certificates.as_deref(), &options)?,
            limits: options.limits,
        };
        Ok(Self {
            peer,
            evidence,
            initdata,
        })
    }

    /// How long things may take.
    pub(crate) fn limits(&self) -> &Limits {
        &self.peer.limits
    }

    /// Attests, and takes all these resources.
    ///
    /// A broker that is away is asked again, after pauses; a refusal and a wrong answer are not.
    ///
    /// # Errors
    /// The last failure. Either all resources are there or none.
    pub async fn fetch(&self, uris: &[ResourceUri]) -> Result<Resources, Failure> {
        let limits = &self.peer.limits;
        if uris.len() > limits.most_resources {
            return Err(Failure::here(format!(
                "{} resources are named, more than {}",
                uris.len(),
                limits.most_resources
            )));
        }
        let mut pause = limits.pause;
        for attempt in 1.. {
            match self.exchange(uris).await {
                Err(Failure::Away(why)) if attempt < limits.attempts => {
                    log::warn!("the broker is away, attempt {attempt}: {why}");
                    sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
                Err(Failure::Away(why)) => {
                    return Err(Failure::away(format!("{why} ({attempt} attempts)")));
                }
                done => return done,
            }
        }
        Err(Failure::here("no attempt is allowed"))
    }

    async fn exchange(&self, uris: &[ResourceUri]) -> Result<Resources, Failure> {
        let limit = self.peer.limits.exchange;
        timeout(limit, self.attest_and_take(uris))
            .await
            .map_err(|_| Failure::late("the exchange", limit))?
    }

    async fn attest_and_take(&self, uris: &[ResourceUri]) -> Result<Resources, Failure> {
        let mut session = Session::new(&self.peer)?;
        let initdata = self.initdata.as_deref();
        session
            .attest(self.evidence.as_ref(), initdata)
            .await
            .map_err(|why| why.context("attest"))?;
        let mut resources = Resources::new();
        for uri in uris {
            let resource = session.resource(uri).await;
            let resource = resource.map_err(|why| why.context(&format!("get {uri}")))?;
            resources.insert(uri.clone(), resource);
        }
        Ok(resources)
    }
}

fn tls(endpoint: &Endpoint, pem: Option<&str>, options: &Options) -> Result<Option<Tls>, Failure> {
    match (endpoint.tls, pem) {
        (true, Some(pem)) => Tls::new(endpoint, pem, options.floor).map(Some),
        (true, None) => Err(Failure::here(format!(
            "the broker {endpoint} has no certificate in the initdata: set kbs_cert in cdh.toml"
        ))),
        (false, _) if options.allow_plain => Ok(None),
        (false, _) => Err(Failure::here(format!(
            "the broker {endpoint} does not speak TLS, so the host could answer in its place: use \
             https:// and kbs_cert"
        ))),
    }
}
