//! The binary under its names, as containerd would call it but without a containerd: what it says of
//! itself, and that nothing a caller can say makes a pod's isolation weaker than the name guarantees.

#![allow(clippy::expect_used)]

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use containerd_shim_protos::bootstrap_api::BootstrapParams;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::types::introspection::RuntimeInfo;

const NAMES: [(&str, &str); 3] = [
    ("containerd-shim-trefoil-v2", "io.containerd.trefoil.v2"),
    (
        "containerd-shim-trefoil-vm-v2",
        "io.containerd.trefoil-vm.v2",
    ),
    (
        "containerd-shim-trefoil-confidential-v2",
        "io.containerd.trefoil-confidential.v2",
    ),
];
const CONFIDENTIAL: &str = NAMES[2].0;

/// That a confidential pod was refused as it is on a node whose configuration names no TEE: for want of one, or
/// of a launch under the one that the node has.
fn assert_lacking(said: &str) {
    let none = "this node has no TEE (neither SEV-SNP nor TDX), and its configuration does not name the simulated \
                one (tee in [confidential])";
    let unlaunched =
        ["SEV-SNP", "TDX"].map(|tee| format!("this build can't launch guests under {tee} yet"));
    let why = said.strip_prefix("the pod is to be confidential, but ");
    let is_lacking = |why: &str| why == none || unlaunched.iter().any(|one| why == one);
    assert!(why.is_some_and(is_lacking), "{said}");
}

/// An installation under a prefix of its own, and a bundle to start a pod in.
struct Installed {
    prefix: PathBuf,
    sockets: PathBuf,
}

impl Installed {
    fn new(test: &str) -> Self {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = std::fs::remove_dir_all(&prefix);
        // A short path, as sockets' must be.
        let sockets = std::env::temp_dir().join(format!("names-{test}-{}", std::process::id()));
        std::fs::create_dir(&sockets).expect("directory");
        for directory in ["bin", "etc/trefoil/config.d", "bundle"] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(prefix.join(directory))
                .expect("directory");
        }
        let installed = Self { prefix, sockets };
        let file = installed.path("bin").join(NAMES[0].0);
        // Not copied: a file that a forked thread still has open for writing can't be executed.
        std::fs::hard_link(env!("CARGO_BIN_EXE_containerd-shim-trefoil-v2"), file)
            .expect("the binary");
        for (name, _) in &NAMES[1..] {
            symlink(NAMES[0].0, installed.path("bin").join(name)).expect("link");
        }
        installed.annotate("{}");
        installed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.prefix.join(name)
    }

    fn annotate(&self, annotations: &str) {
        let config = format!(r#"{{"ociVersion": "1.0.2", "annotations": {annotations}}}"#);
        std::fs::write(self.path("bundle/config.json"), config).expect("config.json");
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(name));
        command.current_dir(self.path("bundle"));
        command
    }

    /// `start` as containerd 2.3 asks for it, with more of the environment and of the command line.
    fn start(&self, name: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = self.command(name);
        command
            .args(["-namespace", "test", "-id", "pod", "-address", "/nowhere"])
            .args(arguments)
            .envs(environment.iter().copied());
        let params = BootstrapParams {
            instance_id: "pod".into(),
            namespace: "test".into(),
            containerd_ttrpc_address: "/nowhere".into(),
            socket_dir: Some(self.sockets.display().to_string()),
            ..Default::default()
        };
        let input = params.write_to_bytes().expect("encode");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        // One that refuses its arguments doesn't read on.
        let _ = child.stdin.take().expect("stdin").write_all(&input);
        child.wait_with_output().expect("wait")
    }

    /// Has `start` refused: what it says of that, in its one line. No server is left, nor its socket.
    fn refused(&self, name: &str, environment: &[(&str, &str)], arguments: &[&str]) -> String {
        let output = self.start(name, environment, arguments);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success(), "{name} {arguments:?} is served");
        assert_eq!(output.stdout, b"", "{arguments:?}: {said}");
        let sockets = std::fs::read_dir(&self.sockets).expect("sockets");
        assert_eq!(sockets.count(), 0, "a socket is left: {said}");
        let line = said.strip_suffix('\n').expect("a line");
        assert!(!line.contains('\n'), "{said:?}");
        line.strip_prefix("trefoil: ").expect("our name").to_owned()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.prefix);
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

