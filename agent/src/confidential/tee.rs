//! What protects the guest, and what it was launched as.
//!
//! Which TEE it is stands in the kernel's command line, which is measured: a host that says another one
//! has launched something else, and no broker gives that anything.

use std::fs;

use trefoil_agent_protocol::command_line::{SIMULATED_REPORT, TEE};
use trefoil_attestation::{Evidence, Simulated};
use trefoil_core::{Context, Error, Result};
use trefoil_initdata::{BoundDigest, Field, hex};

/// Where the kernel tells what it was told.
const COMMAND_LINE: &str = "/proc/cmdline";

/// Where containers' neighbours, and who debugs a guest, find what protects it.
const NOTE: &str = "/run/trefoil/tee";

/// A simulated launch digest has so many bytes, as SEV-SNP's has.
const LAUNCH_DIGEST: usize = 48;

/// A TEE, or what stands in for one.
#[derive(Clone, Debug)]
pub(crate) struct Tee {
    kind: Kind,
    bound: BoundDigest,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Nothing is protected.
    Simulated { launch_digest: Vec<u8> },
}

impl Tee {
    /// The one that this guest is in.
    ///
    /// # Errors
    /// If it is in none, or in one that this agent does not know.
    pub(crate) fn find() -> Result<Self> {
        let line = fs::read_to_string(COMMAND_LINE).context(|| format!("read {COMMAND_LINE}"))?;
        let tee = Self::of(&line)?;
        fs::create_dir_all("/run/trefoil")
            .and_then(|()| fs::write(NOTE, format!("{}\n", tee.note())))
            .context(|| format!("write {NOTE}"))?;
        Ok(tee)
    }

    fn of(command_line: &str) -> Result<Self> {
        match word(command_line, TEE)? {
            "simulated" => Self::simulated(word(command_line, SIMULATED_REPORT)?),
            other => Err(Error::precondition(format!(
                "the kernel was told {TEE}{other}, and this agent knows simulated alone"
            ))),
        }
    }

    fn simulated(report: &str) -> Result<Self> {
        let read = || {
            let (launch, bound) = report.split_once(',')?;
            let launch_digest = bytes(launch).filter(|bytes| bytes.len() == LAUNCH_DIGEST)?;
            let bound = BoundDigest::of_report(Field::Simulated, &bytes(bound)?)?;
            Some(Self {
                kind: Kind::Simulated { launch_digest },
                bound,
            })
        };
        read().ok_or_else(|| {
            Error::precondition(format!("{SIMULATED_REPORT} has no two digests behind it"))
        })
    }

    /// Which initdata it was launched with.
    pub(crate) fn bound(&self) -> &BoundDigest {
        &self.bound
    }

    /// Whether nothing is protected.
    pub(crate) fn is_simulated(&self) -> bool {
        matches!(self.kind, Kind::Simulated { .. })
    }

    /// What was launched.
    pub(crate) fn launch_digest(&self) -> &[u8] {
        let Kind::Simulated { launch_digest } = &self.kind;
        launch_digest
    }

    /// What it says to a broker of the guest.
    pub(crate) fn evidence(&self) -> Box<dyn Evidence> {
        match &self.kind {
            Kind::Simulated { launch_digest } => {
                Box::new(Simulated::new(launch_digest, self.bound.bytes()))
            }
        }
    }

    /// What it is, in a line.
    pub(crate) fn note(&self) -> String {
        let digest = hex(self.launch_digest());
        match self.kind {
            Kind::Simulated { .. } => {
                format!("SIMULATED: no TEE protects this guest; launch digest {digest}")
            }
        }
    }
}

/// What follows in the one word that begins so.
fn word<'a>(command_line: &'a str, begins: &str) -> Result<&'a str> {
    let mut found = command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(begins));
    match (found.next(), found.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(Error::precondition(format!(
            "the kernel was not told {begins}: this is no confidential guest"
        ))),
        (Some(_), Some(_)) => Err(Error::precondition(format!(
            "the kernel was told {begins} more than once"
        ))),
    }
}

/// The bytes of hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    match rest {
        [] => pairs.iter().map(byte).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(launch: usize, bound: usize) -> String {
        let (launch, bound) = ("ab".repeat(launch), "cd".repeat(bound));
        format!("quiet {TEE}simulated {SIMULATED_REPORT}{launch},{bound}\n")
    }

    #[test]
    fn a_simulated_one_says_so() {
        let tee = Tee::of(&line(48, 32)).expect("simulated");
        assert!(tee.is_simulated());
        assert_eq!(tee.launch_digest(), [0xab; 48]);
        assert_eq!(tee.bound().bytes(), [0xcd; 32]);
        assert!(tee.note().starts_with("SIMULATED: "), "{}", tee.note());
    }

    #[test]
    fn what_is_no_tee_is_refused() {
        let twice = format!("{} {TEE}snp", line(48, 32));
        let odd = line(48, 32).replace("cdcd\n", "cdc\n");
        let upper = line(48, 32).replace("cdcd\n", "CDCD\n");
        for (line, part) in [
            ("quiet".to_owned(), "no confidential guest"),
            (format!("{TEE}tdx"), "trefoil.tee=tdx"),
            (format!("{TEE}simulated"), "not told trefoil.simulated="),
            (TEE.to_owned(), "simulated alone"),
            (twice, "more than once"),
            (line(47, 32), "no two digests"),
            (line(48, 31), "no two digests"),
            (odd, "no two digests"),
            (upper, "no two digests"),
        ] {
            let why = Tee::of(&line).map(drop).expect_err(part).to_string();
            assert!(why.contains(part), "{why}");
        }
    }
}
