//! The probe: PID 1 of a test guest, by which the host tries the guest's devices.
//!
//! It mounts what it needs, connects to the host over vsock, says `ready`, and does one request
//! after the other, each a line of words. It answers `ok` with `key=value` words, or `failed` with
//! a sentence. An answer that is more than words is `ok length=N` and N bytes. Where the
//! connection ends, the guest does.
//!
//! Start reading at [`perform`], which names every request; each kind of device has a file.

mod block;
mod end;
mod machine;
mod mounts;
mod net;
mod request;
mod rng;
mod share;
mod streams;
mod vsock;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};

use request::{Answer, Outcome, Words};
use streams::Streams;
use trefoil_probe::{LONGEST, READY};

fn main() {
    if std::process::id() != 1 {
        eprintln!(
            "trefoil-probe: this is the init of a test guest and runs as nothing but process 1"
        );
        std::process::exit(1);
    }
    match run() {
        Ok(()) => end::power_off(),
        Err(why) => {
            machine::say(&why);
            end::restart()
        }
    }
}

/// All of the guest's life.
fn run() -> Result<(), String> {
    mounts::make()?;
    machine::allow_many_descriptors()?;
    let mut streams = Streams::default();
    while serve(vsock::connect_to_host()?, &mut streams)? == Next::Connect {}
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Next {
    Connect,
    End,
}

fn serve(mut host: File, streams: &mut Streams) -> Result<Next, String> {
    say(&mut host, format_args!("{READY}"))?;
    let mut reader = BufReader::new(host);
    loop {
        let mut line = String::new();
        let limit = LONGEST as u64;
        let read = (&mut reader).take(limit).read_line(&mut line);
        // A host that is gone has no more use for the guest, however it went.
        if !matches!(read, Ok(1..)) {
            return Ok(Next::End);
        }
        let outcome = perform(&line, streams);
        let host = reader.get_mut();
        match outcome {
            Ok(Answer::Facts(facts)) if facts.is_empty() => say(host, format_args!("ok"))?,
            Ok(Answer::Facts(facts)) => say(host, format_args!("ok {facts}"))?,
            Ok(Answer::Bytes(bytes)) => {
                say(host, format_args!("ok length={}", bytes.len()))?;
                host.write_all(&bytes)
                    .map_err(|error| format!("answering: {error}"))?;
            }
            Ok(Answer::Again) => return Ok(Next::Connect),
            Err(why) => say(host, format_args!("failed {}", why.replace('\n', " ")))?,
        }
    }
}

/// Says one line, in one packet.
fn say(host: &mut File, line: std::fmt::Arguments<'_>) -> Result<(), String> {
    host.write_all(format!("{line}\n").as_bytes())
        .map_err(|error| format!("answering: {error}"))
}

/// Does what a line asks for.
fn perform(line: &str, streams: &mut Streams) -> Outcome {
    let (name, mut words) = Words::split(line);
    let words = &mut words;
    match name {
        "block-facts" => block::facts_of(words),
        "block-write" => block::write(words),
        "block-check" => block::check(words),
        "block-flush" => block::flush(words),
        "block-discard" => block::discard(words),
        "block-zero" => block::zero(words),
        "block-load" => block::load::load(words),

        "rng" => rng::read(words),

        "net-facts" => net::facts_of(words),
        "net-up" => net::up(words),
        "net-feature" => net::features::set(words),
        "ping" => net::ping::ping(words),
        "udp-exchange" => net::udp::exchange(words),
        "tcp-connect" => streams.tcp_connect(words),
        "tcp-listen" => streams.tcp_listen(words),
        "tcp-accept" => streams.tcp_accept(words),

        "vsock-connect" => streams.vsock_connect(words),
        "vsock-listen" => streams.vsock_listen(words),
        "vsock-accept" => streams.vsock_accept(words),
        "vsock-reset" => vsock::reset(words),

        "send" => streams.send(words),
        "receive" => streams.receive(words),
        "echo" => streams.echo(words),
        "exchange" => streams.exchange(words),
        "load" => streams.load(words),
        "shut" => streams.shut(words),
        "end" => streams.end(words),
        "close" => streams.close(words),

        "share-mount" => share::mount_shared(words),
        "share-unmount" => share::unmount(words),
        "share-trial" => share::trial(words),
        "share-write" => share::write(words),
        "share-check" => share::check(words),
        "share-look" => share::look(words),
        "share-walk" => share::walk(words),

        "log" => machine::log(words),
        "memory" => machine::memory(words),
        "fill-memory" => machine::fill_memory(words),
        "cpus" => machine::cpus(words),
        "cpu-online" => machine::cpu_online(words),
        "cpuid" => machine::cpuid(words),
        "time" => machine::time(words),
        "read" => machine::read(words),
        "write" => machine::write(words),
        "list" => machine::list(words),
        "bind" => machine::bind(words),
        "unbind" => machine::unbind(words),

        "power-off" => end::power_off(),
        "restart" => end::restart(),
        "crash" => end::crash(),
        "triple-fault" => end::triple_fault(),
        _ => Err(format!("there is no request {name:?}")),
    }
}
