//! The node's configuration: `/etc/trefoil/config.toml`, then the drop-ins in `/etc/trefoil/config.d`.
//!
//! All of it is the administrator's, and typed: an unknown key or a bad value is refused with its file
//! and line, and so is a file that somebody else can write. Nothing in it can make a pod's isolation
//! weaker than its handler's: there is no such key. Without any file the defaults hold.
//!
//! [`files`] finds and reads what there is, [`schema`] says what may stand there.

mod files;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use trefoil_core::settings::{Settings, Table};
use trefoil_core::{Provider, Result};

use crate::dispatch::PodSetting;
use crate::runtimes::PROVIDERS;

/// What is in effect on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The annotations under `trefoil.dev/` that pods may use.
    pub allowed_annotations: BTreeSet<String>,
    /// What a table says that no file mentions.
    settings: Settings,
    /// The runtimes' tables, by their names.
    tables: BTreeMap<&'static str, Settings>,
}

impl Config {
    /// Reads what is in `directory`.
    ///
    /// # Errors
    /// A file that can't be read or isn't to be trusted, and anything in it that is not right.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut config = schema::defaults(share());
        for file in files::read(directory)? {
            schema::add(&mut config, &file)?;
        }
        for provider in PROVIDERS {
            provider.check(&config.settings(*provider))?;
        }
        Ok(config)
    }

    /// What the node says to a runtime.
    pub fn settings(&self, provider: &dyn Provider) -> Settings {
        let own = provider
            .table()
            .and_then(|table| self.tables.get(table.name));
        own.unwrap_or(&self.settings).clone()
    }

    /// What a pod that says this of itself has a runtime do.
    ///
    /// # Errors
    /// If it says anything, to whatever runtime, that is not right.
    pub fn of_pod(&self, provider: &dyn Provider, own: &[PodSetting]) -> Result<Settings> {
        let mut its = self.settings(provider);
        for one in PROVIDERS {
            let mut settings = self.settings(*one);
            for own in own
                .iter()
                .filter(|own| Some(own.table) == one.table().map(|table| table.name))
            {
                let origin = format!("the annotation {}", own.annotation);
                settings.set(own.key, own.value.clone(), origin);
            }
            one.check(&settings)?;
            if one.isolation() == provider.isolation() {
                its = settings;
            }
        }
        Ok(its)
    }

    fn table(&mut self, table: &'static Table) -> &mut Settings {
        let empty = &self.settings;
        self.tables
            .entry(table.name)
            .or_insert_with(|| empty.clone())
    }
}

/// Where the configuration is: beside the program if that is installed as `PREFIX/bin/…` and there is a
/// `PREFIX/etc/trefoil`, else `/etc/trefoil`. Neither the environment nor the command line can say.
pub fn directory() -> PathBuf {
    let own = prefix().map(|prefix| prefix.join("etc/trefoil"));
    own.filter(|own| own.is_dir())
        .unwrap_or_else(|| PathBuf::from("/etc/trefoil"))
}

/// Where the files are that were installed together with the program.
fn share() -> PathBuf {
    let prefix = prefix().unwrap_or_else(|| PathBuf::from("/usr/local"));
    prefix.join("share/trefoil")
}

/// What the program is installed under.
fn prefix() -> Option<PathBuf> {
    prefix_of(&trefoil_os::own_program::path().ok()?)
}

