//! Network devices of the host's that become the container's (`linux.netDevices`), by libcontainer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libcontainer::network::address::AddressClient;
use libcontainer::network::cidr::CidrAddress;
use libcontainer::network::link::LinkClient;
use libcontainer::network::network_device::{
    dev_change_net_namespace, resolve_device_name, setup_addresses_in_network_namespace,
};
use libcontainer::network::wrapper::create_network_client;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::error::{Doing, Failure};
use super::hostproc::HostProc;
use super::namespaces;

/// `IFNAMSIZ`, without the NUL.
const LONGEST: usize = 15;

/// A device that is in the container's namespace, down and without addresses.
#[derive(Debug)]
struct Moved {
    name: String,
    addresses: Vec<CidrAddress>,
}

/// Refuses what can never be moved. To be called on the host.
pub(crate) fn check(spec: &Spec) -> Result<(), Failure> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref());
    let Some(devices) = devices.filter(|devices| !devices.is_empty()) else {
        return Ok(());
    };
    if !namespaces::has_own(spec, LinuxNamespaceType::Network)? {
        return Err(Failure::new(
            "unable to move network devices without a private NET namespace",
        ));
    }
    for (name, device) in devices {
        for name in [name, &resolve_device_name(device, name).to_owned()] {
            if !is_valid(name) {
                return Err(Failure::new(format!(
                    "invalid network device name {name:?}"
                )));
            }
        }
    }
    Ok(())
}

/// The kernel's `dev_valid_name`. A `%` would have it make up a number.
fn is_valid(name: &str) -> bool {
    let is_odd = |letter: char| {
        matches!(letter, '/' | ':' | '%' | '\0') || letter.is_whitespace() || letter.is_control()
    };
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST && !name.contains(is_odd)
}

/// Gives the devices to the container that the process `pid` is in the network namespace of, and brings
/// them up there. To be called on the host, before `createRuntime` hooks, which may expect them there.
pub(crate) fn give(spec: &Spec, pid: Pid) -> Result<(), Failure> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref());
    if devices.is_none_or(std::collections::HashMap::is_empty) {
        return Ok(());
    }
    let proc = HostProc::open()?;
    let open = |path: &str| {
        proc.open_file(path, OFlag::O_RDONLY)
            .doing(|| "open the container's network namespace")
    };
    let (theirs, ours) = (open(&format!("{pid}/ns/net"))?, open("self/ns/net")?);
    let moved = move_all(spec, theirs.as_fd())?;
    let enter = |namespace: &OwnedFd| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .doing(|| "enter the container's network namespace")
    };
    enter(&theirs)?;
    let configured = configure(&moved);
    enter(&ours)?;
    configured
}

/// Moves the devices from this process's network namespace into `namespace`, renamed. To be called
/// on the host, before `createRuntime` hooks, which may expect them there.
///
/// The kernel gives devices back when the container's namespace goes.
fn move_all(spec: &Spec, namespace: BorrowedFd<'_>) -> Result<Vec<Moved>, Failure> {
    let devices = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.net_devices().as_ref());
    let mut devices: Vec<_> = devices.into_iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    let moved = devices.into_iter().map(|(name, device)| {
        let addresses = dev_change_net_namespace(name, namespace.as_raw_fd(), device)
            .map_err(|error| Failure::new(format!("cannot move network device {name}: {error}")))?;
        let name = resolve_device_name(device, name).to_owned();
        Ok(Moved { name, addresses })
    });
    moved.collect()
}

/// Gives the devices their addresses back and brings them up. To be called in the container's
/// network namespace with CAP_NET_ADMIN over it.
fn configure(moved: &[Moved]) -> Result<(), Failure> {
    for device in moved {
        let failed = |error| {
            let name = &device.name;
            Failure::new(format!("cannot bring up network device {name}: {error}"))
        };
        let mut links = LinkClient::new(create_network_client()).map_err(failed)?;
        let mut addresses = AddressClient::new(create_network_client()).map_err(failed)?;
        let index = links
            .get_by_name(&device.name)
            .map_err(failed)?
            .header
            .index;
        setup_addresses_in_network_namespace(
            &device.addresses,
            index,
            &device.name,
            &mut addresses,
        )
        .map_err(failed)?;
        links.set_up(index).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::in_child;
    use super::*;
    use nix::sched::{CloneFlags, setns, unshare};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    fn spec(namespaces: serde_json::Value, devices: serde_json::Value) -> Spec {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"]["namespaces"] = namespaces;
        spec["linux"]["netDevices"] = devices;
        serde_json::from_value(spec).unwrap()
    }

    fn own() -> serde_json::Value {
        serde_json::json!([{"type": "network"}])
    }

    fn ip(words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let output = Command::new("ip").args(&words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_device_moves_with_its_address_and_gets_its_name() {
        let spec = spec(own(), serde_json::json!({"there0": {"name": "here0"}}));
        check(&spec).unwrap();
        in_child(|| {
            // Two namespaces of this process's own: one is the host's part.
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let host = File::open("/proc/self/ns/net").unwrap();
            ip("link add there0 type veth peer name peer0");
            ip("addr add 10.9.8.7/24 dev there0");
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let container = File::open("/proc/self/ns/net").unwrap();
            setns(&host, CloneFlags::CLONE_NEWNET).unwrap();
            let moved = move_all(&spec, container.as_fd()).unwrap();
            assert!(!ip("-o link").contains("there0"));
            setns(&container, CloneFlags::CLONE_NEWNET).unwrap();
            configure(&moved).unwrap();
            assert!(ip("-o addr show here0").contains("10.9.8.7/24"));
            assert!(ip("-o link show here0").contains(",UP"));
        });
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let one = |name: &str| serde_json::json!({"eth7": {"name": name}});
        for (namespaces, devices, phrase) in [
            (
                serde_json::json!([]),
                one("x"),
                "without a private NET namespace",
            ),
            (own(), one("a b"), "invalid network device name \"a b\""),
            (own(), one("eth%d"), "invalid network device name"),
            (
                own(),
                one("a234567890123456"),
                "invalid network device name",
            ),
            (
                own(),
                serde_json::json!({"../x": {}}),
                "invalid network device name",
            ),
        ] {
            let why = check(&spec(namespaces, devices)).unwrap_err().to_string();
            assert!(why.contains(phrase), "{why}");
        }
        in_child(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let here = File::open("/proc/self/ns/net").unwrap();
            let missing = spec(own(), one(""));
            let why = move_all(&missing, here.as_fd()).unwrap_err().to_string();
            assert!(
                why.starts_with("cannot move network device eth7: "),
                "{why}"
            );
        });
    }
}
