//! `containerd-shim-trefoil-v2`, and two more names for it: what containerd starts, once per pod. By the
//! name of `trefoil` it is what people call by hand ([`command`]).
//!
//! A pod's other processes are this binary too, under names that only its runtimes call it by. Beside
//! those it has four faces: `start` (short-lived: finds or forks the pod's server and says where it
//! listens), the server itself, `delete` (cleans up after a server that has died), and `-info`/`-v`.
//! The name it is called by says which isolation its handler guarantees; [`dispatch`] decides on the
//! pod's. Beyond that it speaks containerd and knows no isolation: everything below
//! [`trefoil_core::Runtime`] is a runtime's business. Start reading at [`start`], then [`dispatch`],
//! [`serve`], [`service`].

mod bootstrap;
mod candidates;
mod command;
mod config;
mod cri;
mod delete;
mod dispatch;
mod events;
mod info;
mod kernel;
mod logger;
mod pod;
mod record;
mod runtimes;
mod serve;
mod service;
mod socket;
mod start;
mod stdio;
#[cfg(test)]
mod trivial;

use std::process::ExitCode;

use containerd_shim::Flags;
use trefoil_core::{Context, Error, Result};

use crate::dispatch::Handler;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(why) => {
            // containerd shows what a failing shim printed.
            eprintln!("trefoil: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args_os();
    let name = args.next();
    let (program, action) = (name.as_deref().unwrap_or_default(), args.next());
    if command::is_called(program) {
        return Ok(command::run(action.as_deref(), args));
    }
    for runtime in runtimes::PROVIDERS {
        // SAFETY: the process has just begun, and has opened nothing.
        if let Some(end) = unsafe { runtime.serve_as(program, action.as_deref()) } {
            return Ok(end);
        }
    }
    let args: Vec<_> = action.into_iter().chain(args).collect();
    let handler = Handler::called(name.as_deref())?;
    let flags = containerd_shim::parse(&args).context(|| "read the command line")?;
    if flags.version {
        print!("{}", info::version_text(handler));
        return Ok(ExitCode::SUCCESS);
    }
    let done = if flags.info {
        info::print(handler)
    } else {
        act(&flags, handler)
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn act(flags: &Flags, handler: &'static Handler) -> Result<()> {
    match flags.action.as_str() {
        "start" => {
            check(flags)?;
            // The server, its helper and all that they make are this process's forks.
            trefoil_os::own_program::run_read_only()?;
            start::start(flags, handler)
        }
        "delete" => {
            check(flags)?;
            delete::delete(flags, handler)
        }
        "" => Err(Error::invalid(
            "no action given: containerd calls `start` or `delete`; by hand try -info or -v",
        )),
        other => Err(Error::invalid(format!(
            "unknown action {other:?}: there are `start` and `delete`"
        ))),
    }
}

/// Both actions need to know whom they serve; the id becomes part of paths.
fn check(flags: &Flags) -> Result<()> {
    if flags.namespace.is_empty() {
        return Err(Error::invalid("no -namespace given"));
    }
    if flags.id.is_empty() {
        return Err(Error::invalid("no -id given"));
    }
    check_name("id", &flags.id)
}

/// Makes sure that something may be a file's name.
fn check_name(what: &str, name: &str) -> Result<()> {
    if name.contains('/') || name == "." || name == ".." {
        return Err(Error::invalid(format!("the {what} {name:?} is no name")));
    }
    Ok(())
}
