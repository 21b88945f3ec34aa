#![allow(clippy::unwrap_used, reason = "what can't be is a failure of the test")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::*;
use trefoil_netlink::testing::{Namespace, eventually};

/// What no test waits for.
const LONG: Duration = Duration::from_secs(60);

fn pod() -> Namespace {
    let pod = Namespace::new();
    pod.ip("link set lo up\naddr add 10.0.0.5/32 dev lo");
    pod
}

fn dial(pod: &Namespace, to: &str) -> io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    pod.run(|| TcpStream::connect_timeout(&to, LONG))
}

fn refused(pod: &Namespace, to: &str) {
    let error = dial(pod, to).expect_err(to);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
}

fn accept(listener: &Listener) -> TcpStream {
    listener.socket.set_nonblocking(false).unwrap();
    listener.socket.accept().unwrap().0
}

#[test]
fn every_port_of_localhost_is_ours() {
    let pod = pod();
    let listener = listen(pod.fd()).unwrap();
    let own = listener.socket.local_addr().unwrap().port();
    for port in [1, 80, 8080, own, u16::MAX] {
        for ip in ["127.0.0.1", "127.9.9.9", "[::1]"] {
            let mut dialler = dial(&pod, &format!("{ip}:{port}")).unwrap();
            let mut accepted = accept(&listener);
            assert_eq!(accepted.local_addr().unwrap().port(), port);
            dialler.write_all(b"ping").unwrap();
            let mut heard = [0; 4];
            accepted.read_exact(&mut heard).unwrap();
            accepted.write_all(&heard).unwrap();
            dialler.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"ping");
        }
    }
}

#[test]
fn nothing_else_is() {
    let pod = pod();
    let other = pod.run(|| TcpListener::bind("10.0.0.5:80").unwrap());
    let udp = pod.run(|| std::net::UdpSocket::bind("127.0.0.1:53").unwrap());
    let _listener = listen(pod.fd()).unwrap();
    refused(&pod, "10.0.0.5:8080");
    dial(&pod, "10.0.0.5:80").unwrap();
    other.accept().unwrap();
    pod.run(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"query", "127.0.0.1:53").unwrap();
    });
    udp.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn a_port_that_nobody_has_is_reset_at_once() {
    let pod = pod();
    let listener = listen(pod.fd()).unwrap();
    let mut dialler = dial(&pod, "127.0.0.1:80").unwrap();
    refuse(accept(&listener));
    let error = dialler.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn it_ends_with_either_descriptor() {
    let pod = pod();
    refused(&pod, "127.0.0.1:80");
    // Another test's process has a copy until it runs its program.
    let soon_refused = || eventually(|| dial(&pod, "127.0.0.1:80").is_err());
    let Listener { socket, steering } = listen(pod.fd()).unwrap();
    drop(steering);
    soon_refused();
    drop(socket);
    let Listener { socket, steering } = listen(pod.fd()).unwrap();
    drop(socket);
    soon_refused();
    drop(steering);
    // Neither held anything: it can begin anew.
    let listener = listen(pod.fd()).unwrap();
    dial(&pod, "[::1]:80").unwrap();
    accept(&listener);
}

#[test]
fn the_host_keeps_its_own() {
    let own = std::fs::File::open("/proc/self/ns/net").unwrap();
    let error = listen(own.as_fd()).unwrap_err();
    assert_eq!(error.to_string(), "use the network: it is the host's own");
}
