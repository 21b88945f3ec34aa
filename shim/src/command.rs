//! `trefoil`: what people call by hand. It is this binary under that name, with subcommands.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// The name that it is called by.
const NAME: &str = "trefoil";

const USAGE: &str = "\
usage: trefoil SUBCOMMAND

  policy   derive a confidential pod's policy from its manifest and images
";

/// Whether the binary was called by that name, a path or a mere file name.
pub fn is_called(program: &OsStr) -> bool {
    Path::new(program).file_name() == Some(OsStr::new(NAME))
}

/// Runs a subcommand with what follows on the command line.
pub fn run(subcommand: Option<&OsStr>, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match subcommand.and_then(OsStr::to_str) {
        Some("policy") => trefoil_author::main(arguments),
        Some("--help" | "-h" | "help") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            match subcommand {
                Some(other) => eprintln!("trefoil: unknown subcommand {other:?}\n\n{USAGE}"),
                None => eprintln!("trefoil: no subcommand given\n\n{USAGE}"),
            }
            ExitCode::FAILURE
        }
    }
}
