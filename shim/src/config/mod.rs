//! The node's configuration: `/etc/trefoil/config.toml`, then the drop-ins in `/etc/trefoil/config.d`.
//!
//! All of it is the administrator's, and typed: an unknown key or a bad value is refused with its file
//! and line, and so is a file that somebody else can write. Nothing in it can make a pod's isolation
//! weaker than its handler's: there is no such key. Without any file the defaults hold.
//!
//! [`files`] finds and reads what there is, [`schema`] says what may stand there.

pub mod amount;
mod files;
mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use trefoil_core::Result;
use trefoil_sandbox_vmm::Settings;

use crate::dispatch::Own;

/// What is in effect on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The annotations under `trefoil.dev/` that pods may use.
    pub allowed_annotations: BTreeSet<String>,
    /// What microVMs are like.
    pub microvm: Settings,
}

impl Config {
    /// Reads what is in `directory`.
    ///
    /// # Errors
    /// A file that can't be read or isn't to be trusted, and anything in it that is not right.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut keys = schema::Keys::default();
        for file in files::read(directory)? {
            keys = schema::parse(&file)?.over(keys);
        }
        keys.check()
    }

    /// What the microVM of a pod is like that says this of itself.
    pub fn microvm_of(&self, own: Own) -> Settings {
        let node = &self.microvm;
        Settings {
            default_cpus: own.default_cpus.unwrap_or(node.default_cpus),
            default_memory: own.default_memory.unwrap_or(node.default_memory),
            ..node.clone()
        }
    }
}

/// Where the configuration is: beside the program if that is installed as `PREFIX/bin/…` and there is a
/// `PREFIX/etc/trefoil`, else `/etc/trefoil`. Neither the environment nor the command line can say.
pub fn directory() -> PathBuf {
    let own = prefix().map(|prefix| prefix.join("etc/trefoil"));
    own.filter(|own| own.is_dir())
        .unwrap_or_else(|| PathBuf::from("/etc/trefoil"))
}

/// Where a file is that was installed together with the program.
fn installed(name: &str) -> PathBuf {
    let prefix = prefix().unwrap_or_else(|| PathBuf::from("/usr/local"));
    prefix.join("share/trefoil").join(name)
}

/// What the program is installed under.
fn prefix() -> Option<PathBuf> {
    prefix_of(&trefoil_runc::own_program::path().ok()?)
}

