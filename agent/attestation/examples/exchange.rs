//! What an exchange with a broker costs a guest: processor time of the client's thread, and time in all, which
//! has the broker's in it.
//!
//!     cargo run --release -p trefoil-attestation --example exchange

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;
use trefoil_attestation::{Client, Failure, Limits, Options, ResourceUri, Simulated};
use trefoil_broker::{Broker as Served, Configuration, Identity, Resource, Shape};
use trefoil_initdata::{Broker, Endpoint};

/// Exchanges, and resources of each.
const EXCHANGES: u32 = 200;
const RESOURCES: usize = 3;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let (told, hear) = mpsc::channel();
    thread::spawn(move || serve(&told).map_err(|why| why.to_string()));
    let (address, certificate) = hear.recv()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let uris: Vec<ResourceUri> = (0..RESOURCES)
        .map(|number| format!("kbs:///default/secrets/s{number}").parse())
        .collect::<Result<_, Failure>>()?;
    for tls in [false, true] {
        let broker = Broker {
            endpoint: Endpoint {
                tls,
                host: "127.0.0.1".into(),
                port: address[usize::from(tls)].port(),
                path: String::new(),
            },
            certificates: tls.then(|| certificate.clone()),
            credentials: Vec::new(),
        };
        let options = Options {
            limits: Limits::default(),
            floor: SystemTime::UNIX_EPOCH,
            allow_plain: true,
        };
        let evidence = Box::new(Simulated::new(&[7; 48], &[0; 32]));
        let to = address[usize::from(tls)];
        let client = Client::new(&broker, evidence, None, options, move || {
            TcpStream::connect(to)
        })?;
        runtime.block_on(client.fetch(&uris))?;
        let (began, worked) = (Instant::now(), processor_time());
        for _ in 0..EXCHANGES {
            runtime.block_on(client.fetch(&uris))?;
        }
        println!(
            "{}, {RESOURCES} resources: {:?} of the client's processor time, {:?} in all",
            if tls { "TLS" } else { "plain" },
            (processor_time() - worked) / EXCHANGES,
            began.elapsed() / EXCHANGES
        );
    }
    Ok(())
}

/// What this thread has had.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Serves without TLS and with it, and tells where.
fn serve(told: &mpsc::Sender<([SocketAddr; 2], String)>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let identity = Identity::new(&Shape::default())?;
    let resource = Resource {
        content: vec![7; 64],
        references: None,
    };
    let resources =
        (0..RESOURCES).map(|number| (format!("default/secrets/s{number}"), resource.clone()));
    let configuration = Configuration {
        accept_simulated: true,
        resources: resources.collect(),
        ..Configuration::default()
    };
    runtime.block_on(async {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let plain = Served::new(configuration.clone())?
            .start(loopback, None)
            .await?;
        let tls = Served::new(configuration)?
            .start(loopback, Some(&identity))
            .await?;
        told.send(([plain.address, tls.address], identity.pem()))?;
        std::future::pending().await
    })
}
