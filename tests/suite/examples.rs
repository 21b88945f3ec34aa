//! Comments hold no examples that are programs: nobody runs them, as `cargo test --doc` reads every crate once
//! more to find none.

use std::path::Path;

use crate::words::{files, root};

/// The lines of a file at which a block of a documentation comment begins that rustdoc would run.
fn examples(text: &str) -> Vec<usize> {
    let (mut found, mut inside) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        let Some(comment) = line
            .strip_prefix("///")
            .or_else(|| line.strip_prefix("//!"))
        else {
            inside = false;
            continue;
        };
        let Some(kind) = comment.trim_start().strip_prefix("```") else {
            continue;
        };
        if !inside && kind.trim() != "text" {
            found.push(number);
        }
        inside = !inside;
    }
    found
}

#[test]
fn an_example_is_found_by_its_fence() {
    let text =
        "/// ```text\n/// a\n/// ```\nfn a() {}\n//! ```\n//! a()\n//! ```\n    /// ```rust\n";
    assert_eq!(examples(text), [5, 8]);
}

#[test]
fn no_comment_has_an_example_that_is_not_run() {
    let mut found = Vec::new();
    for path in files(&root()).unwrap() {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root().join(&path)).unwrap();
            // A string of this file's has one.
            let lines = match path == Path::new("tests/suite/examples.rs") {
                true => Vec::new(),
                false => examples(&text),
            };
            found.extend(
                lines
                    .iter()
                    .map(|line| format!("{}:{line}", path.display())),
            );
        }
    }
    assert!(
        found.is_empty(),
        "these are to be a test, or to begin with ```text: {}",
        found.join(", ")
    );
}
