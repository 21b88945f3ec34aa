//! All that is asked of Trefoil from outside, in one program.
//!
//!     trefoil-test --list
//!     trefoil-test PART [what the part is told]
//!
//! Each part's own words are at the beginning of its folder's `mod.rs`. What is there to work with is programs
//! of their own: `rig up` and `test-vm`.

mod bench;
mod conformance;
mod count;
mod crates;
mod demo;
mod e2e;
mod field;
mod fuzz;
mod guest;
mod layers;
mod vmm;

use std::process::ExitCode;

use anyhow::{Result, bail};
use rig::guard;
use rig::test_vm::init;

/// A part: what it is called, what it is, and what runs it.
type Part = (&'static str, &'static str, fn() -> Result<ExitCode>);

const PARTS: &[Part] = &[
    ("e2e", "pods, through crictl and ctr", e2e::main),
    (
        "field",
        "public reports, beside the stock shim",
        field::main,
    ),
    (
        "conformance",
        "critest and containerd's client suite, beside the stock shim",
        conformance::main,
    ),
    (
        "vmm",
        "the VMM, its devices and files, with real guests",
        vmm::main,
    ),
    (
        "layers",
        "layers' root hashes, an author's and containerd's",
        layers::main,
    ),
    ("guest", "the guest kernel and image, booted", guest::main),
    ("crates", "the crates' tests, in the test VM", crates::main),
    ("fuzz", "the fuzz targets", fuzz::main),
    ("bench", "pods, measured beside the stock shim", bench::main),
    ("count", "a guest's boot, in instructions", count::main),
    ("demo", "a pod in each isolation, on one screen", demo::main),
];

fn main() -> Result<ExitCode> {
    rig::rerun::began();
    if let Some(code) = vmm::take_part()? {
        return Ok(code);
    }
    init::take_part()?;
    guard::take_part()?;
    let asked = rig::part::named().next().unwrap_or_default();
    if asked == "--list" {
        for (name, what, _) in PARTS {
            println!("{name:<12} {what}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some((.., run)) = PARTS.iter().find(|(name, ..)| *name == asked) else {
        let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
        bail!(
            "usage: trefoil-test --list | PART [argument]...: {asked:?} is none of {}",
            names.join(", ")
        );
    };
    run()
}
