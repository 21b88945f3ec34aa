//! Carrying a guest's bytes to its key broker.
//!
//! The guest connects to a port of the host's ([`BROKER_PORT`]), and the host connects to the broker that
//! the pod's initdata names. What the bytes say is between guest and broker, by TLS. Of the initdata the
//! host reads the broker's address alone, as a hint: the guest believes the certificate, not the host.
//!
//! The address is the choice of whoever wrote the pod, and the connection comes from the node. So it leads
//! to no service that the node has for itself by loopback, on its link, or of its cloud's. By its addresses on
//! the network the node answers as it does to its pods' own networks. Where kube-proxy uses IPVS, the
//! addresses of Services, and so of a broker in the cluster, are among them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use trefoil_agent_protocol::BROKER_PORT;
use trefoil_core::{Context, Error, ErrorKind, Result};
use trefoil_initdata::{Broker, Endpoint, Field, Initdata};
use trefoil_os::{apart, lock};
use trefoil_sandbox_vmm::Listener;

/// The port of the host's that this is for.
pub const PORT: u32 = BROKER_PORT;

/// No guest has more connections to its broker. Its client needs one, and a second while the first ends.
const MOST: usize = 4;

/// How long a name may take to be resolved, and an address to answer.
const CONNECTING: Duration = Duration::from_secs(5);

/// A connection ends after this time, whatever is said on it. The client gives an exchange less.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes that are on their way at once, in either direction.
const BUFFER: usize = 4096;

/// How long nothing is said of failures after one.
const SILENCE: Duration = Duration::from_secs(1);

/// No more of a name's addresses are tried.
const MOST_ADDRESSES: usize = 4;

/// Carries bytes to one pod's broker.
#[derive(Debug, Clone)]
pub struct Forwarder {
    endpoint: Endpoint,
    /// Which addresses the broker may have.
    may_be_at: fn(IpAddr) -> bool,
    places: Arc<Semaphore>,
    log: Arc<Mutex<Sparse>>,
}

impl Forwarder {
    /// One to the broker that a pod's initdata names; nothing if it names none.
    ///
    /// # Errors
    /// What is wrong with the initdata.
    pub fn of(document: &[u8], field: Field) -> Result<Option<Self>> {
        let broker = Initdata::read(document, field).and_then(|initdata| Broker::of(&initdata));
        let broker = broker.map_err(|why| Error::invalid(why.to_string()))?;
        Ok(broker.map(|broker| Self {
            endpoint: broker.endpoint,
            may_be_at: is_elsewhere,
            places: Arc::new(Semaphore::new(MOST)),
            log: Arc::default(),
        }))
    }

    /// Carries bytes between a guest's connection and the broker, until one of them ends it or it has lasted
    /// long enough. The guest's ends at once if there is no broker to be reached.
    ///
    /// # Errors
    /// Why there was no broker: for the node's log, as the guest sees for itself that it hears nothing.
    pub async fn carry(&self, mut guest: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
        let doing = || format!("carry a guest's bytes to its broker {}", self.endpoint);
        let place = self.places.try_acquire();
        let _place = place.map_err(|_| {
            let many = format!("the guest has {MOST} connections to it already");
            Error::new(ErrorKind::Unavailable, many).context(doing())
        })?;
        let mut broker = self.connect().await.map_err(|why| why.context(doing()))?;
        let carrying = copy_bidirectional_with_sizes(&mut guest, &mut broker, BUFFER, BUFFER);
        // How it ends is the two ends' affair.
        let _ = timeout(LONGEST, carrying).await;
        Ok(())
    }

