//! What is shown while the steps run: their lines, and how far all is.
//!
//! On a terminal the last line says that and changes each second; in a log it is a line each minute.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use trefoil_guest::progress::{Progress, time};

/// How often a log says how far all is.
const IN_LOG: Duration = Duration::from_secs(60);

/// How often the line on a terminal changes.
const ON_TERMINAL: Duration = Duration::from_secs(1);

/// How far the steps are.
pub struct Screen {
    terminal: bool,
    steps: usize,
    /// All of them, if it is all that are run: what that took last time is known then.
    whole: Option<Progress>,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: usize,
    running: Vec<Running>,
    /// The line on the terminal is there.
    shown: bool,
}

struct Running {
    progress: Progress,
    since: Instant,
}

impl Screen {
    /// For so many steps, which as a whole have a name if they are all.
    pub fn new(steps: usize, whole: Option<&str>) -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            steps,
            whole: whole.map(Progress::new),
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    /// Shows a line.
    pub fn say(&self, line: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if std::mem::take(&mut state.shown) {
            "\r\x1b[K"
        } else {
            ""
        };
        print(&format!("{clear}{line}\n"));
    }

    /// A step begins.
    pub fn begins(&self, name: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.push(Running {
            progress: Progress::new(name),
            since: Instant::now(),
        });
    }

    /// A step has ended; `well` if what it took is what it takes.
    pub fn ended(&self, name: &str, well: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        state.running.retain(|running| {
            let is_it = running.progress.name() == name;
            if is_it && well {
                running.progress.took(running.since.elapsed());
            }
            !is_it
        });
    }

    /// All have ended.
    pub fn all_ended(&self, well: bool) {
        if let (Some(whole), true) = (&self.whole, well) {
            whole.took(self.started.elapsed());
        }
    }

    /// Says how far all is until the other end is gone.
    pub fn watch(&self, ended: mpsc::Receiver<()>) {
        let every = if self.terminal { ON_TERMINAL } else { IN_LOG };
        while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let line = self.line(&state, Instant::now());
            if self.terminal {
                // Cut off at the right, not wrapped.
                print(&format!("\r\x1b[K\x1b[?7l{line}\x1b[?7h"));
                state.shown = true;
            } else {
                print(&format!("{line}\n"));
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.shown) {
            print("\r\x1b[K");
        }
    }

    /// `== 7 of 25 steps done, 12 min 3 s (the last run took 41 min 2 s); now: build 3 min 2 s (6 min 10 s)`
    fn line(&self, state: &State, now: Instant) -> String {
        let mut line = format!(
            "== {} of {} steps done, {}",
            state.done,
            self.steps,
            time(now.duration_since(self.started))
        );
        if let Some(last) = self.whole.as_ref().and_then(Progress::last) {
            line.push_str(&format!(" (the last run took {})", time(last)));
        }
        for (number, running) in state.running.iter().enumerate() {
            let before = if number == 0 { "; now: " } else { ", " };
            let so_far = time(now.duration_since(running.since));
            line.push_str(&format!("{before}{} {so_far}", running.progress.name()));
            if let Some(last) = running.progress.last() {
                line.push_str(&format!(" ({})", time(last)));
            }
        }
        line
    }
}

/// Whoever reads it may have gone; what is counted is no less true.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_all_is_and_what_runs() {
        let screen = Screen::new(3, None);
        screen.begins("a step of a test");
        screen.begins("another step of a test");
        screen.ended("a step of a test", false);
        let state = screen.state.lock().unwrap();
        assert_eq!(
            screen.line(&state, screen.started),
            "== 1 of 3 steps done, 0 s; now: another step of a test 0 s"
        );
    }
}
