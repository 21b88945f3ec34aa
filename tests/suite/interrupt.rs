//! An end from outside: Ctrl-C, or a signal that asks for it. Steps are in process groups of their own, which
//! no terminal tells of it, so they are ended here.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

/// What ends the suite.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The groups of the steps that run.
static RUNNING: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a program that is started be ended by signals as any other.
pub fn unblocked(command: &mut Command) {
    // SAFETY: between fork and exec it makes one system call, and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_unblock()?));
    }
}

/// A step's group, which is ended if the suite is.
pub struct Group(Pid);

impl Group {
    /// Of a step that has been started. It is forgotten when this is dropped, which has to be before its
    /// first process is waited for: then its id may be another's.
    pub fn of(pid: Pid) -> Self {
        running().insert(pid);
        Self(pid)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        running().remove(&self.0);
    }
}

/// Has a thread wait for the signals that end the suite. To be called before any other thread is there: they
/// inherit that these signals wait. So do programs that are started, but by [`unblocked`].
pub fn watch() -> Result<()> {
    let signals: SigSet = SIGNALS.into_iter().collect();
    signals
        .thread_block()
        .context("keeping signals for a thread of their own")?;
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        // Nobody begins another step meanwhile.
        let groups = running();
        for group in groups.iter() {
            // As a terminal would: programs of ours remove what they have made.
            let _ = killpg(*group, Signal::SIGTERM);
        }
        std::process::exit(128 + signal as i32);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use nix::errno::Errno;
    use nix::sys::signal::kill;

    use super::*;

    /// Set in the process that plays the suite.
    const INSIDE: &str = "TREFOIL_INTERRUPT_INSIDE";
    const NAME: &str = "interrupt::tests::a_signal_ends_the_steps_and_then_the_suite";

    /// As the suite: two steps, of which one pays no attention.
    fn suite() -> Result<()> {
        watch()?;
        let mut steps = Vec::new();
        for script in ["sleep 1000", "trap '' HUP; sleep 1000 & wait"] {
            let mut step = Command::new("sh");
            step.args(["-c", script]).process_group(0);
            unblocked(&mut step);
            let step = step.spawn()?;
            let pid = Pid::from_raw(i32::try_from(step.id())?);
            steps.push((Group::of(pid), step));
            println!("step {pid}");
        }
        std::io::stdout().flush()?;
        for (_, step) in &mut steps {
            step.wait()?;
        }
        Ok(())
    }

    /// Until nobody is left in a group.
    fn is_over(group: Pid) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if killpg(group, None) == Err(Errno::ESRCH) {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    #[test]
    fn a_signal_ends_the_steps_and_then_the_suite() -> Result<()> {
        if std::env::var_os(INSIDE).is_some() {
            // Steps that end before the suite would have it end well.
            suite()?;
            std::process::exit(0);
        }
        for signal in SIGNALS {
            let mut suite = Command::new(std::env::current_exe()?);
            suite
                .args(["--exact", NAME, "--nocapture"])
                .env(INSIDE, "1")
                .stdout(Stdio::piped());
            // The tests' runner has begun threads before the signals are kept.
            // SAFETY: between fork and exec it makes one system call, and allocates nothing.
            unsafe {
                suite.pre_exec(|| Ok(SigSet::all().thread_block()?));
            }
            let mut suite = suite.spawn()?;
            let output = suite.stdout.take().context("no output")?;
            let pid = |line: &str| {
                let (_, pid) = line.rsplit_once("step ")?;
                pid.parse().ok().map(Pid::from_raw)
            };
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            let groups: Vec<Pid> = lines.filter_map(|line| pid(&line)).take(2).collect();
            assert_eq!(groups.len(), 2);
            kill(Pid::from_raw(i32::try_from(suite.id())?), signal)?;
            let ended = suite.wait()?;
            assert_eq!(ended.code(), Some(128 + signal as i32), "{ended}");
            assert_eq!(ended.signal(), None);
            for group in groups {
                assert!(is_over(group), "{signal}: a step goes on");
            }
        }
        Ok(())
    }
}
