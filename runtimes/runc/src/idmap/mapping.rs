//! Which ids are to stand for which.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use trefoil_core::{Context, Error, Result};

use super::held::held;

/// The mapping of users and that of groups, neither of them empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mappings {
    uids: Vec<LinuxIdMapping>,
    gids: Vec<LinuxIdMapping>,
}

impl Mappings {
    /// The mappings that a configuration names; none if it names none. Half of them is an error.
    pub fn given(
        uids: Option<&[LinuxIdMapping]>,
        gids: Option<&[LinuxIdMapping]>,
    ) -> Result<Option<Self>> {
        let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
        match (uids.is_empty(), gids.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Ok(Some(Self {
                uids: uids.to_vec(),
                gids: gids.to_vec(),
            })),
            (true, false) => Err(Error::invalid("groups are mapped, but users are not")),
            (false, true) => Err(Error::invalid("users are mapped, but groups are not")),
        }
    }

    /// A new user namespace with these mappings and nobody in it. It lasts as long as it is open.
    pub fn namespace(&self) -> Result<OwnedFd> {
        held(
            || unshare(CloneFlags::CLONE_NEWUSER),
            |child| self.fill(child),
        )
        .context(|| "make a user namespace")
    }

    /// Refuses a user namespace that has other mappings; without one, this process's own.
    pub fn check_those_of(&self, namespace: Option<BorrowedFd<'_>>) -> Result<()> {
        const DOING: &str = "read the mappings of a user namespace";
        let read = |process: &str| {
            let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
            Ok([read("uid_map")?, read("gid_map")?])
        };
        let found = match namespace {
            None => read("thread-self"),
            Some(namespace) => held(
                || setns(namespace, CloneFlags::CLONE_NEWUSER),
                |child| read(&child.to_string()),
            ),
        };
        let [uids, gids] = found.context(|| DOING)?;
        for (what, given, found) in [("users", &self.uids, uids), ("groups", &self.gids, gids)] {
            if numbers(&text(given)) != numbers(&found) {
                return Err(Error::invalid(format!(
                    "it maps {what} as {}, and the configuration as {}",
                    found.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
                    text(given).trim().replace('\n', ", "),
                )));
            }
        }
        Ok(())
    }

    /// Gives the namespace that the child has made its mappings, and opens it.
    fn fill(&self, child: Pid) -> io::Result<OwnedFd> {
        let told = |what: &str, ids: &str, why: io::Error| {
            io::Error::new(
                why.kind(),
                format!("map {what} {}: {why}", ids.trim().replace('\n', ", ")),
            )
        };
        let (uids, gids) = (text(&self.uids), text(&self.gids));
        fs::write(format!("/proc/{child}/uid_map"), &uids)
            .map_err(|why| told("users", &uids, why))?;
        fs::write(format!("/proc/{child}/gid_map"), &gids)
            .map_err(|why| told("groups", &gids, why))?;
        Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
    }
}

/// The lines of a mapping, in whatever order.
fn numbers(text: &str) -> BTreeSet<Vec<&str>> {
    let lines = text.lines();
    lines
        .map(|line| line.split_ascii_whitespace().collect())
        .collect()
}

/// The mapping as user_namespaces(7) wants it.
fn text(mapping: &[LinuxIdMapping]) -> String {
    let mut text = String::new();
    for line in mapping {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {} {}",
            line.container_id(),
            line.host_id(),
            line.size()
        );
    }
    text
}

/// Reads `container:host:size[,container:host:size…]`, as snapshotters write it.
pub fn parse(text: &str) -> Result<Vec<LinuxIdMapping>> {
    text.split(',')
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                Error::invalid(format!(
                    "{line:?} is no mapping of ids: that is container:host:size"
                ))
            })
        })
        .collect()
}

fn parse_line(line: &str) -> Option<LinuxIdMapping> {
    let mut parts = line.split(':').map(|part| {
        // `parse` takes a sign, which no id has.
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok())?
    });
    let (container, host, size) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || size == 0 {
        return None;
    }
    container.checked_add(size - 1)?;
    host.checked_add(size - 1)?;
    LinuxIdMappingBuilder::default()
        .container_id(container)
        .host_id(host)
        .size(size)
        .build()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default()
            .container_id(container)
            .host_id(host)
            .size(size)
            .build()
            .expect("mapping")
    }

    #[test]
    fn mappings_are_read() {
        assert_eq!(parse("0:1000:65536").expect("one"), [line(0, 1000, 65_536)]);
        assert_eq!(
            parse("0:1000:1,1:5000:10").expect("two"),
            [line(0, 1000, 1), line(1, 5000, 10)]
        );
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for text in [
            "",
            "0",
            "0:1",
            "0:1:2:3",
            "0:1:2,",
            "a:1:2",
            "-1:1:2",
            "+1:1:2",
            "0:1:0",
            "0:4294967296:1",
            "0:4294967295:2",
            " 0:1:2",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn half_a_mapping_is_an_error() {
        let ids = [line(0, 1, 1)];
        assert!(Mappings::given(Some(&ids), None).is_err());
        assert!(Mappings::given(Some(&[]), Some(&ids)).is_err());
        assert_eq!(Mappings::given(Some(&[]), None).expect("none"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            lines in prop::collection::vec((0..1_u32 << 31, 0..1_u32 << 31, 1..1_u32 << 31), 1..5)
        ) {
            let text = lines.iter().map(|(c, h, s)| format!("{c}:{h}:{s}")).collect::<Vec<_>>();
            let expected = lines.iter().map(|(c, h, s)| line(*c, *h, *s)).collect::<Vec<_>>();
            prop_assert_eq!(parse(&text.join(",")).expect("mapping"), expected);
        }

        #[test]
        fn anything_may_come(text: String) {
            let _ = parse(&text);
        }
    }
}
