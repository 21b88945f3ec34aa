//! Making the guest a pod's: its name, its kernel's settings, its clock, its files and its network.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use trefoil_agent_common::share;
use trefoil_agent_protocol::SHARE_TAG;
use trefoil_agent_protocol::service::SetUpRequest;
use trefoil_core::{Context, Error, Result};

use crate::{clock, machine, sysctls};

/// A clock that differs by no more is left alone: it was set when the kernel booted, to the second, and
/// the host sees to the rest.
const SLACK: Duration = Duration::from_secs(1);

/// No seed is longer, in bytes, and no hostname: that is the kernel's bound.
const LONGEST_SEED: usize = 512;
const LONGEST_HOSTNAME: usize = 64;

/// Does all that a request asks for; the first failure ends it, and the guest is of no use then.
///
/// # Errors
/// What is wrong with the request, or what the kernel refuses.
pub(crate) fn set_up(request: &SetUpRequest) -> Result<()> {
    check(request)?;
    set_clock(Duration::from_nanos(request.time))?;
    if !request.seed.is_empty() {
        machine::add_entropy(&request.seed).context(|| "seed the random number generator")?;
    }
    let hostname = &request.hostname;
    if !hostname.is_empty() {
        nix::unistd::sethostname(hostname).context(|| format!("set the hostname {hostname:?}"))?;
    }
    set_network(&request.network)?;
    // Some of them belong to interfaces.
    for (name, value) in &request.sysctls {
        sysctls::set(name, value)?;
    }
    if request.share {
        share::mount().context(|| format!("mount what the host shares as {SHARE_TAG}"))?;
    }
    Ok(())
}

/// All that can be seen before anything is changed.
fn check(request: &SetUpRequest) -> Result<()> {
    let hostname = &request.hostname;
    if hostname.len() > LONGEST_HOSTNAME || hostname.contains('\0') {
        return Err(Error::invalid(format!(
            "the hostname is longer than {LONGEST_HOSTNAME} bytes, or has a zero byte"
        )));
    }
    if request.seed.len() > LONGEST_SEED {
        return Err(Error::invalid(format!(
            "the seed has {} bytes, more than {LONGEST_SEED}",
            request.seed.len()
        )));
    }
    for (name, value) in &request.sysctls {
        sysctls::check(name, value)?;
    }
    Ok(())
}

/// Sets the clock to the host's, unless it is right already.
fn set_clock(hosts: Duration) -> Result<()> {
    if hosts.abs_diff(clock::now()) <= SLACK {
        return Ok(());
    }
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(hosts))
        .context(|| "set the clock")
}

/// Makes the pod's interfaces, from the JSON of `trefoil-netlink`.
fn set_network(network: &[u8]) -> Result<()> {
    if network.is_empty() {
        return machine::loopback_up().context(|| "bring up the loopback interface");
    }
    let network = serde_json::from_slice(network).context(|| "read the pod's network")?;
    trefoil_netlink::apply(&network).context(|| "set up the pod's network")
}

#[cfg(test)]
mod tests {
    use trefoil_core::ErrorKind;

    use super::*;

    #[test]
    fn what_is_wrong_is_said_before_anything_is_done() {
        let of_hostname = |hostname: &str| SetUpRequest {
            hostname: hostname.into(),
            ..Default::default()
        };
        let of_seed = SetUpRequest {
            seed: vec![0; 513],
            ..Default::default()
        };
        let of_sysctl = SetUpRequest {
            sysctls: [("vm.overcommit_memory".into(), "1".into())].into(),
            ..Default::default()
        };
        for (named, request) in [
            ("hostname", of_hostname(&"x".repeat(65))),
            ("hostname", of_hostname("a\0b")),
            ("seed", of_seed),
            ("vm.overcommit_memory", of_sysctl),
        ] {
            let why = check(&request).expect_err(named);
            assert_eq!(why.kind(), ErrorKind::InvalidArgument);
            assert!(why.to_string().contains(named), "{why}");
        }
        check(&SetUpRequest::default()).expect("an empty one is sound");
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone() {
        // Without leave to set it, setting it would fail.
        set_clock(clock::now()).expect("left alone");
    }
}
