//! The processes of a cgroup: listing, freezing, signalling.

use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::Cgroup;
use super::error::{Result, failed, timed_out, unavailable};
use super::file;
use super::layout::{Controller, Layout};
use super::parse;
use super::tree::walk;

/// How long [`Cgroup::freeze`] and [`Cgroup::thaw`] wait. Freezing takes a few milliseconds unless
/// a process sleeps in the kernel where nothing wakes it.
const FREEZE_WAIT: Duration = Duration::from_millis(500);
/// How long [`Cgroup::kill_all`] keeps killing what is born meanwhile.
const KILL_WAIT: Duration = Duration::from_millis(500);
/// A v1 freezer can get stuck half way while tasks are being born; after this long it is kicked
/// loose.
const KICK_AFTER: Duration = Duration::from_millis(50);

impl Cgroup {
    /// The processes in the cgroup and below, as the caller's pid namespace names them. None if it
    /// does not exist.
    ///
    /// On v1 a process counts that is in the cgroup of any hierarchy: a privileged container may move
    /// it elsewhere in the others.
    ///
    /// # Errors
    /// If a file cannot be read for another reason than that it is gone.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for root in self.roots() {
            walk(root, |place| {
                match place.read("cgroup.procs") {
                    // 0 is a process that lives outside of our pid namespace.
                    Ok(Some(content)) => {
                        let all = content.lines().filter_map(|line| line.parse().ok());
                        pids.extend(all.filter(|pid| *pid > 0).map(Pid::from_raw));
                    }
                    Ok(None) => {}
                    // The processes of a threaded cgroup are told by the domain above it.
                    Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether every process in the cgroup is stopped now. False if the cgroup does not exist.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(match &self.layout {
            Layout::V1(_) => {
                let state = file::read(&self.path().join("freezer.state"))?;
                state.is_some_and(|state| state.trim() == "FROZEN")
            }
            Layout::V2(dir) => {
                let events = file::read(&dir.join("cgroup.events"))?;
                events.is_some_and(|events| parse::pair(&events, "frozen") == Some(1))
            }
        })
    }

    /// Asks the kernel to freeze the cgroup and returns at once; [`Cgroup::is_frozen`] tells when
    /// it is done. Asking again does no harm, and on v1 helps.
    ///
    /// # Errors
    /// If there is no freezer.
    pub fn request_freeze(&self) -> Result<()> {
        self.request(true)
    }

    /// Asks the kernel to let the processes run again and returns at once.
    ///
    /// # Errors
    /// If there is no freezer.
    pub fn request_thaw(&self) -> Result<()> {
        self.request(false)
    }

    fn request(&self, frozen: bool) -> Result<()> {
        let (name, value) = match (&self.layout, frozen) {
            (Layout::V1(_), true) => ("freezer.state", "FROZEN"),
            (Layout::V1(_), false) => ("freezer.state", "THAWED"),
            (Layout::V2(_), true) => ("cgroup.freeze", "1"),
            (Layout::V2(_), false) => ("cgroup.freeze", "0"),
        };
        if file::write_if_present(&self.path().join(name), value)? {
            return Ok(());
        }
        let action = if frozen { "freeze" } else { "thaw" };
        let missing = if self.exists() { "freezer" } else { "cgroup" };
        Err(unavailable(action, self.path(), missing))
    }

    /// Freezes the cgroup and waits, at most half a second, until it is. If it does not get there
    /// it is thawed again.
    ///
    /// # Errors
    /// If there is no freezer or the time is over.
    pub fn freeze(&self) -> Result<()> {
        self.request_freeze()?;
        let mut kick = KICK_AFTER;
        let done = self.wait("freeze", FREEZE_WAIT, |waited| {
            if self.is_frozen()? {
                return Ok(true);
            }
            if matches!(self.layout, Layout::V1(_)) {
                if waited >= kick {
                    kick = waited + KICK_AFTER;
                    self.request_thaw()?;
                }
                self.request_freeze()?;
            }
            Ok(false)
        });
        if done.is_err() {
            // Half frozen is the worst of all states. The error that counts is the first one.
            let _ = self.request_thaw();
        }
        done
    }

    /// Lets the processes run again and waits, at most half a second, until they may.
    ///
    /// # Errors
    /// If there is no freezer or the time is over, as when a parent is frozen.
    pub fn thaw(&self) -> Result<()> {
        self.request_thaw()?;
        self.wait("thaw", FREEZE_WAIT, |_| Ok(!self.is_frozen()?))
    }

    /// Sends a signal once to every process that is in the cgroup now; returns how many there were.
    /// One that has just died does not count. Processes born meanwhile are missed unless the cgroup
    /// is frozen.
    ///
    /// # Errors
    /// If the processes cannot be listed or signalled. The others were signalled nevertheless.
    pub fn signal_once(&self, signal: i32) -> Result<usize> {
        let mut count = 0;
        let mut failure = Ok(());
        for pid in self.processes()? {
            // SAFETY: kill takes two numbers and no memory. Not nix's: it has no real-time signals,
            // which images do name as their stop signal.
            if unsafe { libc::kill(pid.as_raw(), signal) } == 0 {
                count += 1;
                continue;
            }
            let source = io::Error::last_os_error();
            if source.raw_os_error() != Some(libc::ESRCH) {
                let action = format!("send signal {signal} to process {pid} of");
                failure = Err(failed(&action, self.path(), source));
            }
        }
        failure.map(|()| count)
    }

    /// Sends a signal to every process of the cgroup, so that none escapes by forking.
    ///
    /// `SIGKILL` goes through `cgroup.kill` where the kernel has it (v2 since 5.14). Otherwise the
    /// processes are frozen while they are signalled. Where freezing fails, `SIGKILL` is repeated
    /// for at most half a second until no process is left.
    ///
    /// A paused cgroup stays paused, except on v1 for `SIGKILL`, of which a process there dies only
    /// when it is thawed. (On v2 paused processes die of any signal that they do not handle.)
    ///
    /// Returning does not mean that the processes are dead: they are doomed. A cgroup that does not
    /// exist is no error.
    ///
    /// # Errors
    /// If processes cannot be listed or signalled, or are still born when the time is over.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let kill = signal == libc::SIGKILL;
        let v1 = matches!(self.layout, Layout::V1(_));
        if kill && !v1 && self.kill_at_once()? {
            return Ok(());
        }
        if !self.exists() {
            return Ok(());
        }
        let stay_paused = self.is_paused()? && !(kill && v1);
        let frozen = self.freeze().is_ok();
        let signalled = self.signal_once(signal);
        match self.request(stay_paused) {
            // It is gone, or there is no freezer.
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        if kill {
            self.thaw_to_die()?;
        }
        if frozen || !kill {
            return signalled.map(drop);
        }
        self.wait("kill all processes of", KILL_WAIT, |_| {
            Ok(self.signal_once(signal)? == 0)
        })
    }

    /// Has the kernel kill all that is in a v2 cgroup; `false` if it can't: before Linux 5.14, and not in
    /// threaded ones.
    fn kill_at_once(&self) -> Result<bool> {
        match file::write_if_present(&self.path().join("cgroup.kill"), "1") {
            Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
            outcome => outcome,
        }
    }

    /// Thaws the cgroup and all below it, so that processes die that were sent `SIGKILL`: on v1 a
    /// frozen one doesn't notice. To be called after the signal was sent: what is thawed then is dead
    /// before it runs. On v2, where frozen processes die, it does nothing; nor, where nothing is
    /// frozen, more than to look, which is quick.
    ///
    /// # Errors
    /// If what is frozen can't be thawed. A cgroup that does not exist is no error.
    pub fn thaw_to_die(&self) -> Result<()> {
        let Some(freezer) = self.v1(Controller::Freezer) else {
            return Ok(());
        };
        walk(freezer, |place| {
            let thawed = place
                .read("freezer.self_freezing")?
                .is_none_or(|own| own.trim() == "0");
            if !thawed {
                place.write("freezer.state", "THAWED")?;
            }
            Ok(())
        })
    }

    /// Whether somebody asked for the cgroup to be frozen, be it done already or not.
    fn is_paused(&self) -> Result<bool> {
        let name = match self.layout {
            Layout::V1(_) => "freezer.self_freezing",
            Layout::V2(_) => "cgroup.freeze",
        };
        let state = file::read(&self.path().join(name))?;
        Ok(state.is_some_and(|state| state.trim() == "1"))
    }

    /// Calls `done` until it says so, at growing intervals.
    pub(super) fn wait(
        &self,
        action: &'static str,
        limit: Duration,
        mut done: impl FnMut(Duration) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(250);
        loop {
            let waited = start.elapsed();
            if done(waited)? {
                return Ok(());
            }
            if waited >= limit {
                return Err(timed_out(action, self.path(), waited));
            }
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Whether the cgroup exists, in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.roots().any(Path::exists)
    }
}
