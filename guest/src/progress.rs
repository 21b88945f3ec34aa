//! Long work that says how far it is: what it does now, how long it has taken, and how long it took last time.
//!
//! On a terminal that is one line that changes, with a bar; in a log, a line when it begins, one for each
//! minute and one when it ends. What a piece of work took is kept in the cache, in `durations/NAME`.
//!
//! [`Progress::of`] wraps a function, [`doing`] names the step it is at (every program that
//! [`output`](crate::run::output) starts is one), and [`Progress::of_child`] wraps a program that shows
//! for itself what it does.

use std::cell::RefCell;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::home;

/// How often a line in a log says how far it is.
const IN_LOG: Duration = Duration::from_secs(60);

/// How often the line on a terminal changes.
const ON_TERMINAL: Duration = Duration::from_secs(1);

/// What takes less is told of by nobody.
const LEAST: Duration = Duration::from_secs(2);

/// How much of a step's name is shown.
const WIDTH: usize = 40;

/// How many signs the bar has.
const BAR: usize = 20;

thread_local! {
    /// The step of the work that this thread does, where it is shown.
    static STEP: RefCell<Option<Arc<Mutex<String>>>> = const { RefCell::new(None) };
}

/// Names what this thread's work is at, by a few words or a command line. Without any that is shown, nothing
/// happens.
pub fn doing(step: &str) {
    STEP.with_borrow(|shared| {
        if let Some(shared) = shared {
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = brief(step);
        }
    });
}

/// What says most of a command line: `make vmlinux bzImage`, without options and paths.
fn brief(step: &str) -> String {
    let says = |word: &&str| !word.starts_with(['/', '-']);
    let words: Vec<&str> = step.split_whitespace().filter(says).collect();
    words.join(" ").chars().take(WIDTH).collect()
}

/// A piece of work that takes long.
#[derive(Clone, Debug)]
pub struct Progress {
    name: String,
    /// How long it took last time.
    last: Option<Duration>,
    /// Whether there is a terminal that nobody else writes to.
    terminal: bool,
    /// Where it is kept how long it took.
    record: Option<PathBuf>,
}

impl Progress {
    /// A piece of work of that name, which is also a file's.
    pub fn new(name: &str) -> Self {
        let file: String = name
            .chars()
            .map(|sign| {
                if sign.is_ascii_alphanumeric() {
                    sign
                } else {
                    '-'
                }
            })
            .collect();
        let record = home::directory()
            .ok()
            .map(|cache| cache.join("durations").join(file));
        Self {
            name: name.to_owned(),
            last: record.as_deref().and_then(read),
            terminal: std::io::stderr().is_terminal(),
            record,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long it took last time, if it has been done before.
    pub fn last(&self) -> Option<Duration> {
        self.last
    }

    /// Keeps how long it took, if that was worth telling.
    pub fn took(&self, time: Duration) {
        let (Some(record), true) = (&self.record, time >= LEAST) else {
            return;
        };
        let kept = record
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(record, format!("{}\n", time.as_secs())));
        if let Err(error) = kept {
            // The next one doesn't know how long it takes: no reason to fail.
            eprintln!("{}: keeping how long it took: {error}", self.name);
        }
    }

    /// Does it, saying meanwhile how far it is.
    ///
    /// # Errors
    /// Those of the work.
    pub fn of<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let step = Arc::new(Mutex::new(String::new()));
        let before = STEP.replace(Some(step.clone()));
        let (done, ended) = mpsc::channel::<()>();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| self.show(started, &step, ended));
            let outcome = work();
            drop(done);
            outcome
        });
        STEP.set(before);
        self.end(started.elapsed(), outcome.is_ok());
        outcome
    }

    /// Runs a program that has our own standard output and error.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn of_child(&self, command: &mut Command) -> Result<ExitStatus> {
        // What changes on the terminal then is the program's.
        let beside = Self {
            terminal: false,
            ..self.clone()
        };
        let started = Instant::now();
        let (done, ended) = mpsc::channel::<()>();
        let status = thread::scope(|scope| {
            scope.spawn(|| beside.show(started, &Mutex::default(), ended));
            let status = command.status();
            drop(done);
            status
        });
        let status =
            status.with_context(|| format!("starting {}", command.get_program().display()))?;
        beside.end(started.elapsed(), status.success());
        Ok(status)
    }

    /// Until the other end is gone.
    fn show(&self, started: Instant, step: &Mutex<String>, ended: mpsc::Receiver<()>) {
        let goes_on = |time| ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        // Most of what is done again takes no time.
        if !goes_on(LEAST) {
            return;
        }
        let every = if self.terminal { ON_TERMINAL } else { IN_LOG };
        loop {
            let now = step.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let line = self.line(&now, started.elapsed());
            say(if self.terminal {
                format!("\r\x1b[K{line}")
            } else {
                format!("{line}\n")
            });
            if !goes_on(every) {
                return;
            }
        }
    }

    /// Keeps how long it took, and says so.
    fn end(&self, took: Duration, well: bool) {
        if took < LEAST {
            return;
        }
        let clear = if self.terminal { "\r\x1b[K" } else { "" };
        let how = if well { "done" } else { "failed" };
        say(format!(
            "{clear}{}: {how} after {}\n",
            self.name,
            time(took)
        ));
        if well {
            self.took(took);
        }
    }

    /// How far it is, in one line.
    fn line(&self, step: &str, so_far: Duration) -> String {
        let mut line = self.name.clone();
        if !step.is_empty() {
            line.push_str(&format!(": {step}"));
        }
        line.push_str(&format!(", {}", time(so_far)));
        match self.last {
            Some(last) => {
                line.push_str(&format!(" (the last run took {})", time(last)));
                if self.terminal {
                    line.push_str(&format!(" {}", bar(so_far, last)));
                }
            }
            None => line.push_str(" (the first time here; the result is kept)"),
        }
        line
    }
}

