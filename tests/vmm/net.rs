//! Network interfaces.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rig::probe::failed;

use crate::vmm::lan::{At, GUEST, GUEST_ADDRESS, Lan, MAC, MTU};
use crate::vmm::machine::wires::limit;
use crate::vmm::machine::{Guest, Nic};
use crate::vmm::peers;
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("net::facts", facts),
    ("net::ping", ping),
    ("net::udp", udp),
    ("net::tcp", tcp),
    ("net::offloads", offloads),
    ("net::reset", reset),
];

const MIB: u64 = 1 << 20;
const PORT: u16 = 5000;

/// A guest on a network, and the name of its interface.
fn on_lan(setting: &Setting, mtu: u16) -> Result<(Lan, Guest, String)> {
    let lan = Lan::new()?;
    let mut machine = setting.machine();
    machine.nics.push(Nic {
        tap: lan.tap()?,
        mac: MAC,
        mtu,
    });
    let mut guest = machine.boot(setting.vmm)?;
    let interface = guest.interface(MAC)?;
    guest.probe.net_up(&interface, GUEST, mtu)?;
    Ok((lan, guest, interface))
}

fn facts(setting: &Setting) -> Result<()> {
    let (_lan, mut guest, interface) = on_lan(setting, MTU)?;
    let facts = guest.probe.net_facts(&interface)?;
    ensure!(
        facts.text("mtu")? == MTU.to_string(),
        "{}",
        facts.text("mtu")?
    );
    let features: Vec<&str> = facts.text("features")?.split(',').collect();
    for feature in [
        "tx-checksum-ip-generic",
        "rx-checksum",
        "tx-scatter-gather",
        "tx-generic-segmentation",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
    ] {
        ensure!(features.contains(&feature), "no {feature} in {features:?}");
    }
    guest.power_off()
}

fn ping(setting: &Setting) -> Result<()> {
    let (_lan, mut guest, interface) = on_lan(setting, MTU)?;
    for at in [At::Host, At::Pod] {
        let address = at.address();
        // Whole packets up to the MTU less the headers of IP and ICMP.
        for size in [0, 1, 56, 1472, u32::from(MTU) - 28] {
            guest.probe.ping(address, size, true)?;
        }
        failed(
            guest.probe.ping(address, u32::from(MTU) - 27, true),
            "EMSGSIZE",
        )?;
        // Fragments.
        guest.probe.ping(address, 65_000, false)?;
    }
    guest.probe.net_up(&interface, GUEST, 1500)?;
    guest.probe.ping(At::Host.address(), 1472, true)?;
    failed(guest.probe.ping(At::Host.address(), 1473, true), "EMSGSIZE")?;
    guest.probe.ping(At::Host.address(), 20_000, false)?;
    guest.power_off()
}

fn udp(setting: &Setting) -> Result<()> {
    let (lan, mut guest, _) = on_lan(setting, MTU)?;
    for at in [At::Host, At::Pod] {
        let socket = lan.enter(at, || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("making a peer")
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let sizes = [(100, 1), (100, 1472), (50, 8972), (20, 60_000)];
        let count: u32 = sizes.iter().map(|(count, _)| count).sum();
        let echo = thread::spawn(move || -> Result<()> {
            let mut buffer = vec![0; 1 << 16];
            for _ in 0..count {
                let (length, from) = socket.recv_from(&mut buffer)?;
                socket.send_to(buffer.get(..length).unwrap_or_default(), from)?;
            }
            Ok(())
        });
        for (count, size) in sizes {
            guest
                .probe
                .exchange_datagrams(at.address(), PORT, count, size, 1)?;
        }
        echo.join().map_err(|_| anyhow!("the peer died"))??;
    }
    guest.power_off()
}

/// A connection that the guest makes: both ends.
pub fn accept(lan: &Lan, at: At, guest: &mut Guest) -> Result<(File, u32)> {
    let listener = lan.enter(at, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("listening for the guest")
    })?;
    let number = guest.probe.tcp_connect(at.address(), PORT)?;
    Ok((file(listener.accept()?.0)?, number))
}

