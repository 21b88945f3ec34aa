//! Hearing of disks that are not what they should be.
//!
//! The kernel says so in its log, and whoever reads gets an error. A layer whose block does not match was
//! changed by the host, or its disk is broken; so it is with the scratch disk, of whose writing besides nobody
//! may ever hear. Either way the pod is not what its author wants, and it ends, saying what it was.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;

use trefoil_agent_common::kernel_log;
use trefoil_core::{Context, Result};
use trefoil_os::{lock, watched};

/// Where the kernel says it.
const DEVICE: &str = "/dev/kmsg";

/// No record is longer, in bytes.
const LONGEST_RECORD: usize = 8192;

/// The disks that are watched: what people call them, by what the kernel does.
#[derive(Debug, Default)]
pub(crate) struct Corruption {
    names: Mutex<HashMap<String, String>>,
}

/// What the kernel complains of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// A block of a layer's data.
    Data(u64),
    /// A block of a layer's tree of hashes.
    Tree(u64),
    /// A sector of an encrypted disk.
    Sector(u64),
    /// The host has not read or written a sector.
    Refused(u64),
    /// A block of a filesystem was lost.
    Lost(u64),
    /// A filesystem does not fit together.
    Damaged,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(block) => write!(f, "block {block} does not match"),
            Self::Tree(block) => write!(f, "block {block} of its hash tree does not match"),
            Self::Sector(sector) => write!(f, "sector {sector} is not what was written there"),
            Self::Refused(sector) => write!(f, "the host did not read or write sector {sector}"),
            Self::Lost(block) => write!(f, "block {block} was not read or written"),
            Self::Damaged => write!(f, "its filesystem is damaged"),
        }
    }
}

impl Corruption {
    /// Has a device watched from now on, by what the kernel calls it where it complains.
    pub(crate) fn watch(&self, device: &str, name: String) {
        lock(&self.names).insert(device.to_owned(), name);
    }

    /// No longer.
    pub(crate) fn forget(&self, device: &str) {
        lock(&self.names).remove(device);
    }

    /// The last complaint about a device, if there is any.
    pub(crate) fn look(&self, watched: &str) -> Option<Complaint> {
        let log = kernel_log::read().ok()?;
        let log = String::from_utf8_lossy(&log);
        log.lines().rev().find_map(|line| {
            let (device, complaint) = parse(line)?;
            (device == watched).then_some(complaint)
        })
    }

