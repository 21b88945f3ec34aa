//! `containerd-shim-trefoil-v2`: what containerd starts, once per pod.
//!
//! The binary has four faces: `start` (short-lived: finds or forks the pod's server and says where it
//! listens), the server itself, `delete` (cleans up after a server that has died), and `-info`/`-v`.
//! It speaks containerd and knows no isolation: everything below [`trefoil_core::Runtime`] is a
//! runtime's business. Start reading at [`start`], then [`serve`], then [`service`].

mod bootstrap;
mod delete;
mod footprint;
mod info;
mod logger;
mod pod;
mod record;
mod serve;
mod service;
mod start;
mod stdio;

use std::process::ExitCode;

use containerd_shim::Flags;
use trefoil_core::{Context, Error, Result};

/// What a handler's `runtime_type` makes of this binary, and the name it reports.
const RUNTIME_NAME: &str = "io.containerd.trefoil.v2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // containerd shows what a failing shim printed.
            eprintln!("trefoil: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if args
        .first()
        .is_some_and(|arg| arg == trefoil_runc::HELPER_ACTION)
    {
        trefoil_runc::run_as_helper();
    }
    let flags = containerd_shim::parse(&args).context(|| "read the command line")?;
    if flags.version {
        print!("{}", info::version_text());
        return Ok(());
    }
    if flags.info {
        return info::print();
    }
    match flags.action.as_str() {
        "start" => {
            check(&flags)?;
            start::start(&flags)
        }
        "delete" => {
            check(&flags)?;
            delete::delete(&flags)
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
    if flags.id.contains('/') || flags.id == "." || flags.id == ".." {
        return Err(Error::invalid(format!("the id {:?} is no name", flags.id)));
    }
    Ok(())
}
