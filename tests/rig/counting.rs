//! Counting instructions: a program runs again in a test VM whose clocks count them, and tells what it
//! found there.
//!
//! Each figure is taken in two test VMs which agree, of four at most: they say the same on a busy machine as on an
//! idle one, so a difference of some thousand instructions can be seen. What is counted is
//! everything that the test VM's one processor does, the guest as well as what the test VM's kernel and a
//! VMM do for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::guest::Images;
use crate::part;
use crate::test_vm::TestVm;

/// Set in the test VM.
const INSIDE: &str = "TREFOIL_COUNT_INSIDE";

/// What two counts of the same may differ by.
const TOLERANCE: f64 = 0.001;

/// The median of so many boots is taken: in some a timer of the test VM's falls that doesn't in others.
pub const BOOTS: usize = 15;

/// Where nobody wants to run, the clock is moved on: while the test VM waits for the host,
/// hours may pass in it.
pub const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A guest that takes longer to be ready, by a clock that counts instructions, stands still: the slowest takes
/// an eighth. The clock goes on then, but a second of it takes some forty of ours.
pub const STANDS_STILL: Duration = Duration::from_secs(1);

/// How often something with a guest is tried.
const TRIES: usize = 8;

/// Does something with a guest, and does it again if it fails, saying so: where clocks count
/// instructions, QEMU can't keep guests from standing still now and then, whoever made them (see
/// [`crate::test_vm`]). A failure of the guest's or of its VMM's own fails again.
pub fn again<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    for number in 1..TRIES {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) => eprintln!("{what}, try {number} of {TRIES}: {error:#}"),
        }
    }
    attempt().with_context(|| format!("{what}, try {TRIES} of {TRIES}"))
}

/// Whether this is a program that is to count.
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What tells a program that its test VM counts.
pub fn variable() -> (String, String) {
    (INSIDE.into(), "1".into())
}

/// Tells what was counted, in the test VM, as the last that is said.
pub fn answer(counts: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(counts)?);
    Ok(())
}

/// How many test VMs may count until two agree: where a test VM's kernel has put its code and data depends on
/// what it did before, and a search that finds a place later takes longer.
const MOST_VMS: usize = 4;

/// Runs this program's part again, with these arguments, in test VMs one after the other until two agree, and answers
/// what it told in these. The files are there where it is fast.
pub fn in_two_vms<T: DeserializeOwned>(
    images: &Images,
    arguments: &[&str],
    files: &[PathBuf],
    environment: &[(String, String)],
    agree: impl Fn(&T, &T) -> Result<()>,
) -> Result<(T, T)> {
    let mut earlier: Vec<T> = Vec::new();
    loop {
        let count = || in_vm(images, arguments, files, environment);
        let last = again("counting in a test VM", count)?;
        let mut why = None;
        let like = earlier.iter().position(|one| match agree(one, &last) {
            Ok(()) => true,
            Err(error) => {
                why = Some(error);
                false
            }
        });
        if let Some(like) = like {
            return Ok((earlier.swap_remove(like), last));
        }
        earlier.push(last);
        if let Some(why) = why {
            ensure!(
                earlier.len() < MOST_VMS,
                "no two of {MOST_VMS} counts agree: {why:#}"
            );
            eprintln!("{why:#}; counting once more, in a new test VM");
        }
    }
}

fn in_vm<T: DeserializeOwned>(
    images: &Images,
    arguments: &[&str],
    files: &[PathBuf],
    environment: &[(String, String)],
) -> Result<T> {
    let program = std::env::current_exe()?;
    let mut vm = TestVm {
        instructions: true,
        memory: 2048,
        hot: vec![program.clone()],
        limit: Some(Duration::from_secs(300)),
        transcript: crate::cache::directory()?.join("reports/test-vm-count.log"),
        environment: environment.to_vec(),
        ..TestVm::default()
    };
    vm.hot.extend(images.files());
    vm.hot.extend_from_slice(files);
    vm.environment.push(images.variable()?);
    vm.environment.push(variable());
    let printed = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&printed);
    let program = program.to_string_lossy();
    let part = part::named().next().unwrap_or_default();
    let command: Vec<&str> = [&*program, &part]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let ended = vm.run(&command, move |bytes| {
        keep.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
    })?;
    let printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
    let printed = String::from_utf8_lossy(&printed);
    ensure!(ended.code == 0, "counting failed in the test VM: {printed}");
    let (said, line) = match printed.trim_end().rsplit_once('\n') {
        Some((said, line)) => (said, line),
        None => ("", printed.trim_end()),
    };
    // Such as that something was tried again.
    if !said.is_empty() {
        eprintln!("{said}");
    }
    serde_json::from_str(line).with_context(|| format!("reading what the test VM counted: {line}"))
}

/// A copy of a file in memory, to be read without waiting.
pub fn to_memory(file: &Path) -> Result<PathBuf> {
    let target = Path::new("/dev/shm").join(file.file_name().unwrap_or_default());
    fs::copy(file, &target).with_context(|| format!("copying {}", file.display()))?;
    Ok(target)
}

/// The images in memory.
pub fn images_to_memory(images: &Images) -> Result<Images> {
    Ok(Images {
        kernel: to_memory(&images.kernel)?,
        image: to_memory(&images.image)?,
        ..images.clone()
    })
}

/// The median.
pub fn median(mut counts: Vec<u64>) -> Result<u64> {
    counts.sort_unstable();
    let middle = counts.len() / 2;
    counts.get(middle).copied().context("nothing was counted")
}

/// How much a guest's time stamp counter shows more than the test VM's: the guest is the only one.
pub fn guests_offset() -> Result<i64> {
    for vm in fs::read_dir("/sys/kernel/debug/kvm")? {
        let file = vm?.path().join("vcpu0/tsc-offset");
        if let Ok(text) = fs::read_to_string(&file) {
            return Ok(text.trim().parse()?);
        }
    }
    bail!("the test VM's KVM doesn't say a guest's time stamp offset")
}

/// A figure, counted in two test VMs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Twice {
    /// Instructions.
    pub one: u64,
    /// In the other test VM.
    pub other: u64,
}

impl Twice {
    /// The head of a table of such figures.
    pub const HEAD: &str =
        "instructions | M | in another test VM | difference |\n|---|---|---|---|";

    fn difference(self) -> f64 {
        self.one.abs_diff(self.other) as f64 / self.one as f64
    }

    /// A line of the table.
    pub fn row(self, what: &str) -> String {
        format!(
            "| {what} | {} | {} | {:.4} % |",
            millions(self.one),
            millions(self.other),
            self.difference() * 100.0
        )
    }

    /// An error if the two don't agree.
    pub fn agrees(self, what: &str) -> Result<()> {
        ensure!(
            self.difference() < TOLERANCE,
            "two counts of {what} differ by {:.3} %",
            self.difference() * 100.0
        );
        Ok(())
    }

    /// An error if it is more than is allowed.
    pub fn within(self, what: &str, allowed: u64) -> Result<()> {
        ensure!(
            self.one <= allowed,
            "{what} takes {} million instructions; {} are allowed",
            millions(self.one),
            millions(allowed)
        );
        Ok(())
    }
}

/// Instructions, in millions.
pub fn millions(count: u64) -> String {
    format!("{:.3}", count as f64 / 1e6)
}
