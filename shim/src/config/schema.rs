//! What may stand in a file of the configuration: `[annotations]`, and the tables that the runtimes
//! declare. Names and types are checked here, values by the runtime that they are for.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use trefoil_core::settings::{Kind, Settings, Table, Value};
use trefoil_core::{Error, Result};

use super::Config;
use super::files::Text;
use crate::dispatch;
use crate::runtimes::PROVIDERS;

/// The table that is the shim's own.
const ANNOTATIONS: &str = "annotations";
/// Its one key: the annotations that pods may use, by their full names.
const ALLOWED: &str = "allowed";

/// Where something stands.
struct Origin<'a> {
    file: &'a Path,
    /// Counted from 1.
    line: usize,
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Text {
    /// The place of a byte of the file.
    fn origin(&self, offset: usize) -> Origin<'_> {
        let before = self.content.bytes().take(offset);
        Origin {
            file: &self.path,
            line: 1 + before.filter(|byte| *byte == b'\n').count(),
        }
    }
}

/// The configuration where there is no file. Files that were installed with the shim are in `share`.
pub fn defaults(share: PathBuf) -> Config {
    Config {
        // It makes pods' isolation stronger only.
        allowed_annotations: BTreeSet::from([dispatch::ISOLATION.to_owned()]),
        settings: Settings::new(share),
        tables: Default::default(),
    }
}

/// Lays one file over what the files before it have set.
///
/// # Errors
/// What can't be read, and anything in it that is unknown or of another type.
pub fn add(config: &mut Config, text: &Text) -> Result<()> {
    let root = DeTable::parse(&text.content).map_err(|why| {
        let origin = text.origin(why.span().unwrap_or_default().start);
        Error::invalid(format!("{origin}: {}", why.message().replace('\n', " ")))
    })?;
    for (name, value) in root.get_ref() {
        let origin = text.origin(name.span().start);
        let (name, table) = (name.get_ref().as_ref(), value.get_ref().as_table());
        let runtimes = PROVIDERS.iter().filter_map(|provider| provider.table());
        let runtimes = runtimes.collect::<Vec<_>>();
        let runtime = runtimes.iter().find(|table| table.name == name);
        let table_of =
            || table.ok_or_else(|| Error::invalid(format!("{origin}: {name} must be a table")));
        match runtime {
            _ if name == ANNOTATIONS => add_annotations(config, text, table_of()?)?,
            Some(runtime) => add_table(config, text, table_of()?, runtime)?,
            None => {
                let supported = runtimes.iter().map(|table| table.name);
                let supported: Vec<_> = [ANNOTATIONS].into_iter().chain(supported).collect();
                return Err(Error::invalid(format!(
                    "{origin}: unknown table [{name}]; supported: {}",
                    supported.join(", ")
                )));
            }
        }
    }
    Ok(())
}

fn add_annotations(config: &mut Config, text: &Text, table: &DeTable<'_>) -> Result<()> {
    for (key, value) in table {
        if key.get_ref() != ALLOWED {
            let origin = text.origin(key.span().start);
            return Err(unknown(&origin, key.get_ref(), ANNOTATIONS, &[ALLOWED]));
        }
        let names = value.get_ref().as_array();
        let wrong = |value: &Spanned<DeValue<'_>>| {
            let origin = text.origin(value.span().start);
            let is = value.get_ref().type_str();
            Error::invalid(format!(
                "{origin}: {ALLOWED} must be a list of strings, not {is}"
            ))
        };
        let names = names.ok_or_else(|| wrong(value))?;
        let known = names.iter().map(|value| {
            let name = value.get_ref().as_str().ok_or_else(|| wrong(value))?;
            match dispatch::is_known(name) {
                true => Ok(name.to_owned()),
                false => Err(Error::invalid(format!(
                    "{}: unknown annotation {name}; supported: {}",
                    text.origin(value.span().start),
                    dispatch::names()
                ))),
            }
        });
        config.allowed_annotations = known.collect::<Result<_>>()?;
    }
    Ok(())
}

fn add_table(
    config: &mut Config,
    text: &Text,
    table: &DeTable<'_>,
    runtime: &'static Table,
) -> Result<()> {
    for (name, value) in table {
        let key = runtime.keys.iter().find(|key| key.name == name.get_ref());
        let Some(key) = key else {
            let origin = text.origin(name.span().start);
            let supported: Vec<_> = runtime.keys.iter().map(|key| key.name).collect();
            return Err(unknown(&origin, name.get_ref(), runtime.name, &supported));
        };
        let origin = format!("{}: {}", text.origin(value.span().start), key.name);
        let value = typed(value.get_ref(), key.kind)
            .map_err(|why| Error::invalid(format!("{origin} must be {why}")))?;
        config.table(runtime).set(key.name, value, origin);
    }
    Ok(())
}

fn unknown(origin: &Origin<'_>, key: &str, table: &str, supported: &[&str]) -> Error {
    Error::invalid(format!(
        "{origin}: unknown key {key} in [{table}]; supported: {}",
        supported.join(", ")
    ))
}

/// A value of this kind, or what it must be, to be read after "must be".
fn typed(value: &DeValue<'_>, kind: Kind) -> Result<Value, String> {
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Number, DeValue::Integer(number)) => {
            u64::from_str_radix(number.as_str(), number.radix())
                .map(Value::Number)
                .map_err(|_| format!("a number, zero or more, not {}", number.as_str()))
        }
        (Kind::Text, other) => Err(format!("a string, not {}", other.type_str())),
        (Kind::Number, other) => Err(format!("a number, not {}", other.type_str())),
    }
}
