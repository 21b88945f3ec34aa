//! Network interfaces: their addresses, and what the driver says of them.

pub(crate) mod features;
mod interface;
pub(crate) mod ping;
pub(crate) mod udp;

use std::fs;
use std::net::Ipv4Addr;

use crate::request::{Answer, Outcome, While, Words, facts};
use interface::Interface;

/// `net-up INTERFACE ADDRESS/PREFIX [mtu BYTES] [gateway ADDRESS]`
pub(crate) fn up(words: &mut Words<'_>) -> Outcome {
    let mtu = words.option("mtu");
    let gateway = words.option("gateway");
    let interface = Interface::named(words.word("an interface")?)?;
    let address = words.word("an address")?;
    words.end()?;
    let (ip, prefix) = address
        .split_once('/')
        .ok_or_else(|| format!("{address:?} has no prefix"))?;
    let ip: Ipv4Addr = ip
        .parse()
        .map_err(|_| format!("{ip:?} can't be an address"))?;
    let prefix: u32 = prefix
        .parse()
        .ok()
        .filter(|prefix| *prefix <= 32)
        .ok_or_else(|| format!("{prefix:?} can't be a prefix"))?;
    if let Some(mtu) = mtu {
        let mtu = mtu
            .parse()
            .map_err(|_| format!("{mtu:?} can't be an MTU"))?;
        interface.set_mtu(mtu)?;
    }
    interface.set_address(ip, prefix)?;
    interface.up()?;
    if let Some(gateway) = gateway {
        let gateway = gateway
            .parse()
            .map_err(|_| format!("{gateway:?} can't be a gateway"))?;
        interface.route_all_to(gateway)?;
    }
    Answer::done()
}

/// `net-facts INTERFACE`: as the kernel names them; `features` are those that are on.
pub(crate) fn facts_of(words: &mut Words<'_>) -> Outcome {
    let name = words.word("an interface")?;
    words.end()?;
    let read = |file: &str| {
        let path = format!("/sys/class/net/{name}/{file}");
        let text = fs::read_to_string(&path).during(format_args!("reading {path}"))?;
        Ok::<_, String>(text.trim().replace(' ', "-"))
    };
    let features = features::active(&Interface::named(name)?)?;
    facts!(
        mac = read("address")?,
        mtu = read("mtu")?,
        operstate = read("operstate")?,
        rx_bytes = read("statistics/rx_bytes")?,
        rx_packets = read("statistics/rx_packets")?,
        rx_errors = read("statistics/rx_errors")?,
        rx_dropped = read("statistics/rx_dropped")?,
        tx_bytes = read("statistics/tx_bytes")?,
        tx_packets = read("statistics/tx_packets")?,
        tx_errors = read("statistics/tx_errors")?,
        tx_dropped = read("statistics/tx_dropped")?,
        features = features.join(","),
    )
}
