//! A hostile driver and a hostile file server, as a fuzzer wishes.

#![allow(clippy::unwrap_used, reason = "what can't be is a finding")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;

use super::{Fs, NEEDED, Options};
use crate::devices::testing::Driver;

/// Answers that a server may give to the first requests, right ones but for what the script says.
fn answers(script: &[u8]) -> Vec<u8> {
    let mut answers = Vec::new();
    for (request, value) in [
        (FrontendReq::GET_FEATURES, NEEDED),
        (FrontendReq::GET_PROTOCOL_FEATURES, 1 | 1 << 3),
        (FrontendReq::GET_QUEUE_NUM, 2),
        (FrontendReq::SET_OWNER, 0),
    ] {
        for field in [u32::from(request), 5, 8] {
            answers.extend(field.to_ne_bytes());
        }
        answers.extend(value.to_ne_bytes());
    }
    for change in script.chunks_exact(2) {
        if let [at, value] = change
            && let Some(byte) = answers.get_mut(usize::from(*at))
        {
            *byte ^= value;
        }
    }
    answers
}

/// Plays a script: what the server answers when it is asked what it can do, whether it has hung up
/// then or what it says unasked, and what the driver does to registers.
pub fn fuzz(bytes: &[u8]) {
    let (front, mut back) = UnixStream::pair().unwrap();
    let (&first, script) = bytes.split_first().unwrap_or((&0, &[]));
    let (changes, script) = script.split_at(script.len().min(usize::from(first % 16)));
    back.write_all(&answers(changes)).unwrap();
    let options = Options {
        tag: String::from_utf8_lossy(script.get(..8).unwrap_or(b"shared")).into_owned(),
        queues: 1,
    };
    // It never waits: what the server says is there already, and then it has hung up.
    let unasked = script.get(..usize::from(first) * 2).unwrap_or_default();
    back.write_all(unasked).unwrap();
    match first & 128 {
        0 => back.shutdown(std::net::Shutdown::Write).unwrap(),
        _ => back.shutdown(std::net::Shutdown::Both).unwrap(),
    }
    back.set_nonblocking(true).unwrap();
    let Ok(fs) = Fs::greet(options, front, Duration::from_secs(1)) else {
        return;
    };
    let mut driver = Driver::start_mortal(Box::new(fs));
    driver.misbehave(script, |_, _| {
        while back.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    });
}