/// A connection that the host makes: both ends.
fn connect(lan: &Lan, at: At, guest: &mut Guest, port: u16) -> Result<(File, u32)> {
    guest.probe.tcp_listen(port)?;
    let stream = lan.enter(at, || {
        TcpStream::connect((GUEST_ADDRESS, port)).context("connecting to the guest")
    })?;
    Ok((file(stream)?, guest.probe.tcp_accept(port)?))
}

fn file(stream: TcpStream) -> Result<File> {
    let file = File::from(OwnedFd::from(stream));
    limit(&file, Duration::from_secs(120))?;
    Ok(file)
}

fn both_ways(guest: &mut Guest, stream: &File, number: u32, bytes: u64) -> Result<()> {
    let send = || guest.probe.send(number, bytes, 1);
    peers::beside(|| peers::receive(stream, bytes, 1), send)?;
    let receive = || guest.probe.receive(number, bytes, 2);
    peers::beside(|| peers::send(stream, bytes, 2), receive)?;
    let exchange = || guest.probe.exchange(number, 1, bytes / 4, 3);
    peers::beside(|| peers::echo(stream, bytes / 4), exchange)
}

fn tcp(setting: &Setting) -> Result<()> {
    for mtu in [1500, MTU] {
        let (lan, mut guest, _) = on_lan(setting, mtu)?;
        for at in [At::Host, At::Pod] {
            let (stream, number) = accept(&lan, at, &mut guest)?;
            both_ways(&mut guest, &stream, number, 16 * MIB)?;
            let port = match at {
                At::Host => 6000,
                At::Pod => 6001,
            };
            let (stream, number) = connect(&lan, at, &mut guest, port)?;
            both_ways(&mut guest, &stream, number, MIB)?;
        }
        guest.power_off()?;
    }
    Ok(())
}

/// With each offload off, and all of them on, the same arrives; and with them on, what the guest
/// sends comes in parts that are larger than a packet.
fn offloads(setting: &Setting) -> Result<()> {
    let (lan, mut guest, interface) = on_lan(setting, 1500)?;
    let (stream, number) = accept(&lan, At::Pod, &mut guest)?;
    let per_packet = |guest: &mut Guest| -> Result<u64> {
        let (bytes, packets) = lan.sent_by_guest()?;
        let send = || guest.probe.send(number, 8 * MIB, 1);
        peers::beside(|| peers::receive(&stream, 8 * MIB, 1), send)?;
        let (bytes_after, packets_after) = lan.sent_by_guest()?;
        Ok((bytes_after - bytes) / (packets_after - packets).max(1))
    };
    let on = per_packet(&mut guest)?;
    ensure!(
        on > 4 * 1500,
        "a packet has {on} bytes with segmentation by the device"
    );
    guest
        .probe
        .net_feature(&interface, "tx-tcp-segmentation", false)?;
    let off = per_packet(&mut guest)?;
    ensure!(
        off <= 1514,
        "a packet has {off} bytes without segmentation by the device"
    );
    for feature in ["tx-checksum-ip-generic", "rx-gro", "tx-scatter-gather"] {
        guest.probe.net_feature(&interface, feature, false)?;
        both_ways(&mut guest, &stream, number, MIB)?;
    }
    for feature in [
        "tx-scatter-gather",
        "tx-checksum-ip-generic",
        "tx-tcp-segmentation",
        "rx-gro",
    ] {
        guest.probe.net_feature(&interface, feature, true)?;
        both_ways(&mut guest, &stream, number, MIB)?;
    }
    guest.power_off()
}

fn reset(setting: &Setting) -> Result<()> {
    let (_lan, mut guest, _) = on_lan(setting, 1500)?;
    let mut devices = guest.probe.devices_of("virtio_net")?;
    ensure!(devices.len() == 1, "there are {devices:?}");
    let device = devices.remove(0);
    for _ in 0..3 {
        guest.probe.unbind("virtio_net", &device)?;
        guest.probe.bind("virtio_net", &device)?;
        let interface = guest.interface(MAC)?;
        guest.probe.net_up(&interface, GUEST, 1500)?;
        guest.probe.ping(At::Host.address(), 1000, true)?;
    }
    guest.power_off()
}
