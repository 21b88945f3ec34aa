//! Connections between guest and host.

use std::io::{ErrorKind, Read};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rig::probe::failed;

use crate::vmm::machine::wires::Wires;
use crate::vmm::machine::{Guest, Vmm};
use crate::vmm::peers::{self, beside};
use crate::vmm::{Body, Setting};

pub const TRIALS: &[(&str, Body)] = &[
    ("vsock::both_directions", both_directions),
    ("vsock::thousand_connections", thousand_connections),
    ("vsock::much_each_way", much_each_way),
    ("vsock::both_ways_at_once", both_ways_at_once),
    ("vsock::half_close", half_close),
    ("vsock::nobody_listens", nobody_listens),
    ("vsock::close_with_unread_data", close_with_unread_data),
    ("vsock::slow_reader", slow_reader),
    ("vsock::dead_peer", dead_peer),
    ("vsock::dead_guest", dead_guest),
    ("vsock::reset", reset),
];

const PORT: u32 = 2000;
const MIB: u64 = 1 << 20;
/// Many times what all buffers in between hold.
const MUCH: u64 = 256 * MIB;

/// A connection that the host makes: both ends.
fn connect(guest: &mut Guest, port: u32) -> Result<(std::fs::File, u32)> {
    guest.probe.vsock_listen(port)?;
    let stream = guest.wires.connect(port)?;
    Ok((stream, guest.probe.vsock_accept(port, 1)?))
}

/// A connection that the guest makes: both ends.
fn accept(guest: &mut Guest) -> Result<(std::fs::File, u32)> {
    let number = guest.probe.vsock_connect(PORT, 1)?;
    Ok((guest.wires.accept(PORT)?, number))
}

fn both_directions(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let ends = [accept(&mut guest)?, connect(&mut guest, 77)?];
    for (stream, number) in &ends {
        // Less than a packet, and more than a guest's buffer.
        for (bytes, seed) in [(1, 1), (4097, 2), (MIB + 1, 3)] {
            let send = || guest.probe.send(*number, bytes, seed);
            beside(|| peers::receive(stream, bytes, seed), send)?;
            let receive = || guest.probe.receive(*number, bytes, seed);
            beside(|| peers::send(stream, bytes, seed), receive)?;
        }
    }
    guest.power_off()
}

fn thousand_connections(setting: &Setting) -> Result<()> {
    const COUNT: u32 = 1000;
    let mut guest = setting.machine().boot(setting.vmm)?;
    let wires = &guest.wires;
    let accept = || (0..COUNT).map(|_| wires.accept(PORT)).collect();
    let mut first = 0;
    let probe = &mut guest.probe;
    let out: Vec<_> = beside(accept, || {
        first = probe.vsock_connect(PORT, COUNT)?;
        Ok(())
    })?;
    exchange(&mut guest, &out, first)?;

    // As many the other way, with those still open.
    guest.probe.vsock_listen(77)?;
    let wires = &guest.wires;
    let connect = || (0..COUNT).map(|_| wires.connect(77)).collect();
    let mut second = 0;
    let probe = &mut guest.probe;
    let back: Vec<_> = beside(connect, || {
        second = probe.vsock_accept(77, COUNT)?;
        Ok(())
    })?;
    exchange(&mut guest, &back, second)?;
    exchange(&mut guest, &out, first)?;

    // Closing them leaves nothing that a thousand more would stumble over.
    drop((out, back));
    for closed in [first, first + COUNT - 1, second] {
        let end = guest.probe.end(closed)?;
        ensure!(
            end.how == "EOF",
            "connection {closed} ended with {}",
            end.how
        );
    }
    guest.probe.close(first, COUNT)?;
    guest.probe.close(second, COUNT)?;
    let wires = &guest.wires;
    let accept = || (0..COUNT).map(|_| wires.accept(PORT)).collect();
    let mut first = 0;
    let probe = &mut guest.probe;
    let out: Vec<_> = beside(accept, || {
        first = probe.vsock_connect(PORT, COUNT)?;
        Ok(())
    })?;
    exchange(&mut guest, &out, first)?;
    guest.power_off()
}

/// Each of these connections works.
fn exchange(guest: &mut Guest, streams: &[std::fs::File], first: u32) -> Result<()> {
    let count = u32::try_from(streams.len())?;
    let echo = || {
        streams
            .iter()
            .try_for_each(|stream| peers::echo(stream, 1000))
    };
    beside(echo, || guest.probe.exchange(first, count, 1000, 1))
}

fn much_each_way(setting: &Setting) -> Result<()> {
    let mut machine = setting.machine();
    // In a test VM on a busy machine it takes minutes, and is one answer.
    machine.limit = Duration::from_secs(600);
    let mut guest = machine.boot(setting.vmm)?;
    let (stream, number) = accept(&mut guest)?;
    let send = || guest.probe.send(number, MUCH, 1);
    beside(|| peers::receive(&stream, MUCH, 1), send)?;
    let receive = || guest.probe.receive(number, MUCH, 2);
    beside(|| peers::send(&stream, MUCH, 2), receive)?;
    guest.power_off()
}

fn both_ways_at_once(setting: &Setting) -> Result<()> {
    let mut machine = setting.machine();
    (machine.cpus, machine.most_cpus) = (2, 2);
    let mut guest = machine.boot(setting.vmm)?;
    let (stream, number) = accept(&mut guest)?;
    let bytes = 64 * MIB;
    let exchange = || guest.probe.exchange(number, 1, bytes, 3);
    beside(|| peers::echo(&stream, bytes), exchange)?;
    guest.power_off()
}