/// What a file of the cache says.
fn read(record: &std::path::Path) -> Option<Duration> {
    let seconds = fs::read_to_string(record).ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Whoever listened may have gone.
fn say(text: String) {
    let mut out = std::io::stderr().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// `45 s` or `6 min 10 s`.
pub fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// `[=======>            ]`, which is full only when the work is done.
fn bar(so_far: Duration, last: Duration) -> String {
    let part = so_far.as_secs_f64() / last.as_secs_f64().max(1.0);
    let mut bar = String::from("[");
    for sign in 0..BAR {
        // There are no more signs than a float counts.
        let here = (sign + 1) as f64 / BAR as f64;
        bar.push(match part {
            part if sign + 1 < BAR && part >= here => '=',
            part if part >= sign as f64 / BAR as f64 => '>',
            _ => ' ',
        });
    }
    bar.push(']');
    bar
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn progress(last: Option<u64>, terminal: bool) -> Progress {
        let name = format!("trefoil-progress-{}-{terminal}", std::process::id());
        Progress {
            name: "guest kernel".to_owned(),
            last: last.map(Duration::from_secs),
            terminal,
            record: Some(std::env::temp_dir().join(name).join("kernel")),
        }
    }

    #[test]
    fn a_line_has_the_step_the_time_and_what_the_last_run_took() {
        let so_far = Duration::from_secs(185);
        assert_eq!(
            progress(Some(370), false).line("make vmlinux", so_far),
            "guest kernel: make vmlinux, 3 min 5 s (the last run took 6 min 10 s)"
        );
        assert_eq!(
            progress(None, true).line("", Duration::from_secs(7)),
            "guest kernel, 7 s (the first time here; the result is kept)"
        );
        assert!(
            progress(Some(370), true)
                .line("", so_far)
                .ends_with("[==========>         ]")
        );
    }

    #[test]
    fn a_step_is_named_without_options_and_paths() {
        assert_eq!(
            brief("make --silent --jobs=2 vmlinux bzImage"),
            "make vmlinux bzImage"
        );
        assert_eq!(
            brief("go build -o /cache/bin/ -trimpath tool"),
            "go build tool"
        );
    }

    #[test]
    fn a_bar_is_not_full_before_the_end() {
        let last = Duration::from_secs(10);
        for (so_far, shown) in [
            (0, "[>                   ]"),
            (5, "[==========>         ]"),
            (10, "[===================>]"),
            (90, "[===================>]"),
        ] {
            assert_eq!(bar(Duration::from_secs(so_far), last), shown);
        }
        assert_eq!(
            bar(Duration::ZERO, Duration::ZERO),
            "[>                   ]"
        );
    }

    #[test]
    fn what_it_took_is_kept_if_it_went_well() {
        let progress = progress(None, false);
        let record = progress.record.clone().unwrap();
        progress.end(Duration::from_secs(70), false);
        assert_eq!(read(&record), None);
        progress.end(Duration::from_secs(75), true);
        assert_eq!(read(&record), Some(Duration::from_secs(75)));
        // No news.
        progress.end(Duration::from_secs(1), true);
        assert_eq!(read(&record), Some(Duration::from_secs(75)));
        fs::remove_dir_all(record.parent().unwrap()).unwrap();
    }

    #[test]
    fn work_within_work_names_its_own_steps() {
        let (outer, inner) = (progress(None, false), progress(None, true));
        let outcome = outer.of(|| {
            doing("one");
            inner.of(|| {
                doing("other");
                Ok(())
            })?;
            STEP.with_borrow(|step| assert_eq!(*step.clone().unwrap().lock().unwrap(), "one"));
            bail!("as it was")
        });
        let outcome: Result<()> = outcome;
        assert_eq!(outcome.unwrap_err().to_string(), "as it was");
        STEP.with_borrow(|step| assert!(step.is_none()));
    }

    #[test]
    fn a_program_is_run_with_its_status() {
        let status = progress(None, false).of_child(Command::new("sh").args(["-c", "exit 3"]));
        assert_eq!(status.unwrap().code(), Some(3));
        let missing = progress(None, false).of_child(&mut Command::new("no-such-program"));
        assert_eq!(missing.unwrap_err().to_string(), "starting no-such-program");
    }
}