    async fn connect(&self) -> Result<TcpStream> {
        let mut failure = Error::new(ErrorKind::Unavailable, "it has no address");
        for address in self.addresses().await? {
            match in_time(TcpStream::connect(address)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).context(|| "set it up")?;
                    return Ok(stream);
                }
                Err(why) => {
                    let why = Error::new(ErrorKind::Unavailable, why.to_string());
                    failure = why.context(format!("connect to {address}"));
                }
            }
        }
        Err(failure)
    }

    /// Those of the broker's addresses that it may have.
    async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let name = (self.endpoint.host.clone(), self.endpoint.port);
        let resolving = apart("resolve", move || {
            let all = name.to_socket_addrs().context(|| "resolve its name")?;
            Ok::<_, Error>(all.take(MOST_ADDRESSES).collect::<Vec<_>>())
        });
        let all = timeout(CONNECTING, resolving).await;
        let all = all.map_err(|_| {
            Error::new(ErrorKind::Unavailable, "resolving its name took too long")
        })??;
        match all.iter().find(|one| !(self.may_be_at)(one.ip())) {
            Some(address) => Err(Error::precondition(format!(
                "its address {} is the node's own, its link's or its cloud's; a pod's broker may not be there",
                address.ip()
            ))),
            None => Ok(all),
        }
    }
}

#[async_trait]
impl Listener for Forwarder {
    fn port(&self) -> u32 {
        PORT
    }

    async fn serve(&self, connection: UnixStream) {
        let guest = tokio::net::UnixStream::from_std(connection);
        let carried = match guest.context(|| "watch a guest's connection to its broker") {
            Ok(guest) => self.carry(guest).await,
            Err(why) => Err(why),
        };
        if let Err(why) = carried
            && lock(&self.log).may_say(Instant::now())
        {
            log::warn!("{why}");
        }
    }
}

/// Keeps a guest that connects without end from filling the node's log.
#[derive(Debug, Default)]
struct Sparse {
    said: Option<Instant>,
}

impl Sparse {
    /// Whether something may be said now; it is said then.
    fn may_say(&mut self, now: Instant) -> bool {
        let silent = |said: Instant| now.saturating_duration_since(said) >= SILENCE;
        let may = self.said.is_none_or(silent);
        if may {
            self.said = Some(now);
        }
        may
    }
}

async fn in_time<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(CONNECTING, connecting).await.map_err(late)?
}

/// Where clouds tell a machine of itself, and give it credentials, beside the link-local 169.254.169.254.
const METADATA: [IpAddr; 3] = [
    // Alibaba Cloud's.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Azure's.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Google Cloud's.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// What EC2's services for a machine itself begin with: fd00:ec2::254 is its metadata.
const EC2: [u16; 2] = [0xfd00, 0xec2];

/// Whether an address leads away from the node, its link and its cloud's services for itself. One of an IPv4
/// network in an IPv6 address is that one's.
fn is_elsewhere(address: IpAddr) -> bool {
    let is_elsewhere = |one: Ipv4Addr| {
        !(one.is_loopback()
            || one.is_unspecified()
            || one.is_link_local()
            || one.is_broadcast()
            || one.is_multicast()
            || METADATA.contains(&IpAddr::V4(one))
            || one.octets()[0] == 0)
    };
    match address {
        IpAddr::V4(one) => is_elsewhere(one),
        IpAddr::V6(one) => match one.to_ipv4_mapped().or_else(|| nat64(one)) {
            Some(inner) => is_elsewhere(inner),
            None => {
                !(one.is_loopback()
                    || one.is_unspecified()
                    || one.is_unicast_link_local()
                    || one.is_multicast()
                    || METADATA.contains(&address)
                    || one.segments().starts_with(&EC2))
            }
        },
    }
}

/// The IPv4 address in one of the well-known prefix 64:ff9b::/96, or in one that is compatible.
fn nat64(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, second, a, b, c, d, high, low] = address.segments();
    let is_prefix = (first, second) == (0x64, 0xff9b) || ((first, second) == (0, 0) && high != 0);
    let [p, q] = high.to_be_bytes();
    let [r, s] = low.to_be_bytes();
    (is_prefix && (a, b, c, d) == (0, 0, 0, 0)).then(|| Ipv4Addr::new(p, q, r, s))
}

#[cfg(test)]
mod tests;
