//! The node's clock is set while pods run. That is done in a test VM only: any other clock is somebody's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use rig::cri::{Container, ContainerSpec, Pod, PodSpec};
use rig::test_vm;

use crate::e2e::{Body, Env, patience};

/// What the names of these trials begin with.
pub const PART: &str = "clock::";

pub const TRIALS: &[(&str, Body)] = &[("clock::set_while_pods_run", set_while_pods_run)];

/// How far it is set.
const HOUR: i64 = 3600;

const SECOND: Duration = Duration::from_secs(1);

/// By how much a container's clock may differ.
const APART: Duration = Duration::from_millis(600);

/// A container's clock follows the node's, forward and back, and so does that of one made afterwards.
fn set_while_pods_run(env: &Env) -> Result<()> {
    ensure!(
        test_vm::inside(),
        "it sets the clock, which is a node's only"
    );
    let pod = Pod::run(&env.rig, env.handler, PodSpec::default())?;
    let running = pod.start(&ContainerSpec::idle())?;
    follows(&running).context("before")?;
    let mut shifted = Shifted(0);
    shifted.by(HOUR)?;
    follows(&running).context("an hour later")?;
    let later = pod.start(&ContainerSpec::idle())?;
    follows(&later).context("a container made an hour later")?;
    shifted.by(-HOUR)?;
    follows(&running).context("back again")
}

/// Waits until a container's clock is the node's.
fn follows(container: &Container<'_>) -> Result<()> {
    let begun = Instant::now();
    loop {
        let before = now()?;
        // Whole seconds, cut off.
        let said = Duration::from_secs(container.exec(&["date", "+%s"])?.text()?.parse()?);
        let after = now()?;
        if before.saturating_sub(SECOND + APART) <= said && said <= after + APART {
            return Ok(());
        }
        if begun.elapsed() > patience(Duration::from_secs(2)) {
            bail!("the container's clock says {said:?}, the node's {after:?}");
        }
    }
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// The node's clock, set back when this is dropped.
struct Shifted(i64);

impl Shifted {
    fn by(&mut self, seconds: i64) -> Result<()> {
        let now = TimeSpec::from_duration(now()?);
        let to = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
        clock_settime(ClockId::CLOCK_REALTIME, to).context("setting the clock")?;
        self.0 += seconds;
        Ok(())
    }
}

impl Drop for Shifted {
    fn drop(&mut self) {
        if self.0 != 0 {
            drop(self.by(-self.0));
        }
    }
}
