//! `guest`: makes what is for guests and says where it is.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use trefoil_guest::kernel::{self, Comparison, Kernel};
use trefoil_guest::{image, program};

const USAGE: &str =
    "usage: guest kernel [--with debug|confidential|mitigations|ipsec]... [--verify]
       guest image [--confidential] [--verify]
       guest agent [--verify]
       guest shim";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["kernel", options @ ..] => make_kernel(options),
        ["image"] => make_image(),
        ["image", "--verify"] => make_image().and_then(|()| verify(program::INIT)),
        ["image", "--confidential"] => make_confidential_image(),
        ["image", "--confidential", "--verify"] => make_confidential_image()
            .and_then(|()| verify(program::INIT))
            .and_then(|()| verify(program::CONFIDENTIAL_AGENT)),
        ["agent"] => make_agent(),
        ["shim"] => make_shim(),
        ["agent", "--verify"] => make_agent().and_then(|()| verify(program::AGENT)),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `guest kernel`
fn make_kernel(options: &[&str]) -> Result<()> {
    let (mut features, mut verify) = (Vec::new(), false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--with" => features.push(options.next().context(USAGE)?.parse()?),
            "--verify" => verify = true,
            _ => bail!(USAGE),
        }
    }
    features.sort();
    features.dedup();
    describe(&kernel::ensure_with(&features)?)?;
    if verify {
        match kernel::verify(&features)? {
            Comparison::Identical => println!("a second build is identical"),
            Comparison::Differs { file, offset } => {
                bail!("a second build differs: {file}, from byte {offset} on")
            }
        }
    }
    Ok(())
}

/// `guest image`
fn make_image() -> Result<()> {
    say_where(&image::ensure()?)
}

/// `guest image --confidential`
fn make_confidential_image() -> Result<()> {
    say_where(&image::ensure_confidential()?)
}

/// `guest agent`
fn make_agent() -> Result<()> {
    say_where(&program::ensure(program::AGENT)?)
}

/// `guest shim`
fn make_shim() -> Result<()> {
    say_where(&program::ensure(program::SHIM)?)
}

fn say_where(file: &Path) -> Result<()> {
    println!("{}", file.display());
    println!("{:<9} {} bytes", name(file), file.metadata()?.len());
    Ok(())
}

/// Of an image, the programs in it are all that is built.
fn verify(package: &str) -> Result<()> {
    match program::verify(package)? {
        Comparison::Identical => println!("{package}: a second build, elsewhere, is identical"),
        Comparison::Differs { file, offset } => {
            bail!("a second build differs: {file}, from byte {offset} on")
        }
    }
    Ok(())
}

fn describe(kernel: &Kernel) -> Result<()> {
    let mut text = format!("{}\n", kernel.directory.display());
    for name in ["release", "source", "compiler"] {
        text.push_str(&format!("{name:<9} {}\n", kernel.recorded(name)?));
    }
    for file in [&kernel.vmlinux, &kernel.bzimage] {
        let size = file.metadata()?.len();
        text.push_str(&format!("{:<9} {size} bytes\n", name(file)));
    }
    // Who reads it may be content with the first line.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
