//! Pods whose agent is hostile: whatever it does, everything that containerd asks for is answered within
//! the time that containerd gives for it, every container can be ended, and nothing comes through in numbers
//! or lengths that the guest chooses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use trefoil_core::stats::{Stats, v2};
use trefoil_core::{Container, ErrorKind, Process, Stdio};

use crate::container::GuestContainer;
use crate::guest::{Guest, KILLED};
use crate::testing::{Fake, Manners, PID, guest};
use crate::tests::{SOON, all_is_over, container, with_exec};

/// How long containerd's CRI gives the shim to delete a container that has ended.
const DELETING: Duration = Duration::from_secs(10);

fn behave(fake: &Fake, manners: Manners) {
    *fake.manners.lock().expect("lock") = manners;
}

async fn running(guest: &Arc<Guest>) -> GuestContainer {
    let container = container(guest, "c", Stdio::default()).await.expect("made");
    container.start().await.expect("started");
    container
}

#[tokio::test(flavor = "current_thread")]
async fn sigkill_ends_a_container_whatever_its_guest_does() {
    for manners in [Manners::Deaf, Manners::Lying, Manners::Refusing] {
        let (guest, _gate, fake, _server) = guest().await;
        let (container, exec) = with_exec(&guest).await;
        behave(&fake, manners);
        let begun = Instant::now();
        // As containerd's CRI does it: a signal that fails would be the end of the attempt.
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let kill = container.init.kill(signal);
            timeout(KILLED, kill).await.expect("soon").expect("sent");
        }
        let status = timeout(DELETING, container.init.wait()).await;
        assert_eq!(status.expect("in time").code, 137, "{manners:?}");
        assert!(begun.elapsed() >= KILLED, "it had no time to end by itself");
        let reason = timeout(SOON, guest.ended()).await.expect("told");
        assert_eq!(
            reason, "the init of container c did not end within 5s of SIGKILL",
            "{manners:?}"
        );
        // As the end of a real machine does.
        fake.hang_up();
        all_is_over(&guest, &container, &*exec).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn sigkill_to_all_of_a_container_is_one_to_its_init() {
    let (guest, _gate, fake, _server) = guest().await;
    let (container, exec) = with_exec(&guest).await;
    behave(&fake, Manners::Lying);
    container.kill_all(libc::SIGKILL).await.expect("sent");
    timeout(DELETING, guest.ended()).await.expect("in time");
    all_is_over(&guest, &container, &*exec).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_ends_in_time_takes_nothing_along() {
    let (guest, _gate, fake, _server) = guest().await;
    let (container, _exec) = with_exec(&guest).await;
    behave(&fake, Manners::Lying);
    container.init.kill(libc::SIGKILL).await.expect("sent");
    tokio::time::sleep(KILLED / 2).await;
    fake.end("c", "", 137);
    assert_eq!(container.init.wait().await.code, 137);
    tokio::time::sleep(KILLED).await;
    assert_eq!(guest.machine.end(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn sigkill_to_an_execd_process_ends_no_machine_and_is_answered() {
    for manners in [Manners::Deaf, Manners::Lying, Manners::Refusing] {
        let (guest, _gate, fake, _server) = guest().await;
        let (_container, exec) = with_exec(&guest).await;
        behave(&fake, manners);
        let killed = timeout(KILLED, exec.kill(libc::SIGKILL)).await;
        assert_eq!(
            killed.expect("answered").is_ok(),
            manners == Manners::Lying,
            "{manners:?}"
        );
        tokio::time::sleep(KILLED + SOON).await;
        assert_eq!(guest.machine.end(), None, "{manners:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_execd_process_whose_end_is_not_told_ends_with_the_init() {
    let (guest, _gate, fake, _server) = guest().await;
    let (_container, exec) = with_exec(&guest).await;
    timeout(SOON, exec.wait()).await.expect_err("it runs");
    fake.end("c", "", 0);
    let status = timeout(KILLED, exec.wait()).await.expect("in time");
    assert_eq!(status.code, 137);
    assert_eq!(guest.machine.end(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn a_container_is_deleted_whatever_its_guest_says() {
    for manners in [Manners::Deaf, Manners::Lying, Manners::Refusing] {
        let (guest, _gate, fake, _server) = guest().await;
        let container = running(&guest).await;
        fake.end("c", "", 0);
        container.init.wait().await;
        behave(&fake, manners);
        let deleted = timeout(DELETING, container.delete()).await;
        deleted.expect("in time").expect("deleted");
        assert_eq!(guest.machine.end(), None, "{manners:?}");
        // The pod's end does not hang on it either.
        let stopped = timeout(DELETING, guest.stop()).await;
        stopped.expect("in time").expect("stopped");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_deaf_guest_is_not_waited_for() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = running(&guest).await;
    behave(&fake, Manners::Deaf);
    // As long as containerd waits for statistics.
    let stats = timeout(Duration::from_secs(2), container.stats()).await;
    let why = stats.expect("in time").expect_err("unanswered");
    assert_eq!(why.kind(), ErrorKind::Unavailable);
    let paused = timeout(DELETING, container.pause()).await;
    paused.expect("in time").expect_err("unanswered");
}

#[tokio::test(flavor = "current_thread")]
async fn a_guests_words_are_cut_short() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = running(&guest).await;
    behave(&fake, Manners::Refusing);
    let why = container.pause().await.expect_err("refused").to_string();
    assert!(why.starts_with("pause container c: no"), "{why}");
    assert!(why.len() < 3000, "{} bytes", why.len());
}

#[tokio::test(flavor = "current_thread")]
async fn processes_have_the_machines_number() {
    let (guest, _gate, fake, _server) = guest().await;
    let (container, exec) = with_exec(&guest).await;
    let machine = guest.machine.pid();
    assert_ne!(machine, PID);
    assert_eq!((container.init.pid(), exec.pid()), (machine, machine));
    // Whatever the agent says: its numbers are others' on the host.
    assert_eq!(container.processes().await.expect("listed"), [machine]);
    fake.end("c", "", 0);
    container.init.wait().await;
    assert_eq!(container.processes().await.expect("listed"), [0; 0]);
    assert_eq!(container.init.pid(), machine, "as it was told");
}

#[tokio::test(flavor = "current_thread")]
async fn a_flood_of_kills_for_want_of_memory_becomes_a_few() {
    let (guest, _gate, fake, _server) = guest().await;
    behave(&fake, Manners::Flooding);
    let container = running(&guest).await;
    let mut told = 0;
    let flood = async {
        loop {
            container.out_of_memory().await;
            told += 1;
        }
    };
    timeout(Duration::from_secs(3), flood)
        .await
        .expect_err("endless");
    // A burst, and then one each second.
    assert!((3..=8).contains(&told), "{told} of {:?}", fake.told);
    assert!(fake.told.load(Ordering::Relaxed) <= 8, "{:?}", fake.told);
}

fn stats_of(device: u64, count: usize) -> Vec<u8> {
    let entry = v2::IoEntry {
        major: device,
        ..v2::IoEntry::default()
    };
    let stats = Stats::V2(Box::new(v2::Stats {
        io: Some(v2::Io {
            usage: vec![entry; count],
            psi: None,
        }),
        ..v2::Stats::default()
    }));
    serde_json::to_vec(&stats).expect("written")
}

#[tokio::test(flavor = "current_thread")]
async fn statistics_are_checked_before_containerd_sees_them() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = running(&guest).await;
    let tell = |stats| *fake.stats.lock().expect("lock") = stats;
    tell(stats_of(8, 2));
    let Stats::V2(stats) = container.stats().await.expect("told") else {
        panic!("of v1");
    };
    assert_eq!(stats.io.expect("io").usage.len(), 1);
    for wrong in [vec![b' '; (4 << 20) - 100], b"{".to_vec(), Vec::new()] {
        tell(wrong);
        let why = container.stats().await.expect_err("no statistics");
        let why = why.to_string();
        assert!(
            why.starts_with("read what is used by container c: understand the guest's agent"),
            "{why}"
        );
    }
    tell(stats_of(8, 1));
    container.stats().await.expect("it goes on");
}

/// A message of ttrpc's: its length, its stream, and what follows; 2 is an answer.
fn message(stream: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut message = length.to_be_bytes().to_vec();
    message.extend(stream.to_be_bytes());
    message.extend([2, 0]);
    message.extend(body);
    message
}

#[tokio::test(flavor = "current_thread")]
async fn answers_that_nobody_has_asked_for_change_nothing() {
    let (guest, _gate, fake, _server) = guest().await;
    let container = running(&guest).await;
    for stream in 0..1000 {
        // To what has been answered already, to what was never asked, and to what the host does not use.
        fake.say(&message(stream, 0, b""));
        fake.say(&message(u32::MAX - stream, 2, b"\x08\x01"));
        tokio::task::yield_now().await;
    }
    // An empty answer to the wait is one.
    assert_eq!(container.init.wait().await.code, 0);
    assert_eq!(guest.machine.end(), None);
    timeout(DELETING, container.delete())
        .await
        .expect("in time")
        .expect("deleted");
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_that_is_cut_off_leaves_nobody_waiting() {
    for bytes in [
        message(1, 1000, b"few"),
        message(1, u32::MAX, b"few"),
        b"\0\0".to_vec(),
        vec![0xff; 4096],
    ] {
        let (guest, _gate, fake, _server) = guest().await;
        let (container, exec) = with_exec(&guest).await;
        fake.say(&bytes);
        let kill = timeout(KILLED, container.init.kill(libc::SIGKILL)).await;
        // It is in the middle of an answer that never comes, or has lost its agent at once.
        match kill.expect("soon") {
            Ok(()) => {}
            Err(why) => assert_eq!(why.kind(), ErrorKind::NotFound, "{why}"),
        }
        let status = timeout(DELETING, container.init.wait()).await;
        assert_eq!(status.expect("in time").code, 137);
        // As the end of a real machine does.
        fake.hang_up();
        all_is_over(&guest, &container, &*exec).await;
    }
}