fn prefix_of(program: &Path) -> Option<PathBuf> {
    let bin = program.parent().filter(|parent| parent.ends_with("bin"))?;
    bin.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::dispatch::ISOLATION;

    /// A directory of its own with these files in it.
    fn with<T>(name: &str, files: &[(&str, &str)], then: impl FnOnce(&Path) -> T) -> T {
        let at = std::env::temp_dir().join(format!("config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(at.join("config.d")).expect("directory");
        for (file, content) in files {
            std::fs::write(at.join(file), content).expect("file");
        }
        let outcome = then(&at);
        std::fs::remove_dir_all(&at).expect("remove");
        outcome
    }

    fn load(name: &str, files: &[(&str, &str)]) -> Result<Config> {
        with(name, files, Config::load)
    }

    /// The error, without the directory.
    fn refused(name: &str, files: &[(&str, &str)]) -> String {
        with(name, files, |at| {
            let why = Config::load(at).expect_err("refused").to_string();
            why.replace(&format!("{}/", at.display()), "")
        })
    }

    #[test]
    fn nothing_is_the_defaults() {
        let defaults = Config::load(Path::new("/nowhere/trefoil")).expect("no file at all");
        assert_eq!(
            defaults.allowed_annotations,
            BTreeSet::from([ISOLATION.to_owned()])
        );
        let microvm = &defaults.microvm;
        assert_eq!((microvm.default_cpus, microvm.default_memory), (1, 512));
        assert!(microvm.kernel.ends_with("share/trefoil/vmlinux"));
        assert!(microvm.agent.ends_with("share/trefoil/agent"));
        let empty = load("empty", &[("config.toml", "")]).expect("empty");
        assert_eq!(format!("{empty:?}"), format!("{defaults:?}"));
    }

    /// What a node is given as an example is what holds without it.
    #[test]
    fn the_example_says_the_defaults() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config.toml");
        let example = std::fs::read_to_string(example).expect("the example");
        let said = load("example", &[("config.toml", &example)]).expect("right");
        let defaults = Config::load(Path::new("/nowhere/trefoil")).expect("no file at all");
        assert_eq!(format!("{said:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn a_later_drop_in_wins() {
        let (none, one) = (
            "[annotations]\nallowed = []",
            "[annotations]\nallowed = ['trefoil.dev/isolation']",
        );
        for (files, allowed) in [
            (vec![("config.toml", none)], 0),
            (vec![("config.toml", none), ("config.d/10.toml", one)], 1),
            (
                vec![("config.d/9.toml", none), ("config.d/10.toml", one)],
                0,
            ),
            // A drop-in that says nothing of a key leaves it.
            (
                vec![("config.toml", none), ("config.d/10.toml", "[annotations]")],
                0,
            ),
            // None of these is a drop-in.
            (
                vec![
                    ("config.toml", none),
                    ("config.d/10.toml.bak", one),
                    ("config.d/.10.toml", one),
                    ("config.d/README", "Drop-ins."),
                ],
                0,
            ),
        ] {
            let config = load("drop-ins", &files).expect("right");
            assert_eq!(config.allowed_annotations.len(), allowed, "{files:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_file_and_line() {
        for (file, content, expected) in [
            (
                "config.toml",
                "# ours\n[annotations]\nalowed = []\n",
                "config.toml:3: unknown field `alowed`, expected `allowed`",
            ),
            (
                "config.d/50-lower.toml",
                "\n[isolation]\nfloor = 'namespace'\n",
                "config.d/50-lower.toml:2: unknown field `isolation`, expected `annotations` or `microvm`",
            ),
            (
                "config.d/a.toml",
                "[annotations]\nallowed = ['trefoil.dev/isolation',\n'trefoil.dev/no']",
                "config.d/a.toml:3: there is no annotation trefoil.dev/no: there are trefoil.dev/isolation, \
                 trefoil.dev/default-cpus, trefoil.dev/default-memory-mib",
            ),
            (
                "config.toml",
                "[annotations]\nallowed = true\n",
                "config.toml:2: invalid type: boolean `true`, expected a sequence",
            ),
            (
                "config.toml",
                "[annotations]\nallowed = []\nallowed = []\n",
                "config.toml:3: duplicate key",
            ),
        ] {
            assert_eq!(refused("wrong", &[(file, content)]), expected);
        }
        for (line, expected) in [
            (
                "default-cpus = 0",
                "default-cpus is 0, but there may be from 1 to 64",
            ),
            (
                "default-cpus = 65",
                "default-cpus is 65, but there may be from 1 to 64",
            ),
            (
                "default-cpus = '2'",
                "invalid type: string \"2\", expected u64",
            ),
            (
                "default-memory-mib = 0",
                "default-memory-mib is 0, but it may be from 1 to 16777216",
            ),
            (
                "overhead-memory-mib = 99999999",
                "overhead-memory-mib is 99999999, but it may be from 1 to 16777216",
            ),
            (
                "boot-timeout-seconds = 0",
                "boot-timeout-seconds is 0, but it may be from 1 to 600",
            ),
            (
                "kernel = 'vmlinux'",
                "kernel is \"vmlinux\", but it is to be a path from the root",
            ),
            (
                "image = ''",
                "image is \"\", but it is to be a path from the root",
            ),
        ] {
            let content = format!("[microvm]\n\n{line}\n");
            let why = refused("value", &[("config.toml", &content)]);
            assert_eq!(why, format!("config.toml:3: {expected}"));
        }
        // What the parser says is its own; where is ours to say.
        let why = refused("syntax", &[("config.toml", "[annotations]\nallowed = [\n")]);
        assert!(
            why.starts_with("config.toml:") && !why.contains('\n'),
            "{why}"
        );
    }

    #[test]
    fn keys_of_one_table_are_laid_over_each_other_one_by_one() {
        let files = [
            (
                "config.toml",
                "[microvm]\nkernel = '/k'\ndefault-cpus = 2\noverhead-memory-mib = 50",
            ),
            (
                "config.d/a.toml",
                "[microvm]\ndefault-cpus = 4\nboot-timeout-seconds = 7",
            ),
            ("config.d/b.toml", "[microvm]\nimage = '/i'\nagent = '/a'"),
        ];
        let microvm = load("tables", &files).expect("right").microvm;
        assert_eq!(microvm.kernel, Path::new("/k"));
        assert_eq!(microvm.initramfs, Path::new("/i"));
        assert_eq!(microvm.agent, Path::new("/a"));
        assert_eq!((microvm.default_cpus, microvm.overhead), (4, 50));
        assert_eq!(microvm.boot_limit.as_secs(), 7);
    }

    #[test]
    fn a_pod_says_what_it_says_and_the_node_the_rest() {
        let files = [(
            "config.toml",
            "[microvm]\ndefault-cpus = 2\ndefault-memory-mib = 99",
        )];
        let config = load("own", &files).expect("right");
        let of = |own| {
            let settings = config.microvm_of(own);
            (settings.default_cpus, settings.default_memory)
        };
        assert_eq!(of(Own::default()), (2, 99));
        let own = Own {
            default_cpus: Some(3),
            ..Own::default()
        };
        assert_eq!(of(own), (3, 99));
    }

    #[test]
    fn a_value_that_is_overridden_is_checked_all_the_same_if_it_is_none() {
        let files = [
            ("config.toml", "[annotations]\nallowed = 3"),
            ("config.d/a.toml", "[annotations]\nallowed = []"),
        ];
        assert!(refused("overridden", &files).starts_with("config.toml:2: "));
    }

    #[test]
    fn files_that_others_can_write_are_not_read() {
        for (path, mode) in [
            ("config.toml", 0o664),
            ("config.toml", 0o646),
            ("config.d/a.toml", 0o666),
            ("config.d", 0o777),
            ("", 0o1777),
        ] {
            let files = [("config.toml", ""), ("config.d/a.toml", "")];
            with("trust", &files, |at| {
                let path = at.join(path);
                let permissions = std::fs::Permissions::from_mode(mode);
                std::fs::set_permissions(&path, permissions).expect("chmod");
                let why = Config::load(at).expect_err("refused").to_string();
                let name = path.display().to_string();
                assert!(
                    why.contains(name.trim_end_matches('/')) && why.contains("others"),
                    "{why}"
                );
            });
        }
    }

    #[test]
    fn files_of_somebody_else_are_not_read() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        with("owner", &[("config.toml", "")], |at| {
            std::os::unix::fs::chown(at.join("config.toml"), Some(1000), None).expect("chown");
            let why = Config::load(at).expect_err("refused").to_string();
            assert!(why.contains("config.toml") && why.contains("1000"), "{why}");
        });
    }

    #[test]
    fn only_files_are_read() {
        for name in ["fifo", "directory", "dangling"] {
            with(name, &[], |at| {
                let path = at.join("config.d/a.toml");
                match name {
                    "fifo" => {
                        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("fifo")
                    }
                    "directory" => std::fs::create_dir(&path).expect("directory"),
                    _ => symlink("/nowhere", &path).expect("link"),
                }
                let why = Config::load(at).expect_err("refused").to_string();
                assert!(why.contains("a.toml"), "{why}");
            });
        }
    }

    #[test]
    fn it_lies_beside_an_installed_program() {
        for (program, expected) in [
            ("/opt/trefoil/bin/shim", Some("/opt/trefoil")),
            ("/bin/shim", Some("/")),
            ("/target/release/shim", None),
        ] {
            assert_eq!(prefix_of(Path::new(program)), expected.map(PathBuf::from));
        }
    }
}
