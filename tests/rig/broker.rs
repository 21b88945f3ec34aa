//! The tests' key broker, beside a rig's containerd: on the node's address in the rig's network. What goes
//! over the network is recorded.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use trefoil_broker::{Broker, Configuration, Identity, Shape};

use crate::Rig;
use crate::namespaces::NODE_ADDRESS;

/// All bytes that were sent, in either direction.
type Record = Arc<Mutex<Vec<u8>>>;

/// A broker that serves, until this is dropped.
pub struct Serving {
    /// What initdata names it by.
    pub url: String,
    /// What it shows, in PEM.
    pub certificate: String,
    /// It.
    pub broker: Arc<Broker>,
    recorded: Record,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Serving {
    /// Serves, with TLS and a certificate that is made for this once.
    ///
    /// # Errors
    /// If it can't listen.
    pub fn start(rig: &Rig, configuration: Configuration) -> Result<Self> {
        let address: SocketAddr = format!("{NODE_ADDRESS}:0").parse()?;
        let shape = Shape {
            address: NODE_ADDRESS.parse()?,
            ..Shape::default()
        };
        let identity = Identity::new(&shape)?;
        let listener = rig
            .namespaces()
            .enter(|| TcpListener::bind(address).context("listening as a broker"))?;
        let (certificate, address) = (identity.pem(), listener.local_addr()?);
        let broker = Broker::new(configuration)?;
        let (stop, recorded) = (Arc::new(Notify::new()), Record::default());
        let (stopped, record) = (stop.clone(), recorded.clone());
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                // It is in this thread's network; what it is reached by, in the rig's.
                let own = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let running = broker.start(own, Some(&identity)).await?;
                tell.send(running.broker.clone())?;
                tokio::select! {
                    relayed = relay(listener, running.address, record) => relayed,
                    () = stopped.notified() => Ok(()),
                }
            })
        });
        let broker = told
            .recv()
            .map_err(|_| anyhow!("the broker does not serve"))?;
        Ok(Self {
            url: format!("https://{address}"),
            certificate,
            broker,
            recorded,
            stop,
            thread: Some(thread),
        })
    }

    /// What was sent so far, by guests and to them.
    pub fn recorded(&self) -> Vec<u8> {
        let recorded = self.recorded.lock();
        recorded.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an author writes into `cdh.toml` to have it asked.
    pub fn cdh(&self) -> String {
        format!(
            "[kbc]\nname = 'cc_kbc'\nurl = '{}'\nkbs_cert = \"\"\"\n{}\"\"\"\n",
            self.url, self.certificate
        )
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Carries what comes to the broker, and records it.
async fn relay(listener: TcpListener, broker: SocketAddr, record: Record) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (guest, _) = listener.accept().await?;
        let record = record.clone();
        tokio::spawn(async move {
            let broker = TcpStream::connect(broker).await?;
            let (from_guest, to_guest) = guest.into_split();
            let (from_broker, to_broker) = broker.into_split();
            tokio::try_join!(
                copy(from_guest, to_broker, &record),
                copy(from_broker, to_guest, &record)
            )
        });
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    record: &Mutex<Vec<u8>>,
) -> io::Result<()> {
    let mut room = vec![0; 1 << 14];
    loop {
        let length = from.read(&mut room).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let bytes = &room[..length];
        let recorded = record.lock();
        recorded
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        to.write_all(bytes).await?;
    }
}
