//! Filters for system calls: one for each kind of thread, made from the table in `table.rs`.
//!
//! A call that is not in the table ends the process with a line in its log that names the call, and
//! the same to the parent; see `trap.rs`.

mod names;
mod table;
mod trap;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Failure;
pub use table::Thread;
use table::When;

/// A filter that is ready to be installed, by any number of threads.
#[derive(Debug)]
pub struct Filter {
    program: BpfProgram,
    thread: Thread,
}

/// Makes the filter for a kind of thread.
pub fn compile(thread: Thread) -> Result<Filter, Failure> {
    let doing = "make a system call filter";
    let mut rules = BTreeMap::new();
    for (call, _, when) in table::lines(thread) {
        rules.insert(*call, alternatives(*when).map_err(Failure::at(doing))?);
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
pub fn install(filter: &Filter) -> Result<(), Failure> {
    let doing = "install a system call filter";
    trap::prepare(filter.thread).map_err(Failure::at(doing))?;
    seccompiler::apply_filter(&filter.program).map_err(Failure::at(doing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_small() {
        for thread in [Thread::Vcpu, Thread::Events] {
            let filter = compile(thread).expect("compile");
            // The kernel takes 4096, and runs them for each call with a condition.
            assert!(filter.program.len() < 320, "{}", filter.program.len());
        }
    }
}
