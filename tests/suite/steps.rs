//! What must pass: the steps, what each needs of the machine, and what it comes after.

use std::fmt;
use std::time::Duration;

/// A part of everything, which ends by itself.
pub struct Step {
    pub name: &'static str,
    pub what: What,
    /// It is made of tests and says how many passed; one that says nothing did not run them.
    pub tests: bool,
    /// The longest it may take; one that hangs must not keep the others from being told of.
    pub minutes: u64,
    /// How much of the machine it keeps busy, in percent of a processor.
    pub takes: u32,
    /// The steps, further up, that make what it needs.
    pub after: &'static [&'static str],
    /// It is part of what is asked before each commit.
    pub in_check: bool,
}

/// What a step runs.
#[derive(Clone, Copy)]
pub enum What {
    /// cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// A program that [`BUILD`] has built, with these arguments.
    Built(&'static str, &'static [&'static str]),
    /// A part of the test program, with these arguments.
    Test(&'static [&'static str]),
    /// A script of the repository's, with an argument.
    Script(&'static str, &'static str),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cargo(arguments) => write!(f, "cargo {}", arguments.join(" ")),
            Self::Built(program, arguments) => write!(f, "{program} {}", arguments.join(" ")),
            Self::Test(arguments) => write!(f, "{TEST} {}", arguments.join(" ")),
            Self::Script(path, argument) => write!(f, "{path} {argument}"),
        }
    }
}

/// The test program.
pub const TEST: &str = "trefoil-test";

/// What cargo can use both processors for, and tests that do.
const BOTH: u32 = 200;
/// A test VM, which is one thread of QEMU's, and a long link.
const ONE: u32 = 100;
/// Pods on this machine, which are waited for more than they work.
const HALF: u32 = 50;

impl Step {
    /// A check as a whole.
    const fn check(name: &'static str, takes: u32, what: What) -> Self {
        Self {
            name,
            what,
            tests: false,
            minutes: 30,
            takes,
            after: &[],
            in_check: false,
        }
    }

    const fn tests(name: &'static str, minutes: u64, takes: u32, what: What) -> Self {
        Self {
            tests: true,
            minutes,
            ..Self::check(name, takes, what)
        }
    }

    const fn after(self, after: &'static [&'static str]) -> Self {
        Self { after, ..self }
    }

    const fn in_check(self) -> Self {
        Self {
            in_check: true,
            ..self
        }
    }

    /// How many processors it may count on.
    pub const fn processors(&self) -> u32 {
        self.takes.div_ceil(100)
    }

    /// The longest it may take.
    pub const fn limit(&self) -> Duration {
        Duration::from_secs(self.minutes * 60)
    }
}

/// The step that builds the programs and tests, in one go: what is asked for alone is built with the
/// features that it alone asks of its dependencies, and half of them once more.
const BUILD: &str = "build";
const KERNEL: &str = "guest kernel";
const CONFIDENTIAL_KERNEL: &str = "confidential guest kernel";
const IMAGE: &str = "guest image, built twice";
const AGENT: &str = "agent";
const CONFIDENTIAL: &str = "confidential guest image";
const RELEASE: &str = "release build";
const QEMU: &str = "the test VM's QEMU";
const FUZZ: &str = "fuzz targets, checked";

/// Where the release build is in cargo's target directory: beside the guest's programs, with which it has
/// most crates in common.
pub const SHIM: &str = "guest/x86_64-unknown-linux-gnu/release/containerd-shim-trefoil-v2";

/// What needs the shim only.
const PODS: &[&str] = &[BUILD, RELEASE];
/// What boots guests, and makes pods of them.
const MACHINES: &[&str] = &[
    BUILD,
    RELEASE,
    KERNEL,
    CONFIDENTIAL_KERNEL,
    QEMU,
    AGENT,
    IMAGE,
    CONFIDENTIAL,
];

