//! The shim's log: lines into the `log` FIFO of the bundle, which containerd copies to its own log.
//!
//! A log must never stop the shim: the FIFO is non-blocking, and a line that doesn't fit is dropped
//! and counted. Nor may it fill the node's: what a guest can have said again and again is said a few times
//! ([`Limit`]).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trefoil_os::lock;

struct Fifo {
    file: File,
    runtime: &'static str,
    context: String,
    dropped: AtomicU64,
    limit: Mutex<Limit>,
}

/// How many lines may follow each other at once. A pod that goes well takes a few in all.
const BURST: u32 = 40;

/// How long it takes until one more may.
const PAUSE: Duration = Duration::from_secs(5);

/// How many lines may be written now.
struct Limit {
    left: u32,
    /// When the last was added.
    since: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Whether one may be written.
    fn allows(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.since).as_secs() / PAUSE.as_secs();
        if let Ok(more @ 1..) = u32::try_from(passed) {
            self.left = self.left.saturating_add(more).min(BURST);
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// Sends the log to the FIFO in the working directory. Without one (started by hand) there is no log.
/// Each line names the `runtime`, and the pod `id` in `namespace`.
pub fn init(runtime: &'static str, namespace: &str, id: &str, debug: bool) {
    // Open for both ways: then neither opening nor writing fails when containerd is away for a while.
    let Ok(file) = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("log")
    else {
        return;
    };
    let logger = Box::new(Fifo {
        file,
        runtime,
        context: format!("namespace={namespace} pod={id}"),
        dropped: AtomicU64::new(0),
        limit: Mutex::new(Limit::new(Instant::now())),
    });
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(if debug {
            LevelFilter::Debug
        } else {
            LevelFilter::Info
        });
    }
}

impl Log for Fifo {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The libraries below speak of their own affairs.
        metadata.target().contains("trefoil") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Who asks for debugging wants all of it.
        if record.level() <= log::Level::Info && !self.allows() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let line = format_line(record, self.runtime, &self.context, dropped);
        if (&self.file).write_all(line.as_bytes()).is_err() {
            self.dropped.fetch_add(dropped + 1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {}
}

impl Fifo {
    fn allows(&self) -> bool {
        let mut limit = lock(&self.limit);
        limit.allows(Instant::now())
    }
}

/// A line in the form of containerd's own log.
fn format_line(record: &Record<'_>, runtime: &str, context: &str, dropped: u64) -> String {
    let level = record.level().as_str().to_lowercase();
    let message = record.args().to_string();
    let lost = match dropped {
        0 => String::new(),
        n => format!(" lost_lines={n}"),
    };
    format!(
        "time=\"{}\" level={level} msg={message:?} runtime={runtime} {context}{lost}\n",
        time_text(),
    )
}

/// Now, as RFC 3339 says it.
fn time_text() -> String {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_becomes_a_few() {
        let mut now = Instant::now();
        let mut limit = Limit::new(now);
        let written = (0..1000).filter(|_| limit.allows(now)).count();
        assert_eq!(written, 40);
        now += PAUSE * 2;
        let written = (0..1000).filter(|_| limit.allows(now)).count();
        assert_eq!(written, 2);
        // A minute of a thousand lines a second.
        let mut written = 0;
        for _ in 0..60_000 {
            now += Duration::from_millis(1);
            written += u32::from(limit.allows(now));
        }
        assert!((11..=12).contains(&written), "{written}");
        now += Duration::from_secs(1_000_000);
        let written = (0..1000).filter(|_| limit.allows(now)).count();
        assert_eq!(written, 40);
    }

    #[test]
    fn a_line_is_one_line_whatever_it_says() {
        let record = Record::builder()
            .level(log::Level::Warn)
            .args(format_args!("two\nlines and a \"quote\""))
            .build();
        let line = format_line(&record, "io.x.v2", "namespace=n pod=p", 3);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            line.contains(r#"level=warn msg="two\nlines and a \"quote\"""#),
            "{line}"
        );
        assert!(
            line.ends_with("runtime=io.x.v2 namespace=n pod=p lost_lines=3\n"),
            "{line}"
        );
    }
}
