//! Tables of the system calls that threads may make.

use std::ffi::c_long;

/// What an argument must be.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Anything.
    Any,
    /// The argument with this number, from zero, is one of these. Of arguments of 64 bits only the
    /// lower half is compared: use it where the kernel takes 32.
    OneOf(u8, &'static [u32]),
    /// The argument with this number has none of these bits in its lower half.
    Lacks(u8, u32),
}

/// A line of a table: which call, the names of the kinds of threads that make it, with which arguments.
pub type Line = (c_long, &'static [&'static str], When);

/// A kind of thread.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// What the process is called in its log.
    pub process: &'static str,
    /// What the kind of thread is called, as in "the vcpu thread". Nothing that JSON would escape.
    pub name: &'static str,
    /// Which calls which kind of thread may make. The whole list; all else ends the process.
    pub table: &'static [Line],
}

impl Thread {
    /// The lines that are this kind's.
    pub fn lines(&self) -> impl Iterator<Item = &'static Line> {
        let name = self.name;
        self.table
            .iter()
            .filter(move |(_, threads, _)| threads.contains(&name))
    }
}
