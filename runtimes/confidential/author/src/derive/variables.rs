//! The variables of a container while they are worked out: what each may be.

use std::collections::BTreeMap;

use trefoil_policy::{Pattern, Typed};

use crate::yaml::Fault;

use super::expand::{Piece, pieces};

/// A variable's value, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// What it may be.
    pub value: Pattern,
    /// It may be missing.
    pub optional: bool,
    /// It comes from a Secret.
    pub secret: bool,
}

impl Variable {
    pub(super) fn exact(value: impl Into<String>) -> Self {
        Self::of(Pattern::exact(value))
    }

    pub(super) fn of(value: Pattern) -> Self {
        Self {
            value,
            optional: false,
            secret: false,
        }
    }
}

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    by_name: BTreeMap<String, Variable>,
    /// Whether there may be those of services beside them.
    pub services: bool,
}

/// What becomes of a text with references in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// What it may be.
    pub value: Pattern,
    /// A Secret is in it.
    pub secret: bool,
    /// The variables that are not known, for messages.
    pub unknown: Vec<String>,
}

impl Expanded {
    /// The text, if it is known.
    pub(super) fn exact(&self) -> Option<&str> {
        match &self.value {
            Pattern::Exact(text) => Some(text),
            _ => None,
        }
    }
}

/// What one reference is.
enum Found<'a> {
    Known(&'a str),
    Unknown(Option<&'a Variable>),
    Missing,
}

impl Variables {
    /// None, beside which there may be those of services, or not.
    pub(super) fn new(services: bool) -> Self {
        Self {
            services,
            ..Self::default()
        }
    }

    pub(super) fn set(&mut self, name: &str, variable: Variable) {
        self.by_name.insert(name.to_owned(), variable);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    pub(super) fn get(&self, name: &str) -> Option<&Variable> {
        self.by_name.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (String, Variable)> {
        self.by_name.into_iter()
    }

    fn find(&self, name: &str) -> Found<'_> {
        match self.by_name.get(name) {
            Some(Variable {
                value: Pattern::Exact(value),
                optional: false,
                ..
            }) => Found::Known(value),
            Some(variable) => Found::Unknown(Some(variable)),
            None if self.services && Typed::ServiceVariable.matches(name) => Found::Unknown(None),
            None if name.starts_with("KUBERNETES_") => Found::Unknown(None),
            None => Found::Missing,
        }
    }

    /// Expands the references in a text. One to no variable stays as it stands, as Kubernetes has it.
    ///
    /// # Errors
    /// See [`pieces`].
    pub(super) fn expand(&self, text: &str) -> Result<Expanded, Fault> {
        let pieces = pieces(text)?;
        if let [Piece::Variable(name)] = pieces.as_slice()
            && let Found::Unknown(Some(variable)) = self.find(name)
            && !variable.optional
        {
            // Nothing but the reference: the value is the variable's.
            return Ok(Expanded {
                value: variable.value.clone(),
                secret: variable.secret,
                unknown: vec![(*name).to_owned()],
            });
        }
        let (mut exact, mut unknown, mut secret) = (String::new(), Vec::new(), false);
        for piece in pieces {
            match piece {
                Piece::Literal(literal) => exact.push_str(literal),
                Piece::Variable(name) => match self.find(name) {
                    Found::Known(value) => {
                        exact.push_str(value);
                        secret |= self.by_name[name].secret;
                    }
                    Found::Missing => exact.push_str(&format!("$({name})")),
                    Found::Unknown(variable) => {
                        unknown.push(name.to_owned());
                        secret |= variable.is_some_and(|one| one.secret);
                    }
                },
            }
        }
        let value = match unknown.is_empty() {
            true => Pattern::Exact(exact),
            false => Pattern::Typed(Typed::Text),
        };
        Ok(Expanded {
            value,
            secret,
            unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::default();
        variables.set("A", Variable::exact("one"));
        variables.set("IP", Variable::of(Pattern::Typed(Typed::Ip)));
        variables.set(
            "MAYBE",
            Variable {
                optional: true,
                ..Variable::exact("x")
            },
        );
        variables
    }

    fn expanded(text: &str) -> Pattern {
        variables().expand(text).expect(text).value
    }

    #[test]
    fn a_known_variable_is_put_in() {
        assert_eq!(expanded("$(A)-$(A)"), Pattern::exact("one-one"));
        assert_eq!(expanded("$$(A)"), Pattern::exact("$(A)"));
    }

    #[test]
    fn a_reference_to_nothing_stays() {
        assert_eq!(expanded("x $(B)"), Pattern::exact("x $(B)"));
    }

    #[test]
    fn what_is_not_known_makes_the_whole_unknown() {
        assert_eq!(expanded("$(IP)"), Pattern::Typed(Typed::Ip));
        assert_eq!(expanded("http://$(IP)"), Pattern::Typed(Typed::Text));
        // Where it is missing, the reference stays as it stands.
        assert_eq!(expanded("$(MAYBE)"), Pattern::Typed(Typed::Text));
    }

    #[test]
    fn a_service_may_be_there_or_not() {
        let mut variables = variables();
        let text = "$(DB_SERVICE_HOST)";
        assert_eq!(
            variables.expand(text).expect(text).value,
            Pattern::exact(text)
        );
        variables.services = true;
        assert_eq!(
            variables.expand(text).expect(text).value,
            Pattern::Typed(Typed::Text)
        );
    }
}