#[test]
fn each_name_says_which_it_is() {
    let installed = Installed::new("each-name");
    for (name, runtime) in NAMES {
        let output = installed.command(name).arg("-v").output().expect("run");
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            text.starts_with(&format!("{name}:\n  Runtime: {runtime}\n")),
            "{text}"
        );
        let output = installed
            .command(name)
            .arg("-info")
            .stdin(Stdio::null())
            .output()
            .expect("run");
        let info = RuntimeInfo::parse_from_bytes(&output.stdout).expect("a message");
        assert_eq!(info.name, runtime);
    }
}

#[test]
fn another_name_is_refused_whatever_it_is_to_do() {
    let installed = Installed::new("another-name");
    symlink(NAMES[0].0, installed.path("bin/wrapper")).expect("link");
    for action in ["start", "delete", "-info", "-v"] {
        let said = installed.refused("wrapper", &[], &[action]);
        assert!(NAMES.iter().all(|(name, _)| said.contains(name)), "{said}");
    }
}

#[test]
fn what_is_not_there_is_refused_and_not_replaced_by_less() {
    let installed = Installed::new("lacking");
    assert_lacking(&installed.refused(CONFIDENTIAL, &[], &["start"]));
    installed.annotate(r#"{"trefoil.dev/isolation": "confidential"}"#);
    for (name, _) in NAMES {
        assert_lacking(&installed.refused(name, &[], &["start"]));
    }
}

#[test]
fn what_only_a_confidential_pod_says_is_refused_of_others() {
    let installed = Installed::new("foreign");
    let isolations = NAMES.iter().zip(["namespace", "microvm"]);
    for annotation in [
        "trefoil.dev/initdata",
        "io.katacontainers.config.hypervisor.cc_init_data",
    ] {
        installed.annotate(&format!(r#"{{"{annotation}": "H4sI"}}"#));
        for ((name, _), isolation) in isolations.clone() {
            assert_eq!(
                installed.refused(name, &[], &["start"]),
                format!(
                    "the annotation {annotation} is of confidential pods, but the pod is to be {isolation}"
                )
            );
        }
        assert_lacking(&installed.refused(CONFIDENTIAL, &[], &["start"]));
    }
}

#[test]
fn no_annotation_lowers() {
    let installed = Installed::new("annotation");
    for lower in ["namespace", "microvm"] {
        installed.annotate(&format!(r#"{{"trefoil.dev/isolation": "{lower}"}}"#));
        assert_eq!(
            installed.refused(CONFIDENTIAL, &[], &["start"]),
            format!(
                "the annotation trefoil.dev/isolation asks for {lower}, but the pod's handler guarantees \
                 confidential: an annotation may only raise it"
            )
        );
    }
    for (annotation, expected) in [
        (r#""trefoil.dev/isolation": """#, r#"is ""; it must be"#),
        (
            r#""trefoil.dev/isolation": "none""#,
            r#"is "none"; it must be"#,
        ),
        (
            r#""trefoil.dev/floor": "namespace""#,
            "unknown annotation trefoil.dev/floor; supported: ",
        ),
    ] {
        installed.annotate(&format!("{{{annotation}}}"));
        let said = installed.refused(CONFIDENTIAL, &[], &["start"]);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn no_environment_lowers() {
    let installed = Installed::new("environment");
    for name in [
        "TREFOIL_ISOLATION",
        "TREFOIL_FLOOR",
        "TREFOIL_HANDLER",
        "TREFOIL_RUNTIME",
        "ISOLATION",
    ] {
        let environment = [(name, "namespace"), ("_", NAMES[0].0)];
        assert_lacking(&installed.refused(CONFIDENTIAL, &environment, &["start"]));
    }
    // Nor does it say where the configuration is: this one would be refused.
    let other = installed.path("other");
    std::fs::create_dir(&other).expect("directory");
    std::fs::write(other.join("config.toml"), "floor = 'namespace'").expect("file");
    for name in [
        "TREFOIL_CONFIG",
        "TREFOIL_CONFIG_DIR",
        "XDG_CONFIG_HOME",
        "XDG_CONFIG_DIRS",
        "HOME",
    ] {
        let at = other.display().to_string();
        assert_lacking(&installed.refused(CONFIDENTIAL, &[(name, &at)], &["start"]));
    }
}

#[test]
fn no_argument_lowers() {
    let installed = Installed::new("arguments");
    for more in [
        &["-isolation", "namespace", "start"][..],
        &["-isolation=namespace", "start"],
        &["-runtime", "io.containerd.trefoil.v2", "start"],
        &["-config", "/dev/null", "start"],
        &["-floor=namespace", "start"],
    ] {
        let said = installed.refused(CONFIDENTIAL, &[], more);
        assert!(said.starts_with("read the command line: "), "{said}");
    }
    for more in [
        &["start", "namespace"][..],
        &["start", "--isolation=namespace"],
        &["start", NAMES[0].0],
        &["-bundle", "/nowhere", "start"],
        &["-socket", "/nowhere", "start"],
    ] {
        assert_lacking(&installed.refused(CONFIDENTIAL, &[], more));
    }
}

#[test]
fn no_configuration_lowers() {
    let installed = Installed::new("configuration");
    let directory = installed.path("etc/trefoil");
    for (file, content) in [
        ("config.toml", "floor = 'namespace'"),
        ("config.toml", "[isolation]\nfloor = 'namespace'"),
        (
            "config.d/99-lower.toml",
            "[isolation]\nconfidential = 'namespace'",
        ),
        (
            "config.d/99-lower.toml",
            "[handlers.trefoil-confidential]\nisolation = 'namespace'",
        ),
        ("config.d/99-lower.toml", "[annotations]\nmay-lower = true"),
    ] {
        let path = directory.join(file);
        std::fs::write(&path, content).expect("file");
        for (name, _) in NAMES {
            let said = installed.refused(name, &[], &["start"]);
            assert!(said.starts_with(&format!("{}:", path.display())), "{said}");
            assert!(said.contains("; supported: "), "{said}");
        }
        std::fs::remove_file(&path).expect("remove");
    }
    // What it can do is keep pods from raising.
    std::fs::write(
        directory.join("config.d/a.toml"),
        "[annotations]\nallowed = []",
    )
    .expect("file");
    installed.annotate(r#"{"trefoil.dev/isolation": "confidential"}"#);
    let said = installed.refused(NAMES[0].0, &[], &["start"]);
    assert!(
        said.contains("the annotation trefoil.dev/isolation is not allowed by this node"),
        "{said}"
    );
}

#[test]
fn by_the_name_of_trefoil_it_has_subcommands() {
    let installed = Installed::new("subcommands");
    symlink(NAMES[0].0, installed.path("bin").join("trefoil")).expect("link");
    let run = |arguments: &[&str]| {
        installed
            .command("trefoil")
            .args(arguments)
            .output()
            .expect("run")
    };
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for (arguments, why) in [
        (vec![], "no subcommand given"),
        (vec!["start"], "unknown subcommand \"start\""),
        (vec!["policy"], "no manifest given"),
        (vec!["policy", "absent.yaml"], "read absent.yaml"),
    ] {
        let output = run(&arguments);
        assert!(
            !output.status.success() && told(&output).contains(why),
            "{}",
            told(&output)
        );
    }
    let help = run(&["policy", "--help"]);
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(
        help.status.success() && text.contains("--image-layout"),
        "{text}"
    );
}
