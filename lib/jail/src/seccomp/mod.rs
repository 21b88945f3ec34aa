//! Filters for system calls: one for each kind of thread, made from a table.
//!
//! Each table adds to what every jailed process calls; what none may call is refused in all of them. A call
//! that is not in the table ends the process with a line in its log that names the call, and
//! the same to the parent; see `trap.rs`.

mod names;
mod table;
mod trap;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::Failure;
pub use table::{Line, Thread, When};

/// A filter that is ready to be installed, by any number of threads.
#[derive(Debug)]
pub struct Filter {
    program: BpfProgram,
    thread: &'static Thread,
}

/// Makes the filter for a kind of thread.
///
/// # Errors
/// If the table makes no sense, or too much.
pub fn compile(thread: &'static Thread) -> Result<Filter, Failure> {
    let doing = "make a system call filter";
    thread.check().map_err(Failure::at(doing))?;
    let mut rules = BTreeMap::new();
    for (call, when) in thread.allowed() {
        rules.insert(call, alternatives(when).map_err(Failure::at(doing))?);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .map_err(Failure::at(doing))?;
    let program = BpfProgram::try_from(filter).map_err(Failure::at(doing))?;
    Ok(Filter { program, thread })
}

impl Filter {
    /// How many instructions it has. The kernel takes 4096, and runs them for each call with a condition.
    pub fn length(&self) -> usize {
        self.program.len()
    }
}

/// Any of these allows the call; none at all allows it too.
fn alternatives(when: When) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |argument, operator, value: u32| {
        let half = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, half, operator, value.into())?;
        SeccompRule::new(vec![condition])
    };
    match when {
        When::Any => Ok(Vec::new()),
        When::OneOf(argument, values) => values
            .iter()
            .map(|&value| rule(argument, SeccompCmpOp::Eq, value))
            .collect(),
        When::Lacks(argument, bits) => Ok(vec![rule(
            argument,
            SeccompCmpOp::MaskedEq(bits.into()),
            0,
        )?]),
    }
}

/// Confines the calling thread, for ever. The process has entered the jail before.
///
/// # Errors
/// If the kernel refuses.
pub fn install(filter: &Filter) -> Result<(), Failure> {
    const DOING: &str = "install a system call filter";
    trap::prepare(filter.thread).map_err(Failure::at(DOING))?;
    trap::this_thread_is(filter.thread);
    seccompiler::apply_filter(&filter.program).map_err(Failure::at(DOING))
}

/// Confines all threads of this process, for ever. The process has entered the jail before.
///
/// # Errors
/// If the kernel refuses.
pub fn install_in_all_threads(filter: &Filter) -> Result<(), Failure> {
    const DOING: &str = "install a system call filter for all threads";
    trap::prepare(filter.thread).map_err(Failure::at(DOING))?;
    seccompiler::apply_filter_all_threads(&filter.program).map_err(Failure::at(DOING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_is_an_alternative() {
        let count = |when| alternatives(when).expect("rules").len();
        assert_eq!(count(When::Any), 0);
        assert_eq!(count(When::OneOf(1, &[1, 2, 3])), 3);
        assert_eq!(count(When::Lacks(2, 4)), 1);
        alternatives(When::Lacks(6, 1)).expect_err("a call has six arguments");
    }
}
