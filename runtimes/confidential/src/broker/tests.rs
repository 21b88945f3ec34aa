use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;

use super::*;

fn document(url: &str) -> String {
    let mut initdata = Initdata::default();
    initdata.set_cdh(&format!("[kbc]\nname = 'cc_kbc'\nurl = '{url}'\n"));
    initdata.write(Field::Simulated).expect("a document")
}

fn forwarder(url: &str) -> Forwarder {
    let forwarder = Forwarder::of(document(url).as_bytes(), Field::Simulated);
    forwarder.expect("sound").expect("a broker")
}

/// One whose broker may be on loopback, as those of tests are.
fn to_loopback(port: u16) -> Forwarder {
    Forwarder {
        may_be_at: |_| true,
        ..forwarder(&format!("https://127.0.0.1:{port}"))
    }
}

async fn listening() -> (TcpListener, Forwarder) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("address").port();
    (listener, to_loopback(port))
}

/// A guest's end, whose other end is carried.
fn guest(forwarder: &Forwarder) -> (DuplexStream, tokio::task::JoinHandle<Result<()>>) {
    let (ours, theirs) = duplex(1024);
    let forwarder = forwarder.clone();
    (
        ours,
        tokio::spawn(async move { forwarder.carry(theirs).await }),
    )
}

#[tokio::test]
async fn bytes_are_carried_both_ways_and_ends_too() {
    let (listener, forwarder) = listening().await;
    let (mut guest, carrying) = guest(&forwarder);
    let (mut broker, _) = listener.accept().await.expect("a connection");
    let asked = vec![7; 100_000];
    let (sent, heard) = tokio::join!(
        async {
            guest.write_all(&asked).await.expect("write");
            guest.shutdown().await
        },
        async {
            let mut heard = Vec::new();
            broker.read_to_end(&mut heard).await.map(|_| heard)
        }
    );
    sent.expect("ended");
    assert_eq!(heard.expect("read"), asked);
    broker.write_all(b"answer").await.expect("write");
    drop(broker);
    let mut answer = Vec::new();
    guest.read_to_end(&mut answer).await.expect("read");
    assert_eq!(answer, b"answer");
    carrying.await.expect("it ends").expect("carried");
}

#[tokio::test]
async fn a_guest_has_so_many_connections_and_no_more() {
    let (listener, forwarder) = listening().await;
    let mut held = Vec::new();
    for _ in 0..MOST {
        let guest = guest(&forwarder);
        held.push((guest, listener.accept().await.expect("a connection")));
    }
    let (mut more, refused) = guest(&forwarder);
    let why = refused.await.expect("it ends").expect_err("one too many");
    assert!(why.to_string().contains("4 connections"), "{why}");
    assert_eq!(more.read(&mut [0]).await.expect("the end"), 0);
    // When one has ended, there is a place again.
    let (one, _) = held.pop().expect("one");
    drop(one.0);
    one.1.await.expect("it ends").expect("carried");
    let _again = guest(&forwarder);
    listener.accept().await.expect("a connection");
}

#[tokio::test]
async fn the_node_itself_is_not_reached() {
    for url in [
        "https://127.0.0.1:10250",
        "https://localhost:10250",
        "https://[::1]:10250",
        "https://0.0.0.0:1",
        "https://169.254.169.254",
        "https://[fe80::1]",
        "https://[::ffff:127.0.0.1]:1",
    ] {
        let why = forwarder(url).carry(duplex(1).0).await;
        let why = why.expect_err(url);
        assert_eq!(why.kind(), ErrorKind::FailedPrecondition, "{why}");
        assert!(why.to_string().contains("the node's own"), "{why}");
    }
}

#[test]
fn addresses_within_addresses_are_seen() {
    for (text, expected) in [
        ("10.0.0.1", true),
        ("192.0.2.1", true),
        ("127.8.8.8", false),
        ("0.1.2.3", false),
        ("255.255.255.255", false),
        ("224.0.0.1", false),
        ("2001:db8::1", true),
        ("fd00::1", true),
        ("::", false),
        ("ff02::1", false),
        ("::ffff:10.0.0.1", true),
        ("::ffff:169.254.169.254", false),
        ("64:ff9b::7f00:1", false),
        ("64:ff9b::a00:1", true),
        ("::127.0.0.1", false),
        ("fd00:ec2::254", false),
        ("fd00:ec3::254", true),
        ("fd20:ce::254", false),
        ("100.100.100.200", false),
        ("168.63.129.16", false),
        ("::ffff:168.63.129.16", false),
    ] {
        assert_eq!(is_elsewhere(text.parse().expect(text)), expected, "{text}");
    }
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_told_of() {
    let (listener, forwarder) = listening().await;
    drop(listener);
    let why = forwarder.carry(duplex(1).0).await.expect_err("nobody");
    assert_eq!(why.kind(), ErrorKind::Unavailable);
    assert!(
        why.to_string().contains("its broker https://127.0.0.1:"),
        "{why}"
    );
}

#[test]
fn initdata_without_a_broker_has_no_forwarder_and_malformed_has_a_reason() {
    let empty = Initdata::default()
        .write(Field::Simulated)
        .expect("a document");
    let of = |text: &str| Forwarder::of(text.as_bytes(), Field::Simulated);
    assert!(of(&empty).expect("sound").is_none());
    for (text, named) in [
        (document("ftp://x"), "https://"),
        (document("https://a b"), "host"),
        ("not TOML".into(), "initdata"),
        (empty.replace("sha256", "sha384"), "sha384"),
    ] {
        let why = of(&text).expect_err(named).to_string();
        assert!(why.contains(named) && why.len() < 512, "{why}");
    }
}

#[tokio::test]
async fn a_guests_connection_to_the_port_is_carried() {
    let (listener, forwarder) = listening().await;
    let (mut ours, theirs) = UnixStream::pair().expect("pair");
    theirs.set_nonblocking(true).expect("non-blocking");
    assert_eq!(forwarder.port(), BROKER_PORT);
    let serving = tokio::spawn(async move { forwarder.serve(theirs).await });
    let (mut broker, _) = listener.accept().await.expect("a connection");
    broker.write_all(b"answer").await.expect("write");
    drop(broker);
    let mut answer = [0; 6];
    let read = tokio::task::spawn_blocking(move || {
        std::io::Read::read_exact(&mut ours, &mut answer).map(|()| answer)
    });
    let answer = read.await.expect("reader").expect("read");
    assert_eq!(&answer, b"answer");
    serving.await.expect("it ends with both ends");
}

#[test]
fn a_guest_that_connects_without_end_does_not_fill_the_log() {
    let mut log = Sparse::default();
    let begun = Instant::now();
    let said = (0..5000_u64)
        .map(|tick| begun + Duration::from_millis(tick))
        .filter(|now| log.may_say(*now));
    assert_eq!(said.count(), 5);
}
