//! The process's environment: exactly what was asked for, plus HOME.

use std::ffi::CString;

use super::error::Failure;

/// A checked environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    /// NAME=VALUE, each name once, in the order asked for.
    variables: Vec<(String, String)>,
}

impl Environment {
    /// Checks the list. Of a name that is there twice the last value counts; an empty HOME is
    /// as good as none.
    pub(crate) fn new(list: &[String]) -> Result<Self, Failure> {
        let mut variables: Vec<(String, String)> = Vec::with_capacity(list.len() + 1);
        let mut seen = std::collections::HashSet::with_capacity(list.len());
        for entry in list.iter().rev() {
            let (name, value) = entry.split_once('=').ok_or_else(|| {
                Failure::new(format!("environment variable {entry:?} has no '='"))
            })?;
            if name.is_empty() {
                return Err(Failure::new(format!(
                    "environment variable {entry:?} has no name"
                )));
            }
            if entry.contains('\0') {
                return Err(Failure::new(format!(
                    "environment variable {name:?} contains a NUL"
                )));
            }
            if seen.insert(name) && !(name == "HOME" && value.is_empty()) {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        variables.reverse();
        Ok(Self { variables })
    }

    /// A variable's value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Adds HOME unless it is there.
    pub(crate) fn set_home_if_missing(&mut self, home: impl FnOnce() -> String) {
        if self.get("HOME").is_none() {
            self.variables.push(("HOME".to_owned(), home()));
        }
    }

    /// As execve takes it.
    pub(crate) fn to_block(&self) -> Vec<CString> {
        self.variables
            .iter()
            .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment(list: &[&str]) -> Result<Environment, Failure> {
        Environment::new(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn block(environment: &Environment) -> Vec<String> {
        environment
            .to_block()
            .into_iter()
            .map(|one| one.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_last_of_two_values_counts() {
        let made = environment(&["A=1", "B=2", "A=3", "E=", "X=a=b"]).unwrap();
        assert_eq!(block(&made), ["B=2", "A=3", "E=", "X=a=b"]);
        assert_eq!(made.get("X"), Some("a=b"));
        assert_eq!(made.get("C"), None);
    }

    #[test]
    fn home_is_added_only_where_it_is_missing() {
        let mut given = environment(&["HOME=/given"]).unwrap();
        given.set_home_if_missing(|| "/found".to_owned());
        assert_eq!(block(&given), ["HOME=/given"]);
        let mut empty = environment(&["HOME=", "A=1"]).unwrap();
        empty.set_home_if_missing(|| "/found".to_owned());
        assert_eq!(block(&empty), ["A=1", "HOME=/found"]);
    }

    #[test]
    fn malformed_variables_are_refused() {
        assert!(
            environment(&["A"])
                .unwrap_err()
                .to_string()
                .contains("no '='")
        );
        assert!(
            environment(&["=A"])
                .unwrap_err()
                .to_string()
                .contains("no name")
        );
        assert!(
            environment(&["A=\0"])
                .unwrap_err()
                .to_string()
                .contains("NUL")
        );
    }

    proptest! {
        #[test]
        fn names_are_unique_and_values_survive(
            list in prop::collection::vec(("[A-D]{1,2}", "[^\0]{0,6}"), 0..20)
        ) {
            let entries: Vec<String> =
                list.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let made = Environment::new(&entries).unwrap();
            let expected: std::collections::HashMap<_, _> = list.iter().cloned().collect();
            prop_assert_eq!(made.variables.len(), expected.len());
            for (name, value) in &expected {
                prop_assert_eq!(made.get(name), Some(value.as_str()));
            }
            prop_assert_eq!(made.to_block().len(), expected.len());
        }
    }
}
