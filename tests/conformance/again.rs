//! Specs that failed, run again alone.

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rig::confidential::Simulated;
use rig::critest::{self, Outcome, Spec};
use rig::guest::Images;
use rig::rerun::{Reruns, Run};
use rig::{Handler, Rig, client_suite};

use crate::conformance::{Options, Suite, prepare};

/// How long one spec may take, with what its suite does before and after.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// What a suite takes before and after its specs.
const AROUND: Duration = Duration::from_secs(20);

/// A containerd for specs that are run again, with a handler of ours and stock. It is started when it is
/// needed.
pub struct Again<'a> {
    suite: Suite,
    handler: Handler,
    images: Option<&'a Images>,
    reports: PathBuf,
    rig: OnceCell<Rig>,
    reruns: Reruns,
}

impl<'a> Again<'a> {
    pub fn new(options: &Options, handler: Handler, images: Option<&'a Images>) -> Self {
        Self {
            suite: options.suite,
            handler,
            images,
            reports: options.reports.join("again"),
            rig: OnceCell::new(),
            reruns: Reruns::default(),
        }
    }

    /// Runs a spec again that failed because of `why`, if `few` have. One that skipped itself has nothing to
    /// be run again.
    ///
    /// # Errors
    /// Why it has failed for good.
    pub fn spec(&self, spec: &Spec, why: String, few: bool) -> Result<(), String> {
        if !few || !matches!(spec.outcome, Outcome::Failed(_)) {
            return Err(why);
        }
        let run = |handler| self.once(handler, &spec.name);
        let (ours, stock) = (|| run(self.handler), || run(Handler::Runc));
        let stock: Option<Run> = match self.handler {
            Handler::Runc => None,
            _ => Some(&stock),
        };
        let took = spec.time + AROUND;
        self.reruns.again(&spec.name, &why, took, &ours, stock)
    }

    /// Says which were flaky.
    pub fn tell(&self) {
        self.reruns.tell();
    }

    fn once(&self, handler: Handler, name: &str) -> Result<()> {
        let rig = self.rig()?;
        let _tee = match handler {
            Handler::TrefoilConfidential => Some(Simulated::permissive(rig)?),
            _ => None,
        };
        fs::create_dir_all(&self.reports)?;
        let report = match self.suite {
            Suite::Critest => {
                let focus = format!("{}$", escaped(name));
                critest::conformance(rig, handler, Some(&focus), &self.reports, LIMIT)
            }
            Suite::Client => {
                let focus = format!("^{}$", escaped(name));
                client_suite::run(rig, handler, Some(&focus), &self.reports, LIMIT)
            }
        };
        let removed = rig.remove_all();
        let report = report?;
        let spec = report.specs.iter().find(|spec| spec.name == name);
        match &spec.context("it was not run")?.outcome {
            Outcome::Passed => removed,
            Outcome::Failed(why) => bail!("{why}"),
            Outcome::Skipped(why) => bail!("it was skipped: {why}"),
        }
    }

    fn rig(&self) -> Result<&Rig> {
        if let Some(rig) = self.rig.get() {
            return Ok(rig);
        }
        let rig = Rig::start()?;
        prepare(&rig, self.handler, self.images)?;
        Ok(self.rig.get_or_init(|| rig))
    }
}

/// A regular expression, of Go's, that means this text.
fn escaped(text: &str) -> String {
    let mut expression = String::with_capacity(text.len());
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            expression.push('\\');
        }
        expression.push(letter);
    }
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specs_name_is_taken_by_the_letter() {
        assert_eq!(
            escaped("[k8s.io] Image (id) should a+b"),
            r"\[k8s\.io\] Image \(id\) should a\+b"
        );
    }
}