fn prefix_of(program: &Path) -> Option<PathBuf> {
    let bin = program.parent().filter(|parent| parent.ends_with("bin"))?;
    bin.parent().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    use trefoil_core::settings::Value;
    use trefoil_core::{Isolation, ShimCgroup};

    use super::*;
    use crate::dispatch::ISOLATION;
    use crate::runtimes;

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
        assert!(defaults.settings.share.ends_with("share/trefoil"));
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
        assert_eq!(said.allowed_annotations, defaults.allowed_annotations);
        // All but the one that is there for tests.
        let real = PROVIDERS
            .iter()
            .filter(|provider| provider.isolation() < Isolation::Confidential);
        for provider in real {
            let Some(table) = provider.table() else {
                continue;
            };
            for key in table.keys {
                assert!(
                    example.contains(&format!("\n{} = ", key.name)),
                    "{}",
                    key.name
                );
            }
            let of = |config: &Config| {
                let prepared = provider.prepare().expect("prepared");
                let runtime = prepared.runtime(&config.settings(*provider), ShimCgroup::Pod);
                format!("{:?}", runtime.expect("right"))
            };
            assert_eq!(of(&said), of(&defaults));
        }
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
                "config.toml:3: unknown key alowed in [annotations]; supported: allowed",
            ),
            (
                "config.d/50-lower.toml",
                "\n[isolation]\nfloor = 'namespace'\n",
                "config.d/50-lower.toml:2: unknown table [isolation]; supported: annotations, microvm, trivial",
            ),
            (
                "config.d/a.toml",
                "[annotations]\nallowed = ['trefoil.dev/isolation',\n'trefoil.dev/no']",
                "config.d/a.toml:3: unknown annotation trefoil.dev/no; supported: trefoil.dev/isolation, \
                 trefoil.dev/default-cpus, trefoil.dev/default-memory-mib, \
                 trefoil.dev/trivial-level",
            ),
            (
                "config.toml",
                "[annotations]\nallowed = true\n",
                "config.toml:2: allowed must be a list of strings, not boolean",
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
                "default-cpus is 0; it must be from 1 to 64",
            ),
            (
                "default-cpus = '2'",
                "default-cpus must be a number, not string",
            ),
            (
                "default-cpus = -2",
                "default-cpus must be a number, zero or more, not -2",
            ),
            ("kernel = 7", "kernel must be a string, not integer"),
            (
                "kernel = 'vmlinux'",
                "kernel is \"vmlinux\"; it must be an absolute path",
            ),
            ("image = ''", "image is \"\"; it must be an absolute path"),
            (
                "boot-timeout = 1",
                "unknown key boot-timeout in [microvm]; supported: kernel, image, agent, default-cpus, \
                 default-memory-mib, overhead-memory-mib, boot-timeout-seconds",
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
        let config = load("tables", &files).expect("right");
        let microvm = &config.tables["microvm"];
        let number = |key| microvm.number(key, 0, Ok).expect("a number");
        assert_eq!(microvm.path("kernel", ""), Ok("/k".into()));
        assert_eq!(microvm.path("image", ""), Ok("/i".into()));
        assert_eq!(microvm.path("agent", ""), Ok("/a".into()));
        assert_eq!(
            (number("default-cpus"), number("overhead-memory-mib")),
            (4, 50)
        );
        assert_eq!(number("boot-timeout-seconds"), 7);
    }

    #[test]
    fn a_pod_says_what_it_says_and_the_node_the_rest() {
        let files = [(
            "config.toml",
            "[microvm]\ndefault-cpus = 2\ndefault-memory-mib = 99",
        )];
        let config = load("own", &files).expect("right");
        let provider = runtimes::provider(Isolation::MicroVm).expect("a runtime");
        let own = |cpus| PodSetting {
            table: "microvm",
            key: "default-cpus",
            annotation: "trefoil.dev/default-cpus",
            value: Value::Number(cpus),
        };
        let of = |own: &[PodSetting]| {
            let settings = config.of_pod(provider, own).expect("right");
            let number = |key| settings.number(key, 0, Ok).expect("a number");
            (number("default-cpus"), number("default-memory-mib"))
        };
        assert_eq!(of(&[]), (2, 99));
        assert_eq!(of(&[own(3)]), (3, 99));
        // To whatever runtime it is said.
        for provider in PROVIDERS {
            let why = config.of_pod(*provider, &[own(65)]).expect_err("refused");
            assert_eq!(
                why.to_string(),
                "the annotation trefoil.dev/default-cpus is 65; it must be from 1 to 64"
            );
        }
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
