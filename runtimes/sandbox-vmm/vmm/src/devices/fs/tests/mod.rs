#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what can't be is a failure of the test"
)]

mod server;

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use proptest::prelude::*;

use super::*;
use crate::devices::testing::Driver;
use crate::layout;
use server::{Server, serve};

fn options(queues: usize) -> Options {
    Options {
        tag: "shared".into(),
        queues,
    }
}

struct Guest {
    driver: Driver,
    server: Arc<Mutex<Server>>,
    thread: JoinHandle<String>,
}

fn start(queues: usize, server: Server) -> Guest {
    let (front, back) = UnixStream::pair().unwrap();
    let (server, thread) = serve(server, back);
    let fs = Fs::new(options(queues), front).unwrap();
    Guest {
        driver: Driver::start_mortal(Box::new(fs)),
        server,
        thread,
    }
}

/// Sends a request and expects it back in reverse.
fn echo(driver: &mut Driver, queue: usize) {
    driver.interrupts();
    let sent = driver.send(queue, &[b"abc", b"def"], &[4, 2]);
    let (head, written) = driver.until_used(queue);
    assert_eq!((head, written), (sent.head, 6));
    assert_eq!(driver.received(&sent), b"fedcfe");
    let deadline = Instant::now() + Duration::from_secs(5);
    while driver.interrupts() == 0 {
        assert!(Instant::now() < deadline, "no interrupt");
    }
}

