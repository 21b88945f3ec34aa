//! The cgroup of a pod's processes on the host: that of the pod's own container, which has no other.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tokio::sync::oneshot;
use trefoil_cgroups::{Cgroup, Origin};
use trefoil_core::{Context, Error, Result};

/// How long what was killed may take to leave it.
const LEAVING: Duration = Duration::from_secs(5);

/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// Puts a process into the cgroup, which is made.
pub(crate) async fn add(cgroup: &Cgroup, pid: u32) -> Result<()> {
    let doing = || format!("put process {pid} into the pod's cgroup");
    let number = i32::try_from(pid).context(doing)?;
    let add = move |cgroup: Cgroup| cgroup.add(Pid::from_raw(number));
    by_itself(cgroup, add).await?.context(doing)
}

/// Puts ourselves into the cgroup, which is made: what serves one pod counts as that pod's.
pub(crate) async fn enter(cgroup: &Cgroup) -> Result<Origin> {
    by_itself(cgroup, |cgroup| cgroup.enter())
        .await?
        .context(|| "enter the pod's cgroup")
}

/// Removes the cgroup once the last process has left it.
pub(crate) async fn remove(cgroup: &Cgroup) -> Result<()> {
    let doing = || "remove the pod's cgroup";
    by_itself(cgroup, |cgroup| cgroup.stop_unit())
        .await?
        .context(doing)?;
    let begun = Instant::now();
    while !cgroup.try_remove().context(doing)? {
        if begun.elapsed() > LEAVING {
            return Err(Error::internal(format!(
                "{}: processes are left in it",
                doing()
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Does something with the cgroup, on a thread of its own if systemd has a part in it: then it may take
/// its time.
async fn by_itself<T: Send + 'static>(
    cgroup: &Cgroup,
    work: impl FnOnce(Cgroup) -> T + Send + 'static,
) -> Result<T> {
    let cgroup = cgroup.clone();
    if !cgroup.is_unit() {
        return Ok(work(cgroup));
    }
    let (sender, done) = oneshot::channel();
    std::thread::Builder::new()
        .name("systemd".into())
        .spawn(move || {
            let _ = sender.send(work(cgroup));
        })
        .context(|| "start a thread that talks to systemd")?;
    done.await.context(|| "talk to systemd")
}