/// In this order as far as they can; what takes long begins early, so that both processors have
/// something to do to the end.
pub const STEPS: &[Step] = &[
    Step::check("format", ONE, What::Cargo(&["fmt", "--all", "--check"])).in_check(),
    Step::check(
        BUILD,
        BOTH,
        What::Cargo(&["build", "--workspace", "--all-targets"]),
    ),
    // Long links follow, each on one processor; the other is for what works less. They are in one place,
    // where cargo makes one wait for the other.
    Step::check(RELEASE, ONE, What::Built("guest", &["shim"])).after(&[BUILD]),
    Step::tests(
        "tests of the crates",
        20,
        ONE,
        // All that a manifest says is tested: libraries and programs, too. Without examples in comments: there
        // are none, and to find none takes a compiler's run for each crate.
        What::Cargo(&["test", "--workspace", "--tests", "--no-fail-fast"]),
    )
    .after(&[BUILD])
    .in_check(),
    // Beside the tests, which run while this compiles: to be the first would be to be alone.
    Step::check(
        "lints",
        ONE,
        What::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )
    .after(&[BUILD])
    .in_check(),
    // What a feature adds to the agent, which the workspace is built without.
    Step::tests(
        "tests of the confidential agent",
        10,
        ONE,
        What::Cargo(&[
            "test",
            "--package=trefoil-agent",
            "--features=confidential",
            "--tests",
        ]),
    )
    .after(&["lints"])
    .in_check(),
    Step::check(
        "lints of the confidential agent",
        ONE,
        What::Cargo(&[
            "clippy",
            "--package=trefoil-agent",
            "--features=confidential",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )
    .after(&["lints"])
    .in_check(),
    // Eight minutes of a processor where it isn't in the cache.
    Step::check(KERNEL, ONE, What::Built("guest", &["kernel"])).after(&[BUILD]),
    // The same for confidential guests.
    Step::check(
        CONFIDENTIAL_KERNEL,
        ONE,
        What::Built("guest", &["kernel", "--with", "confidential"]),
    )
    .after(&[KERNEL]),
    // As long, likewise.
    Step {
        minutes: 50,
        ..Step::check(QEMU, ONE, What::Built("rig", &["qemu"])).after(&[BUILD])
    },
    // The agent once: it is built as the image is.
    Step::check(AGENT, ONE, What::Built("guest", &["agent"])).after(&[RELEASE]),
    Step::check(IMAGE, ONE, What::Built("guest", &["image", "--verify"])).after(&[AGENT]),
    Step::check(
        CONFIDENTIAL,
        ONE,
        What::Built("guest", &["image", "--confidential"]),
    )
    .after(&[AGENT]),
    Step::tests("end to end", 15, HALF, What::Test(&["e2e"])).after(PODS),
    Step::tests(
        "public reports beside stock",
        15,
        HALF,
        What::Test(&["field"]),
    )
    .after(PODS),
    // The time limits in these two suites are short, and not ours: they get a whole processor.
    Step::tests("layers", 10, HALF, What::Test(&["layers"])).after(&[BUILD]),
    Step::tests("conformance", 30, ONE, What::Test(&["conformance"])).after(PODS),
    Step::tests(
        "conformance by the Sandbox API",
        15,
        ONE,
        What::Test(&["conformance", "--handler=trefoil-sandbox", "--part"]),
    )
    .after(PODS),
    Step::tests(
        "containerd's client suite",
        20,
        ONE,
        What::Test(&["conformance", "--suite=client"]),
    )
    .after(PODS),
    // `--all-targets` leaves out what is no part of `cargo test`: the test VM's trials, and a fuzz target.
    Step::check(
        "lints of what is built elsewhere",
        ONE,
        What::Cargo(&[
            "clippy",
            "--workspace",
            "--test",
            "test-vm-trials",
            "--test",
            "fuzz-root",
            "--",
            "-D",
            "warnings",
        ]),
    )
    .after(&["lints"])
    .in_check(),
    // For those who work on it, so with what is private.
    Step::check(
        "documentation",
        ONE,
        What::Cargo(&[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--config",
            "build.rustdocflags=['-D','warnings']",
        ]),
    )
    .after(&["lints"])
    .in_check(),
    // That they can be built; they run in `make fuzz`, and their functions in the crates' tests.
    Step::check(FUZZ, ONE, What::Test(&["fuzz", "check"]))
        .after(&[BUILD])
        .in_check(),
    Step::check(
        "licences, duplicates and sources",
        HALF,
        What::Script("tests/suite/deny.sh", "--offline"),
    )
    // Where cargo-deny has to be built, that would keep the build waiting, which takes both processors.
    .after(&[BUILD])
    .in_check(),
    // What the next fresh clone need not build.
    Step::check(
        "crates, kept",
        HALF,
        What::Script("tests/suite/crates.sh", "keep"),
    )
    .after(&[
        "lints",
        "tests of the confidential agent",
        "lints of the confidential agent",
        RELEASE,
        CONFIDENTIAL,
        FUZZ,
    ]),
    Step::tests(
        "microVM pods end to end",
        45,
        ONE,
        What::Test(&["e2e", "--handler=trefoil-vm", "--about=pods"]),
    )
    .after(MACHINES),
    Step::tests(
        "microVMs end to end",
        45,
        ONE,
        What::Test(&["e2e", "--handler=trefoil-vm", "--about=machines"]),
    )
    .after(MACHINES),
    // QEMU's machines have to pass the same trials, which shows the trials to be right, but not each
    // time: `vmm -- qemu::`.
    Step::tests(
        "machines and devices",
        45,
        ONE,
        What::Test(&["vmm", "trefoil::"]),
    )
    .after(MACHINES),
    // All of critest takes ten minutes: without `--part`, before an issue about microVMs is closed.
    Step::tests(
        "conformance of microVM pods",
        30,
        ONE,
        What::Test(&["conformance", "--handler", "trefoil-vm", "--part"]),
    )
    .after(MACHINES),
    Step::tests(
        "end to end, in the test VM",
        30,
        ONE,
        What::Test(&["e2e", "--in-vm"]),
    )
    .after(MACHINES),
    Step::tests(
        "conformance, in the test VM",
        20,
        ONE,
        What::Test(&["conformance", "--in-vm"]),
    )
    .after(&[BUILD, RELEASE, QEMU]),
    Step::tests(
        "tests of the crates, in the test VM",
        25,
        ONE,
        What::Test(&["crates"]),
    )
    .after(&[BUILD, QEMU]),
    Step::tests("guest boots", 10, ONE, What::Test(&["guest"])).after(MACHINES),
    // The half of `make demo` in which it holds the isolations against each other.
    Step::check(
        "demo: one pod in each isolation",
        ONE,
        What::Test(&["demo", "isolations"]),
    )
    .after(MACHINES),
    Step::tests(
        "the test VM",
        10,
        ONE,
        What::Cargo(&["test", "--workspace", "--test", "test-vm-trials"]),
    )
    .after(&[BUILD, QEMU]),
];
