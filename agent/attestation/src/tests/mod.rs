//! The client against a broker: what it gets, and what a wrong or hostile broker gets out of it.

mod hostile;
mod secrets;
mod trust;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use trefoil_broker::{Broker as Served, Configuration, Fault, Identity, Resource, Running, Shape};
use trefoil_initdata::{Broker, Credential, Endpoint};

use crate::{Client, Failure, Limits, Options, ResourceUri, Resources, Simulated};

const LAUNCHED: &str = "0707070707070707";
const PASSWORD: &str = "kbs:///default/db/password";

/// Bounds for a broker on loopback that is to fail soon.
fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(20),
        answer: Duration::from_secs(20),
        exchange: Duration::from_secs(60),
        attempts: 2,
        pause: Duration::from_millis(1),
        ..Limits::default()
    }
}

/// One that accepts the simulated TEE, and has a password.
fn accepting() -> Configuration {
    let password = Resource {
        content: b"hunter2".to_vec(),
        references: None,
    };
    Configuration {
        accept_simulated: true,
        resources: [("default/db/password".to_owned(), password)].into(),
        ..Configuration::default()
    }
}

fn with_fault(fault: Fault) -> Configuration {
    Configuration {
        fault: Some(fault),
        ..accepting()
    }
}

async fn start(configuration: Configuration, shown: Option<&Identity>) -> Running {
    let broker = Served::new(configuration).expect("a broker");
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    broker.start(loopback, shown).await.expect("it listens")
}

/// As initdata names it.
fn named(running: &Running, certificates: Option<String>) -> Broker {
    Broker {
        endpoint: Endpoint {
            tls: certificates.is_some(),
            host: "127.0.0.1".into(),
            port: running.address.port(),
            path: String::new(),
        },
        certificates,
        credentials: Vec::new(),
    }
}

type Connecting = Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>>;

fn client(
    broker: &Broker,
    limits: Limits,
) -> Result<Client<impl Fn() -> Connecting + use<>>, Failure> {
    let port = broker.endpoint.port;
    let initdata = "version = '0.1.0'";
    let digest = ring::digest::digest(&ring::digest::SHA256, initdata.as_bytes());
    let evidence = Simulated::new(&[7; 8], digest.as_ref());
    let options = Options {
        limits,
        floor: SystemTime::UNIX_EPOCH,
        allow_plain: true,
    };
    Client::new(
        broker,
        Box::new(evidence),
        Some(initdata.into()),
        options,
        move || -> Connecting { Box::pin(TcpStream::connect(("127.0.0.1", port))) },
    )
}

fn uri(text: &str) -> ResourceUri {
    text.parse().expect("a resource")
}

/// What is fetched from a broker without TLS.
async fn fetch(running: &Running, uris: &[&str]) -> Result<Resources, Failure> {
    let uris: Vec<ResourceUri> = uris.iter().map(|text| uri(text)).collect();
    client(&named(running, None), limits())?.fetch(&uris).await
}

#[tokio::test]
async fn one_exchange_fetches_all_resources() {
    let mut configuration = accepting();
    for number in 0..5 {
        let name = format!("default/numbers/n{number}");
        let resource = Resource {
            content: vec![number; 1000 * usize::from(number)],
            references: Some(vec![LAUNCHED.into()]),
        };
        configuration.resources.insert(name, resource);
    }
    let running = start(configuration, None).await;
    let names: Vec<String> = (0..5)
        .map(|number| format!("kbs:///default/numbers/n{number}"))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let resources = fetch(&running, &names).await.expect("fetched");
    for (number, name) in names.iter().enumerate() {
        assert_eq!(resources[&uri(name)].len(), 1000 * number);
    }
    assert_eq!(
        (running.broker.connections(), running.broker.attestations()),
        (1, 1)
    );
}

#[tokio::test]
async fn each_hash_that_is_offered_binds_the_key() {
    for hash in ["sha256", "sha384", "sha512"] {
        let mut configuration = accepting();
        configuration.hash = Some(hash.into());
        let running = start(configuration, None).await;
        fetch(&running, &[PASSWORD]).await.expect(hash);
    }
}

#[tokio::test]
async fn a_connection_that_the_broker_closes_is_made_again() {
    // After each answer, without having said so: the next question finds nobody.
    let running = start(with_fault(Fault::Closes), None).await;
    fetch(&running, &[PASSWORD]).await.expect("fetched");
    assert_eq!(
        (running.broker.connections(), running.broker.attestations()),
        (3, 1)
    );
}

#[tokio::test]
async fn a_broker_that_refuses_says_why() {
    let mut elsewhere = accepting();
    elsewhere.references = Some(vec!["00".into()]);
    let mut not_for_us = accepting();
    if let Some(password) = not_for_us.resources.get_mut("default/db/password") {
        password.references = Some(vec!["00".into()]);
    }
    let by_default = Configuration {
        accept_simulated: false,
        ..accepting()
    };
    for (configuration, name, expected) in [
        (
            elsewhere,
            PASSWORD,
            "attest: reference value: launch digest",
        ),
        (
            not_for_us,
            PASSWORD,
            "resource/default/db/password: reference value",
        ),
        (
            by_default,
            PASSWORD,
            "evidence of a SIMULATED TEE is not accepted",
        ),
        (
            accepting(),
            "kbs:///default/db/none",
            "NotFound, status 404",
        ),
    ] {
        let running = start(configuration, None).await;
        let why = fetch(&running, &[name]).await.expect_err(expected);
        assert!(matches!(why, Failure::Refused(_)), "{why}");
        let why = why.to_string();
        assert!(why.contains(expected) && why.len() < 512, "{why}");
        // A refusal is not asked about again.
        assert_eq!(running.broker.connections(), 1);
    }
}

#[tokio::test]
async fn initdata_that_is_not_the_bound_one_is_refused() {
    let running = start(accepting(), None).await;
    let options = Options {
        limits: limits(),
        floor: SystemTime::UNIX_EPOCH,
        allow_plain: true,
    };
    let address = running.address;
    let client = Client::new(
        &named(&running, None),
        Box::new(Simulated::new(&[7; 8], &[0; 32])),
        Some("another".into()),
        options,
        move || TcpStream::connect(address),
    )
    .expect("a client");
    let why = client.fetch(&[]).await.expect_err("not bound");
    assert!(
        why.to_string()
            .contains("not the one that the TEE has bound"),
        "{why}"
    );
}

#[tokio::test]
async fn no_more_resources_are_asked_for_than_the_limit() {
    let running = start(accepting(), None).await;
    let few = Limits {
        most_resources: 1,
        ..limits()
    };
    let client = client(&named(&running, None), few).expect("a client");
    let why = client.fetch(&[uri(PASSWORD), uri("kbs:///a/b/c")]).await;
    assert!(
        why.expect_err("too many")
            .to_string()
            .contains("more than 1")
    );
    assert_eq!(running.broker.connections(), 0);
}

#[tokio::test]
async fn an_exchange_may_run_beside_others() {
    let running = start(accepting(), None).await;
    let client = client(&named(&running, None), limits()).expect("a client");
    let task = tokio::spawn(async move { client.fetch(&[uri(PASSWORD)]).await });
    task.await.expect("it ends").expect("fetched");
}
