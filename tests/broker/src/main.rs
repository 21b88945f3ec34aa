//! The broker as a program: on loopback, for the rig or by hand.
//!
//! ```text
//! trefoil-broker [--listen 127.0.0.1:0] [--plain] [--certificate FILE] [--accept-simulated]
//!                [--reference HEX]… [--resource repository/type/tag=FILE]… [--fault NAME]
//! ```
//!
//! It prints its URL and serves until it is killed. Its certificate, which it makes anew each time, is
//! written into a file for an author to put into initdata.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use trefoil_broker::{Broker, Configuration, Identity, Resource, Shape};

struct Arguments {
    listen: SocketAddr,
    plain: bool,
    certificate: Option<String>,
    configuration: Configuration,
}

fn main() -> Result<()> {
    let arguments = arguments(std::env::args().skip(1))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(arguments))
}

fn arguments(mut all: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut found = Arguments {
        listen: "127.0.0.1:0".parse()?,
        plain: false,
        certificate: None,
        configuration: Configuration::default(),
    };
    let settings = &mut found.configuration;
    while let Some(option) = all.next() {
        let mut value = || {
            all.next()
                .with_context(|| format!("{option} needs a value"))
        };
        match option.as_str() {
            "--listen" => found.listen = value()?.parse()?,
            "--plain" => found.plain = true,
            "--certificate" => found.certificate = Some(value()?),
            "--accept-simulated" => settings.accept_simulated = true,
            "--reference" => settings.references.get_or_insert_default().push(value()?),
            "--fault" => settings.fault = Some(value()?.parse()?),
            "--resource" => {
                let value = value()?;
                let (name, file) = value.split_once('=').context("--resource NAME=FILE")?;
                let content = std::fs::read(file).with_context(|| format!("read {file}"))?;
                let resource = Resource {
                    content,
                    references: None,
                };
                settings.resources.insert(name.to_owned(), resource);
            }
            other => bail!("unknown option {other:?}"),
        }
    }
    Ok(found)
}

async fn serve(arguments: Arguments) -> Result<()> {
    let identity = match arguments.plain {
        true => None,
        false => Some(Identity::new(&Shape::default())?),
    };
    if let (Some(file), Some(identity)) = (&arguments.certificate, &identity) {
        std::fs::write(file, identity.pem()).with_context(|| format!("write {file}"))?;
    }
    if arguments.configuration.accept_simulated {
        eprintln!(
            "trefoil-broker: evidence of a SIMULATED TEE is accepted: secrets are protected by nothing"
        );
    }
    let broker = Broker::new(arguments.configuration)?;
    let running = broker.start(arguments.listen, identity.as_ref()).await?;
    let scheme = if identity.is_some() { "https" } else { "http" };
    println!("{scheme}://{}", running.address);
    std::future::pending().await
}
