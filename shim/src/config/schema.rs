//! What may stand in a file of the configuration, and what it means.
//!
//! A file is read into [`Keys`], where each key is there or not and knows where it was set; files are
//! laid over each other key by key, and what remains is checked as a whole.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use trefoil_core::{Error, Result};

use super::Config;
use super::files::Text;
use crate::dispatch;

/// Where a value was set.
#[derive(Clone, Debug)]
struct Origin {
    file: PathBuf,
    /// Counted from 1.
    line: usize,
}

impl Origin {
    /// The place of a byte of the file.
    fn new(text: &Text, offset: usize) -> Self {
        let before = text.content.bytes().take(offset);
        Self {
            file: text.path.clone(),
            line: 1 + before.filter(|byte| *byte == b'\n').count(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Path::display(&self.file), self.line)
    }
}

/// A value and where it was set.
#[derive(Clone, Debug)]
struct Set<T> {
    value: T,
    origin: Origin,
}

impl<T> Set<T> {
    fn new(spanned: Spanned<T>, text: &Text) -> Self {
        Self {
            origin: Origin::new(text, spanned.span().start),
            value: spanned.into_inner(),
        }
    }
}

/// A file, as it stands there.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    annotations: AnnotationsTable,
}

/// `[annotations]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct AnnotationsTable {
    /// The annotations that pods may use, by their full names.
    allowed: Option<Vec<Spanned<String>>>,
}

/// The keys that are set, each at most once.
#[derive(Debug, Default)]
pub struct Keys {
    allowed_annotations: Option<Vec<Set<String>>>,
}

/// Reads one file.
pub fn parse(text: &Text) -> Result<Keys> {
    let file: File = toml::from_str(&text.content).map_err(|why| {
        let origin = Origin::new(text, why.span().unwrap_or_default().start);
        Error::invalid(format!("{origin}: {}", why.message().replace('\n', " ")))
    })?;
    let all = |values: Vec<Spanned<String>>| {
        values
            .into_iter()
            .map(|value| Set::new(value, text))
            .collect()
    };
    Ok(Keys {
        allowed_annotations: file.annotations.allowed.map(all),
    })
}

impl Keys {
    /// These, and of `below` what these don't set.
    pub fn over(self, below: Self) -> Self {
        Self {
            allowed_annotations: self.allowed_annotations.or(below.allowed_annotations),
        }
    }

    /// What is in effect; keys that nobody set have their defaults.
    pub fn check(self) -> Result<Config> {
        let allowed_annotations = match self.allowed_annotations {
            Some(names) => names
                .into_iter()
                .map(known_annotation)
                .collect::<Result<_>>()?,
            // It makes pods' isolation stronger only.
            None => BTreeSet::from([dispatch::ISOLATION.to_owned()]),
        };
        Ok(Config {
            allowed_annotations,
        })
    }
}

fn known_annotation(name: Set<String>) -> Result<String> {
    if dispatch::ALL.contains(&name.value.as_str()) {
        return Ok(name.value);
    }
    Err(Error::invalid(format!(
        "{}: there is no annotation {}: there is {}",
        name.origin,
        name.value,
        dispatch::ALL.join(", ")
    )))
}
