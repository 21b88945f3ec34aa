//! What a container may do of what is root's.

use std::collections::BTreeSet;

use trefoil_policy::{Capabilities, Capability};

use crate::manifest::security::Capabilities as Wanted;
use crate::yaml::Fault;

use super::Result;
use super::fields::shorten;

/// What containerd gives a container unless it is told otherwise.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Works out the sets: the default, less what is dropped, and what is added. `ALL` is dropped first.
///
/// # Errors
/// A name that is none, and adding `ALL`, which is more with each kernel.
pub(super) fn of_container(wanted: &Wanted) -> Result<Capabilities> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    if let Some(number) = wanted.add.iter().position(is_all) {
        let why = "ALL is another set on each kernel: name those that it needs";
        return Err(in_list(Fault::new(why), "add", number));
    }
    let mut set: BTreeSet<_> = match wanted.drop.iter().any(is_all) {
        true => BTreeSet::new(),
        false => DEFAULT.into(),
    };
    set.extend(named(&wanted.add, "add")?);
    for dropped in named(&wanted.drop, "drop")? {
        set.remove(&dropped);
    }
    Ok(Capabilities {
        bounding: set.clone(),
        effective: set.clone(),
        permitted: set,
        ..Capabilities::default()
    })
}

fn named(names: &[String], list: &str) -> Result<Vec<Capability>> {
    let one = |(number, name): (usize, &String)| {
        let full = format!("CAP_{}", name.to_ascii_uppercase());
        Capability::of_name(&full).ok_or_else(|| {
            let why = format!(
                "no capability {:?}: they are written as NET_ADMIN is",
                shorten(name)
            );
            in_list(Fault::new(why), list, number)
        })
    };
    let all = names
        .iter()
        .enumerate()
        .filter(|(_, name)| !name.eq_ignore_ascii_case("ALL"));
    all.map(one).collect()
}

fn in_list(fault: Fault, list: &str, number: usize) -> Fault {
    fault
        .in_item(number)
        .in_field(list)
        .in_field("capabilities")
        .in_field("securityContext")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(add: &[&str], drop: &[&str]) -> Result<Capabilities> {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        of_container(&Wanted {
            add: list(add),
            drop: list(drop),
        })
    }

    #[test]
    fn the_default_is_containerds() {
        let sets = sets(&[], &[]).expect("the default");
        assert_eq!(sets.bounding.len(), 14);
        assert_eq!(sets.effective, sets.bounding);
        assert_eq!(sets.permitted, sets.bounding);
        assert!(sets.inheritable.is_empty() && sets.ambient.is_empty());
    }

    #[test]
    fn all_is_dropped_before_others_are_added() {
        let sets = sets(&["net_bind_service"], &["all"]).expect("one");
        assert_eq!(sets.bounding, [Capability::NetBindService].into());
    }

    #[test]
    fn what_is_added_and_dropped_is_dropped() {
        let sets = sets(&["SYS_TIME", "SYS_ADMIN"], &["SYS_TIME", "CHOWN"]).expect("some");
        assert_eq!(sets.bounding.len(), 14);
        assert!(!sets.bounding.contains(&Capability::SysTime));
    }

    #[test]
    fn what_is_no_capability_is_refused_by_its_place() {
        let why = sets(&["NET_RAW", "CAP_CHOWN"], &[])
            .expect_err("no name")
            .to_string();
        assert!(why.contains("securityContext.capabilities.add[1]"), "{why}");
        let why = sets(&["ALL"], &[]).expect_err("no set").to_string();
        assert!(why.contains("name those"), "{why}");
    }
}
