//! What the environment may say.

use std::time::Duration;

/// A number that the environment may give.
pub fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// How long a container may take until it is said to hang, in seconds, if nothing else is said: a fuzzer
/// says it itself after twice as long.
const SECONDS: u64 = if cfg!(fuzzing) { 10 } else { 20 };

/// How long a container may take until it is said to hang: longer where all is slow.
pub fn most() -> Duration {
    Duration::from_secs(number("HOSTILE_SECONDS", SECONDS))
}