    /// Resolves with a sentence when there is a complaint about a device that is watched.
    ///
    /// # Errors
    /// If the kernel's log can't be read.
    pub(crate) async fn found(&self) -> Result<String> {
        let doing = || format!("watch {DEVICE}");
        let device = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .context(doing)?;
        let mut reader = device.try_clone().context(doing)?;
        let readable = watched::readable(device.into()).context(doing)?;
        let mut record = [0; LONGEST_RECORD];
        loop {
            let mut ready = readable.readable().await.context(doing)?;
            match reader.read(&mut record) {
                Ok(length) => {
                    if let Some(said) = self.told(&String::from_utf8_lossy(&record[..length])) {
                        return Ok(said);
                    }
                }
                Err(why) if why.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                // Records were overwritten before they were read.
                Err(why)
                    if matches!(why.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
                Err(why) => return Err(why).context(doing),
            }
        }
    }

    fn told(&self, record: &str) -> Option<String> {
        let (device, complaint) = parse(record)?;
        let names = lock(&self.names);
        let name = names.get(device)?;
        Some(format!("{name}: {complaint}"))
    }
}

/// The device that a line complains about, and what of it.
fn parse(line: &str) -> Option<(&str, Complaint)> {
    // What a container writes to the log says that it is user space's before that: a facility that is not
    // the kernel's makes a larger number.
    let (head, text) = match line.split_once(';') {
        Some((head, text)) => (Some(head), text),
        None => (None, line),
    };
    if let Some(level) = head.and_then(|head| head.split(',').next())
        && level.parse::<u32>().ok()? > 7
    {
        return None;
    }
    let text = match head {
        Some(_) => text,
        // A line of `kernel_log` has the time before it.
        None => text.split_once("] ")?.1,
    };
    complaint(text.lines().next()?)
}

fn complaint(text: &str) -> Option<(&str, Complaint)> {
    if let Some(said) = text.strip_prefix("device-mapper: verity: ") {
        let (device, rest) = said.split_once(": ")?;
        let number = |kind: &str| -> Option<u64> {
            let rest = rest.strip_prefix(kind)?.strip_prefix(" block ")?;
            rest.strip_suffix(" is corrupted")?.parse().ok()
        };
        let data = number("data").map(Complaint::Data);
        return Some((
            device,
            data.or_else(|| number("metadata").map(Complaint::Tree))?,
        ));
    }
    // dm-crypt is compiled with the prefix of another module's messages.
    let of_crypt = text.strip_prefix("trusted_key: ").unwrap_or(text);
    if let Some(said) = of_crypt.strip_prefix("device-mapper: crypt: ") {
        let (device, sector) = said.split_once(": INTEGRITY AEAD ERROR, sector ")?;
        return Some((device, Complaint::Sector(sector.parse().ok()?)));
    }
    if let Some(said) = text.strip_prefix("EXT4-fs error (device ") {
        let (device, _) = said.split_once(')')?;
        return Some((device, Complaint::Damaged));
    }
    if let Some(said) = text.strip_prefix("Buffer I/O error on dev ") {
        let (device, rest) = said.split_once(", logical block ")?;
        return Some((device, Complaint::Lost(leading(rest)?)));
    }
    let said = text.strip_prefix("I/O error, dev ")?;
    let (device, rest) = said.split_once(", sector ")?;
    Some((device, Complaint::Refused(leading(rest)?)))
}

/// The number that a text begins with.
fn leading(text: &str) -> Option<u64> {
    let digits = text.split(|letter: char| !letter.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        let data = "3,412,5001,-;device-mapper: verity: 254:17: data block 17 is corrupted\n SUBSYSTEM=x\n";
        assert_eq!(parse(data), Some(("254:17", Complaint::Data(17))));
        let tree = "[5.000001] device-mapper: verity: 254:17: metadata block 40 is corrupted";
        assert_eq!(parse(tree), Some(("254:17", Complaint::Tree(40))));
        for (said, device, complaint) in [
            (
                "device-mapper: crypt: dm-1: INTEGRITY AEAD ERROR, sector 264",
                "dm-1",
                Complaint::Sector(264),
            ),
            (
                "trusted_key: device-mapper: crypt: dm-0: INTEGRITY AEAD ERROR, sector 2097152",
                "dm-0",
                Complaint::Sector(2_097_152),
            ),
            (
                "I/O error, dev vdb, sector 8 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
                "vdb",
                Complaint::Refused(8),
            ),
            (
                "Buffer I/O error on dev dm-1, logical block 3, lost async page write",
                "dm-1",
                Complaint::Lost(3),
            ),
            (
                "EXT4-fs error (device dm-1): ext4_lookup:1855: inode #2: comm sh: bad",
                "dm-1",
                Complaint::Damaged,
            ),
        ] {
            let of_the_kernel = format!("3,412,5001,-;{said}\n");
            assert_eq!(parse(&of_the_kernel), Some((device, complaint)));
            assert_eq!(parse(&format!("12,412,5001,-;{said}\n")), None);
            assert_eq!(
                parse(&format!("[5.000001] {said}")),
                Some((device, complaint))
            );
            assert_eq!(parse(&format!("[5.000001] agent: {said}")), None);
        }
        for other in [
            "",
            ";",
            "3,412,5001,-;device-mapper: verity: 254:17: reached maximum errors\n",
            "3,412,5001,-;device-mapper: verity: 254:17: data block x is corrupted\n",
            // A container that writes to /dev/kmsg.
            "12,412,5001,-;device-mapper: verity: 254:17: data block 17 is corrupted\n",
            "[5.000001] trefoil-agent: device-mapper: verity: 254:17: data block 17 is corrupted",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_what_is_watched_is_told() {
        let corruption = Corruption::default();
        let record = "3,4,5,-;device-mapper: verity: 254:17: data block 17 is corrupted\n";
        assert_eq!(corruption.told(record), None);
        corruption.watch("254:17", "layer 2 of container web".into());
        let said = corruption.told(record).expect("it is watched");
        assert_eq!(said, "layer 2 of container web: block 17 does not match");
        corruption.forget("254:17");
        assert_eq!(corruption.told(record), None);
    }
}
