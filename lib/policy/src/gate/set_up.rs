//! Making the guest a pod's.

use super::{Approved, Gate};
use crate::{Check, Denial, Request, SetUp, ensure};

/// No seed is longer, in bytes, and no network's description.
const LONGEST_SEED: usize = 512;
const LONGEST_NETWORK: usize = 1 << 20;

/// The kernel's bound of a hostname, in bytes.
const LONGEST_HOSTNAME: usize = 64;

const SECOND: u64 = 1_000_000_000;

impl Gate {
    pub(super) fn set_up(&mut self, asked: SetUp) -> Result<Approved, Denial> {
        check_bounds(&asked)?;
        let sandbox = &self.policy.sandbox;
        ensure(
            Check::Hostname,
            sandbox.hostname.matches(&asked.hostname),
            || {
                let came = format!("{:?} came", asked.hostname);
                ("hostname", came, sandbox.hostname.to_string())
            },
        )?;
        self.check_sysctls(&asked.sysctls)?;
        let earliest = sandbox.not_before.unwrap_or(0).saturating_mul(SECOND);
        ensure(Check::Time, asked.time >= earliest, || {
            let came = format!("{} ns since 1970 came", asked.time);
            ("time", came, format!("{earliest} ns and later"))
        })?;
        let sysctls = sandbox.sysctls.iter();
        let sysctls = sysctls.map(|one| (one.name.clone(), one.value.clone()));
        let request = SetUp {
            sysctls: sysctls.collect(),
            ..asked
        };
        Ok(self.note_set_up(request))
    }

    /// Notes that the guest has been set up.
    pub(super) fn note_set_up(&mut self, request: SetUp) -> Approved {
        self.state.is_set_up = true;
        self.state.scratch = request.scratch;
        Approved::plain(Request::SetUp(request))
    }

    fn check_sysctls(&self, came: &[(String, String)]) -> Result<(), Denial> {
        let policys = &self.policy.sandbox.sysctls;
        for (name, value) in came {
            let wanted = policys.iter().find(|one| one.name == *name);
            let same = wanted.is_some_and(|one| one.value == *value);
            ensure(Check::Sysctl, same, || {
                let wanted =
                    wanted.map_or_else(|| "none of it".into(), |one| format!("{:?}", one.value));
                (format!("sysctls.{name}"), format!("{value:?} came"), wanted)
            })?;
        }
        for one in policys {
            let is_there = came.iter().any(|(name, _)| *name == one.name);
            ensure(Check::SysctlMissing, is_there, || {
                let field = format!("sysctls.{}", one.name);
                (field, "it is missing", format!("{:?}", one.value))
            })?;
        }
        Ok(())
    }
}

/// What holds whatever the policy says.
pub(super) fn check_bounds(asked: &SetUp) -> Result<(), Denial> {
    ensure(Check::Share, !asked.share, || {
        let allowed = "false: a confidential pod shares no files with its host";
        ("share", "true came", allowed)
    })?;
    let seed = asked.seed.len();
    ensure(Check::Seed, seed <= LONGEST_SEED, || {
        let allowed = format!("at most {LONGEST_SEED}");
        ("seed", format!("{seed} bytes came"), allowed)
    })?;
    let network = asked.network.len();
    ensure(Check::Network, network <= LONGEST_NETWORK, || {
        let allowed = format!("at most {LONGEST_NETWORK}");
        ("network", format!("{network} bytes came"), allowed)
    })?;
    let hostname = &asked.hostname;
    let sound = hostname.len() <= LONGEST_HOSTNAME && !hostname.contains('\0');
    ensure(Check::HostnameLength, sound, || {
        let allowed = format!("at most {LONGEST_HOSTNAME} bytes, none of them zero");
        ("hostname", format!("{hostname:?} came"), allowed)
    })
}
