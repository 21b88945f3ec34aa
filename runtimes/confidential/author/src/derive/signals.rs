//! By which signals a container is stopped.

use std::collections::BTreeSet;

use crate::image::Image;
use crate::manifest::container::Container;
use crate::yaml::Fault;

use super::Result;
use super::fields::shorten;

/// The signals of Linux on x86-64 by their numbers, from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

const KILL: u32 = 9;
const TERM: u32 = 15;
/// The first and last that have no name of their own, as the C library counts.
const FIRST_REAL_TIME: u32 = 34;
const LAST: u32 = 64;

/// Works out the signals: the image's or SIGTERM, the manifest's, and SIGKILL.
///
/// # Errors
/// A name that is none.
pub(super) fn of_container(container: &Container, image: &Image) -> Result<BTreeSet<u32>> {
    let mut signals = BTreeSet::from([KILL]);
    signals.insert(match image.config.stop_signal.as_str() {
        "" => TERM,
        name => number(name).ok_or_else(|| unknown(name).in_field("image"))?,
    });
    // Versions before 1.33 send the image's all the same.
    if let Some(name) = &container.lifecycle.stop_signal {
        let number = number(name);
        signals.insert(
            number.ok_or_else(|| unknown(name).in_field("stopSignal").in_field("lifecycle"))?,
        );
    }
    Ok(signals)
}

fn unknown(name: &str) -> Fault {
    Fault::new(format!("no signal {:?}", shorten(name)))
}

fn number(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse() {
        return (1..=LAST).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |end: &str, sign| -> Option<u32> {
        match name.strip_prefix(end)? {
            "" => Some(0),
            rest => rest.strip_prefix::<char>(sign)?.parse().ok(),
        }
    };
    let real_time = match (offset("RTMIN", '+'), offset("RTMAX", '-')) {
        (Some(above), _) => FIRST_REAL_TIME.checked_add(above),
        (None, Some(below)) => LAST.checked_sub(below),
        (None, None) => None,
    };
    if let Some(number) = real_time {
        return (FIRST_REAL_TIME..=LAST).contains(&number).then_some(number);
    }
    let at = NAMES.iter().position(|one| *one == name)?;
    u32::try_from(at + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, signal) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("QUIT", Some(3)),
            ("SIGWINCH", Some(28)),
            ("9", Some(9)),
            ("64", Some(64)),
            ("SIGRTMIN", Some(34)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+31", None),
            ("RTMINé", None),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("", None),
        ] {
            assert_eq!(number(text), signal, "{text}");
        }
    }
}