#[test]
fn requests_go_to_the_server_and_answers_come_from_it() {
    let mut guest = start(2, Server::new(3));
    let driver = &mut guest.driver;
    let mut space = [0xff; 48];
    driver.device.lock().unwrap().read(0x100, &mut space);
    assert_eq!(space[..7], *b"shared\0");
    assert_eq!(space[36..], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for queue in [0, 1, 2, 1, 1] {
        echo(driver, queue);
    }
    // A kick without KVM goes there, too.
    let sent = driver.send(1, &[b"xy"], &[2]);
    driver.write(0x50, 1);
    while driver.used(1).is_none() {}
    assert_eq!(driver.received(&sent), b"yx");
    assert_eq!(
        guest.server.lock().unwrap().log,
        ["owner", "features", "memory", "enable", "enable", "enable"]
    );
    assert!(driver.sleeps(Duration::from_millis(20)));
    drop(guest.driver);
    guest.thread.join().unwrap();
}

#[test]
fn the_server_learns_no_address_of_ours() {
    let guest = start(1, Server::new(2));
    let server = guest.server.lock().unwrap();
    assert_eq!(server.regions, [(0, 0, 16 << 20)]);
    assert!(
        server
            .regions
            .iter()
            .all(|(user, _, _)| *user < layout::HOLE_START)
    );
}

#[test]
fn memory_around_the_hole_is_in_one_file() {
    let ram = crate::memory::make(4096, crate::memory::Pages::Ordinary).unwrap();
    let (message, fds) = memory(&ram).unwrap();
    assert_eq!(fds.len(), 2);
    assert_eq!(message[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    let fields: Vec<u64> = message[8..]
        .chunks(8)
        .map(|field| u64::from_ne_bytes(field.try_into().unwrap()))
        .collect();
    const GIB: u64 = 1 << 30;
    let expected = [0, 3 * GIB, 0, 0, 4 * GIB, GIB, 4 * GIB, 3 * GIB];
    assert_eq!(fields, expected);
}

#[test]
fn drivers_come_and_go() {
    let mut guest = start(1, Server::new(2));
    for round in 1..4 {
        echo(&mut guest.driver, 1);
        guest.driver.negotiate(0);
        let log = guest.server.lock().unwrap().log.clone();
        assert_eq!(log.iter().filter(|what| *what == "stop").count(), 2 * round);
        assert_eq!(log.iter().filter(|what| *what == "owner").count(), 1);
    }
    echo(&mut guest.driver, 1);
    guest.driver.write(0x70, 0);
    guest.driver.write(0x70, 0);
    assert_eq!(guest.driver.metrics.failures.get(), 0);
}

#[test]
fn a_server_without_acknowledgements_will_do() {
    let (front, back) = UnixStream::pair().unwrap();
    // The crate's server always acknowledges, so this one only takes notes.
    let thread = std::thread::spawn(move || by_hand(back, true));
    let fs = Fs::new(options(1), front).unwrap();
    let driver = Driver::start(Box::new(fs), 0);
    assert!(!driver.needs_reset());
    drop(driver);
    let requests = thread.join().unwrap();
    let ring = [8, 10, 9, 13, 12, 18];
    let all = [&[1, 15, 16, 3, 2, 5][..], &ring, &ring].concat();
    assert_eq!(requests, all);
}

/// A server that answers what has to be answered, and says which requests it got.
fn by_hand(mut socket: UnixStream, stops: bool) -> Vec<u32> {
    let mut requests = Vec::new();
    let mut header = [0; 12];
    while socket.read_exact(&mut header).is_ok() {
        let field = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let mut body = vec![0; field(8) as usize];
        socket.read_exact(&mut body).unwrap();
        requests.push(field(0));
        let answer = match field(0) {
            1 => NEEDED,
            15 => 0,
            11 if stops => 0,
            _ => continue,
        };
        if socket.write_all(&answer_to(field(0), answer)).is_err() {
            break;
        }
    }
    requests
}

fn answer_to(request: u32, answer: u64) -> Vec<u8> {
    let mut message = Vec::new();
    for field in [request, 5, 8] {
        message.extend(field.to_ne_bytes());
    }
    message.extend(answer.to_ne_bytes());
    message
}

#[test]
fn what_no_driver_or_server_would_take_is_refused() {
    let refused = |tag: &str, queues| {
        let (front, back) = UnixStream::pair().unwrap();
        back.shutdown(std::net::Shutdown::Write).unwrap();
        let tag = tag.to_owned();
        let options = Options { tag, queues };
        Fs::new(options, front).err().unwrap().to_string()
    };
    assert!(refused("", 1).contains("36"));
    assert!(refused(&"a".repeat(37), 1).contains("36"));
    assert!(refused("a\0b", 1).contains("36"));
    assert!(refused("a", 0).contains("64"));
    assert!(refused("a", 65).contains("64"));
    assert_eq!(
        refused(&"a".repeat(36), 64),
        "ask the file server what it can do: GET_FEATURES: the server has hung up"
    );
}

#[test]
fn a_server_that_can_not_do_enough_is_refused() {
    let refused = |server| {
        let (front, back) = UnixStream::pair().unwrap();
        let (_, thread) = serve(server, back);
        let why = Fs::new(options(4), front).err().unwrap().to_string();
        thread.join().unwrap();
        why
    };
    let mut server = Server::new(5);
    server.features &= !(1 << VIRTIO_RING_F_EVENT_IDX);
    assert_eq!(
        refused(server),
        "the file server lacks the features 0x20000000"
    );
    assert_eq!(
        refused(Server::new(4)),
        "the file server has 4 queues, and 5 are needed"
    );
    let mut server = Server::new(5);
    server.refuses = "owner";
    assert_eq!(
        refused(server),
        "ask the file server what it can do: SET_OWNER: the server refuses"
    );
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let (front, _back) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let why = Fs::greet(options(1), front, Duration::from_millis(50))
        .err()
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(
        why.to_string(),
        "ask the file server what it can do: GET_FEATURES: the server takes too long"
    );
}

#[test]
fn a_server_that_answers_something_else_is_given_up_on() {
    for (answer, expected) in [
        (vec![0; 20], "begins with"),
        (
            [1, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec(),
            "begins with",
        ),
        ([1, 0, 0, 0, 5, 0, 0, 0].to_vec(), "hung up"),
    ] {
        let (front, mut back) = UnixStream::pair().unwrap();
        back.write_all(&answer).unwrap();
        back.shutdown(std::net::Shutdown::Write).unwrap();
        let why = Fs::new(options(1), front).err().unwrap().to_string();
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_server_that_refuses_ends_the_machine() {
    for what in ["features", "memory", "enable"] {
        let mut server = Server::new(2);
        server.refuses = what;
        let guest = start(1, server);
        let why = guest.driver.ended().expect("it goes on");
        assert!(
            why.starts_with("have the file server serve the queues: SET_"),
            "{why}"
        );
        assert!(why.ends_with("the server refuses"), "{why}");
        assert_eq!(guest.driver.metrics.broken.get(), 0);
        drop(guest.driver);
        guest.thread.join().unwrap();
    }
}

#[test]
fn a_server_that_dies_ends_the_machine() {
    let mut guest = start(1, Server::new(2));
    echo(&mut guest.driver, 1);
    guest.server.lock().unwrap().hang_up();
    guest.thread.join().unwrap();
    let (device, why) = guest.driver.turn().unwrap_err();
    assert_eq!(
        format!("{device}: {why}"),
        "fs: wait for the file server: the server has hung up"
    );
}

#[test]
fn a_server_that_died_before_the_driver_came_ends_the_machine() {
    let (front, back) = UnixStream::pair().unwrap();
    let (server, thread) = serve(Server::new(2), back);
    let fs = Fs::new(options(1), front).unwrap();
    server.lock().unwrap().hang_up();
    thread.join().unwrap();
    let why = Driver::start_mortal(Box::new(fs)).ended().unwrap();
    assert_eq!(
        why,
        "have the file server serve the queues: SET_FEATURES: the server has hung up"
    );
}

#[test]
fn a_server_that_does_not_begin_ends_the_machine() {
    let (front, back) = UnixStream::pair().unwrap();
    // It says what it can do, and then it hangs. 8: it acknowledges requests.
    for (request, answer) in [(1, NEEDED), (15, 8), (3, 0)] {
        (&back).write_all(&answer_to(request, answer)).unwrap();
    }
    let fs = Fs::new(options(1), front).unwrap();
    let began = Instant::now();
    let driver = Driver::start_mortal(Box::new(fs));
    let took = began.elapsed();
    assert!(took >= START && took < START * 2, "{took:?}");
    assert_eq!(
        driver.ended().unwrap(),
        "have the file server serve the queues: SET_FEATURES: the server takes too long"
    );
}

#[test]
fn a_server_that_does_not_stop_holds_a_driver_up_for_a_while() {
    let (front, back) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || by_hand(back, false));
    let fs = Fs::new(options(64), front).unwrap();
    let driver = Driver::start(Box::new(fs), 0);
    assert!(!driver.needs_reset());
    let began = Instant::now();
    driver.write(0x70, 0);
    let took = began.elapsed();
    assert!(took >= STOP && took < STOP * 2, "{took:?}");
    assert_eq!(driver.metrics.failures.get(), 1);
    // The server sees that it is not wanted any more.
    thread.join().unwrap();
}

#[test]
fn a_server_that_does_not_stop_rightly_is_given_up_on() {
    let (front, back) = UnixStream::pair().unwrap();
    let mut copy = back.try_clone().unwrap();
    let (_server, _thread) = serve(Server::new(2), back);
    let fs = Fs::new(options(1), front).unwrap();
    let mut driver = Driver::start_mortal(Box::new(fs));
    // What nobody asked for comes before the answer.
    copy.write_all(&[0; 20]).unwrap();
    assert!(
        driver.sleeps(Duration::from_millis(20)),
        "it is not looked at"
    );
    driver.write(0x70, 0);
    assert_eq!(driver.metrics.failures.get(), 1);
    assert_eq!(driver.ended(), None);
    driver.negotiate(0);
    let why = driver.ended().unwrap();
    assert!(
        why.contains("given up on: GET_VRING_BASE: the server's answer begins"),
        "{why}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_driver_and_server_do_the_device_survives(
        script in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        let began = Instant::now();
        fuzz(&script);
        assert!(began.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn whatever_a_driver_does_a_good_server_does_not_hang_it(
        script in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        let (front, back) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || by_hand(back, true));
        let fs = Fs::new(options(1), front).unwrap();
        let mut driver = Driver::start(Box::new(fs), 0);
        let began = Instant::now();
        driver.misbehave(&script, |_, _| {});
        driver.negotiate(0);
        assert!(!driver.needs_reset());
        assert!(began.elapsed() < START);
        drop(driver);
        thread.join().unwrap();
    }
}