/// Who sends no more still receives.
fn half_close(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    // The guest.
    let (mut stream, number) = accept(&mut guest)?;
    guest.probe.send(number, 1000, 1)?;
    guest.probe.shut_writing(number)?;
    peers::receive(&stream, 1000, 1)?;
    ensure!(stream.read(&mut [0])? == 0, "more came than was sent");
    let receive = || guest.probe.receive(number, MIB, 2);
    beside(|| peers::send(&stream, MIB, 2), receive)?;
    drop(stream);
    let end = guest.probe.end(number)?;
    ensure!(end.bytes == 0 && end.how == "EOF", "{end:?}");

    // The host.
    let (mut stream, number) = connect(&mut guest, 78)?;
    peers::send(&stream, 1000, 3)?;
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&stream),
        nix::sys::socket::Shutdown::Write,
    )?;
    guest.probe.receive(number, 1000, 3)?;
    let end = guest.probe.end(number)?;
    ensure!(end.bytes == 0 && end.how == "EOF", "{end:?}");
    let send = || guest.probe.send(number, MIB, 4);
    beside(|| peers::receive(&stream, MIB, 4), send)?;
    guest.probe.close(number, 1)?;
    ensure!(stream.read(&mut [0])? == 0, "more came than was sent");
    guest.power_off()
}

fn nobody_listens(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    failed(guest.probe.vsock_connect(4242, 1), "ECONNRESET")?;
    match guest.wires.connect(4243) {
        Err(_) => {}
        Ok(mut stream) => match stream.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => bail!("somebody speaks on a port where nobody listens"),
            Err(error) => {
                let reset = error.kind() == ErrorKind::ConnectionReset;
                ensure!(reset, "a port where nobody listens: {error}");
            }
        },
    }
    // And others are not disturbed.
    let (stream, number) = accept(&mut guest)?;
    guest.probe.send(number, 1000, 1)?;
    peers::receive(&stream, 1000, 1)?;
    guest.power_off()
}

/// What was sent and not read is lost, and the sender gets to know that.
fn close_with_unread_data(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let (stream, number) = accept(&mut guest)?;
    guest.probe.send(number, 1000, 1)?;
    drop(stream);
    // The end may be on its way still when the next bytes are sent.
    let (mut sent, mut refused) = (0, None);
    while refused.is_none() && sent < 1000 {
        refused = guest.probe.send(number, 1000, 1).err();
        sent += 1;
        thread::sleep(Duration::from_millis(10));
    }
    let refused = refused.context("the guest can still send after a thousand times")?;
    failed::<()>(Err(refused), "EPIPE")?;

    let (stream, number) = accept(&mut guest)?;
    peers::send(&stream, 1000, 1)?;
    guest.probe.close(number, 1)?;
    // All that can be read is what was sent before, or nothing; then there is an end.
    match (&stream).read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => bail!("the guest has sent something"),
        Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
    }
    guest.power_off()
}

/// Who does not read stops the sender, and nobody else.
fn slow_reader(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let (stuck, stuck_number) = accept(&mut guest)?;
    let (stream, number) = accept(&mut guest)?;
    // The guest reads nothing of this; it can't all be sent.
    let writer = stuck.try_clone()?;
    let writing = thread::spawn(move || peers::send(writer, 16 * MIB, 5));
    thread::sleep(Duration::from_secs(1));
    ensure!(
        !writing.is_finished(),
        "16 MiB are sent, and nobody has read"
    );
    let send = || guest.probe.send(number, MIB, 1);
    beside(|| peers::receive(&stream, MIB, 1), send)?;
    let receive = || guest.probe.receive(number, MIB, 2);
    beside(|| peers::send(&stream, MIB, 2), receive)?;
    // And nothing of it is lost.
    guest.probe.receive(stuck_number, 16 * MIB, 5)?;
    writing
        .join()
        .map_err(|_| anyhow!("the writing thread died"))??;
    guest.power_off()
}

/// A peer that goes while the guest waits for it.
fn dead_peer(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let later = |stream: std::fs::File| {
        move || {
            thread::sleep(Duration::from_millis(500));
            drop(stream);
            Ok(())
        }
    };
    let (stream, number) = accept(&mut guest)?;
    let mut end = None;
    beside(later(stream), || {
        end = Some(guest.probe.end(number)?);
        Ok(())
    })?;
    let how = end.map(|end| end.how).unwrap_or_default();
    ensure!(how == "EOF" || how == "ECONNRESET", "the guest sees {how}");

    // While it sends more than anyone would keep.
    let (stream, number) = accept(&mut guest)?;
    let mut sent = Ok(());
    beside(later(stream), || {
        sent = guest.probe.send(number, MUCH, 1);
        Ok(())
    })?;
    failed(sent, "EPIPE")?;
    guest.power_off()
}

/// A guest that goes while the host waits for it.
fn dead_guest(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    let (mut stream, _) = accept(&mut guest)?;
    let wires: Wires = guest.kill_and_keep();
    match stream.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => bail!("a dead guest has sent something"),
        Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
    }
    drop(wires);
    Ok(())
}

fn reset(setting: &Setting) -> Result<()> {
    let mut guest = setting.machine().boot(setting.vmm)?;
    for _ in 0..3 {
        let (mut stream, number) = accept(&mut guest)?;
        guest.reset_vsock()?;
        if setting.vmm == Vmm::Qemu {
            // The host's kernel learns of it only by what the guest answers to the next packet.
            peers::send(&stream, 1, 1)?;
        }
        // What there was is no more, on either side.
        match stream.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => bail!("a connection has outlived its device's reset"),
            Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
        }
        let end = guest.probe.end(number)?;
        ensure!(end.bytes == 0, "{end:?}");
    }
    let (stream, number) = accept(&mut guest)?;
    guest.probe.send(number, 1000, 1)?;
    peers::receive(&stream, 1000, 1)?;
    guest.power_off()
}
