//! What is not asked of a handler: lists of specs, each with a reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rig::{Handler, test_vm};

use crate::conformance::Suite;

/// A list: `NAME # REASON` on each line, where the line isn't empty or a comment.
pub struct List {
    /// Where it is, for whoever has to change it.
    pub path: &'static str,
    text: &'static str,
}

macro_rules! list {
    ($name:literal) => {
        List {
            path: concat!("tests/conformance/", $name),
            text: include_str!($name),
        }
    };
}

const NOT_BY_STOCK: List = list!("not-by-stock.txt");
const NOT_YET: List = list!("not-yet.txt");
const CLIENT_NOT_YET: List = list!("client-not-yet.txt");
const NOT_AS_MICROVM: List = list!("not-as-microvm.txt");
const NOT_AS_CONFIDENTIAL: List = list!("not-as-confidential.txt");

impl List {
    /// What `trefoil` doesn't pass of a suite although stock does.
    pub fn of_suite(suite: Suite) -> Self {
        match suite {
            Suite::Critest => NOT_YET,
            Suite::Client => CLIENT_NOT_YET,
        }
    }

    /// What this handler doesn't pass of critest although stock does; of stock, what it doesn't pass in a test VM.
    pub fn of(handler: Handler) -> Option<Self> {
        match handler.usual() {
            // It was made there: another machine's kernel may have more, or less.
            Handler::Runc => test_vm::inside().then_some(NOT_BY_STOCK),
            Handler::Trefoil => Some(NOT_YET),
            Handler::TrefoilVm => Some(NOT_AS_MICROVM),
            Handler::TrefoilConfidential => Some(NOT_AS_CONFIDENTIAL),
            _ => None,
        }
    }

    /// What the stock handler doesn't pass in a test VM.
    pub fn of_stock() -> Self {
        NOT_BY_STOCK
    }

    /// The reasons, by the specs' names.
    pub fn reasons(&self) -> Result<BTreeMap<&'static str, &'static str>> {
        self.text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let (name, reason) = line
                    .split_once(" # ")
                    .with_context(|| format!("{}: no reason is given in {line:?}", self.path))?;
                Ok((name.trim(), reason.trim()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_reason_and_there_are_few() {
        // How many may be on it.
        for (list, most) in [
            (NOT_BY_STOCK, 10),
            (NOT_YET, 0),
            (CLIENT_NOT_YET, 1),
            (NOT_AS_MICROVM, 20),
            (NOT_AS_CONFIDENTIAL, 30),
        ] {
            let reasons = list.reasons().unwrap();
            assert!(reasons.len() <= most, "{}: {}", list.path, reasons.len());
            assert!(reasons.values().all(|reason| !reason.is_empty()));
        }
    }
}
