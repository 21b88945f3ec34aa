//! Words that are retired: each thing has one name, the field's (`docs/glossary.md`). Those that were used
//! before must not come back, in documents, comments, messages or identifiers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A retired word.
struct Retired {
    /// The words as they are in prose: `in_node`, `InNode` and `--in-node` are `in node`.
    words: &'static str,
    /// What to say instead.
    say: &'static str,
    /// Where it is retired, from the repository's root: files, or folders with all that is in them. There are
    /// more once others have been cleared of it.
    scopes: &'static [&'static str],
    /// Parts of lines in which it means something else.
    but: &'static [&'static str],
}

const ALL: &[&str] = &[""];
/// What is about tests alone: elsewhere a node is Kubernetes'.
const TESTS: &[&str] = &[
    "Makefile",
    "docs/testing.md",
    "docs/figures.md",
    "tests/README.md",
    "tests/bench",
    "tests/conformance",
    "tests/count",
    "tests/crates",
    "tests/demo",
    "tests/guest",
    "tests/main.rs",
    "tests/rig",
    "tests/suite",
    "tests/test-vm",
    "tests/vmm",
];

const RETIRED: &[Retired] = &[
    Retired {
        words: "in node",
        say: "in the test VM",
        scopes: &["Makefile", "README.md", "docs", "tests"],
        but: &[],
    },
    Retired {
        words: "in a node",
        say: "in a test VM",
        scopes: TESTS,
        but: &[],
    },
    Retired {
        words: "in the node",
        say: "in the test VM",
        scopes: TESTS,
        but: &[],
    },
    Retired {
        words: "make node",
        say: "make test-vm",
        scopes: &["CONTRIBUTING.md", "Makefile", "README.md", "docs", "tests"],
        but: &[],
    },
    Retired {
        words: "node trials",
        say: "test-vm-trials",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "rig node",
        say: "rig::test_vm",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "host vm",
        say: "test VM",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "machine below",
        say: "this machine, or the host",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "whitelist",
        say: "allowlist, or what it lists",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "blacklist",
        say: "denylist, or what it lists",
        scopes: ALL,
        but: &["initcall_blacklist"],
    },
    Retired {
        words: "embryo",
        say: "a child that is being made",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "crew",
        say: "threads, workers, or what they share",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "leash",
        say: "channel",
        scopes: ALL,
        but: &[],
    },
    Retired {
        words: "door",
        say: "host socket",
        scopes: &["docs", "runtimes/sandbox-vmm", "tests/vmm"],
        but: &[],
    },
];

/// Files that are read: those with a name of ours in them, or none.
const EXTENSIONS: &[&str] = &["md", "proto", "rs", "sh", "toml", "txt", "yaml", ""];

/// Which files name retired words because they are about them.
const ABOUT: &[&str] = &["docs/glossary.md", "tests/suite/words.rs"];

/// What is found of retired words below a directory, a line each: `FILE:LINE: WORD is retired: say INSTEAD`.
/// Line 0 is the file's name.
///
/// # Errors
/// If a file can't be read.
fn found(root: &Path, retired: &[Retired]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in files(root)? {
        if is_read(&path) {
            in_file(root, &path, retired, &mut found)?;
        }
    }
    found.sort();
    Ok(found)
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files below a directory, by their paths from there: neither hidden nor made by cargo.
///
/// # Errors
/// If a directory can't be read.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let at = root.join(&directory);
        // What cargo has made says so.
        if at.join("CACHEDIR.TAG").exists() {
            continue;
        }
        for entry in fs::read_dir(&at).with_context(|| format!("reading {}", at.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(directory.join(&name));
            } else if kind.is_file() {
                files.push(directory.join(&name));
            }
        }
    }
    Ok(files)
}

fn is_read(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension == *known)
        && !ABOUT.iter().any(|about| path.ends_with(about))
}

fn in_file(root: &Path, path: &Path, retired: &[Retired], found: &mut Vec<String>) -> Result<()> {
    let here: Vec<&Retired> = retired
        .iter()
        .filter(|retired| retired.scopes.iter().any(|scope| path.starts_with(scope)))
        .collect();
    let Ok(text) = String::from_utf8(fs::read(root.join(path))?) else {
        return Ok(());
    };
    let lines = std::iter::once((0, path.to_str().unwrap_or_default()))
        .chain((1..).zip(text.lines()))
        .filter(|(_, line)| !line.is_empty());
    for (number, line) in lines {
        let its_words = words(line);
        for retired in &here {
            let excused = retired.but.iter().any(|part| line.contains(part));
            if !excused && has(&its_words, retired.words) {
                found.push(format!(
                    "{}:{number}: {:?} is retired: say {}",
                    path.display(),
                    retired.words,
                    retired.say
                ));
            }
        }
    }
    Ok(())
}

/// Whether these words are among those, one after the other.
fn has(text: &str, retired: &str) -> bool {
    text.match_indices(retired).any(|(at, _)| {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at + retired.len()..).unwrap_or_default();
        (before.is_empty() || before.ends_with(' ')) && (after.is_empty() || after.starts_with(' '))
    })
}

/// The words of a line, in small letters: `in_node`, `in-node` and `InNode` have two.
fn words(line: &str) -> String {
    let mut words = String::with_capacity(line.len() + 8);
    let mut before = ' ';
    for letter in line.chars() {
        let begins = letter.is_uppercase() && before.is_lowercase();
        if (begins || !letter.is_alphanumeric()) && !words.ends_with(' ') {
            words.push(' ');
        }
        if letter.is_alphanumeric() {
            words.extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.trim_end().to_owned()
}

#[test]
fn words_are_found_however_they_are_joined() {
    for line in [
        "again_in_node(",
        "`--in-node`",
        "IN_NODE",
        "InNode",
        "in node",
    ] {
        assert!(has(&words(line), "in node"), "{line}: {}", words(line));
    }
    for line in ["inode", "in nodes", "in the node", "begin node"] {
        assert!(!has(&words(line), "in node"), "{line}: {}", words(line));
    }
}

#[test]
fn a_retired_word_is_found_where_it_is_retired() {
    let base = std::env::temp_dir().join(format!("trefoil-words-{}", std::process::id()));
    for file in [
        "docs/a.md",
        "lib/b.rs",
        "docs/built/CACHEDIR.TAG",
        "docs/built/c.md",
    ] {
        let path = base.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "one\nan old_word\nan OldWord, quoted\n").unwrap();
    }
    let retired = [Retired {
        words: "old word",
        say: "new word",
        scopes: &["docs"],
        but: &["quoted"],
    }];
    assert_eq!(
        found(&base, &retired).unwrap(),
        ["docs/a.md:2: \"old word\" is retired: say new word"]
    );
    fs::remove_dir_all(base).unwrap();
}

#[test]
fn no_retired_word_has_come_back() {
    let found = found(&root(), RETIRED).unwrap();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
