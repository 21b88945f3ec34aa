//! What the crates below say goes where everything else is: into the kernel's log.

use log::{LevelFilter, Log, Metadata, Record};

use crate::say;

struct Logger;

static LOGGER: Logger = Logger;

/// Has warnings and errors said from now on, by this process and those forked from it.
pub(crate) fn init() {
    // It fails only where there is one already, which is this one.
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            say(*record.args());
        }
    }

    fn flush(&self) {}
}
