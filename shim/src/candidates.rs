//! The runtimes that a pod may get, prepared while its server has one thread, and the choice of one.
//!
//! Where containerd starts a shim with the configuration of the pod's own container, `start` chooses by its
//! annotations. containerd's Sandbox API tells a pod's annotations only in a request to the server, whose
//! event loop runs by then: so all runtimes that the choice could fall on are prepared, and the others are
//! dropped.

use std::sync::Arc;

use trefoil_core::settings::Settings;
use trefoil_core::{Error, Isolation, Prepared, Provider, Result, Runtime, ShimCgroup};

use crate::config::Config;
use crate::dispatch::{self, Annotations};
use crate::runtimes::{self, PROVIDERS};

/// The runtime of a pod.
#[derive(Clone)]
pub struct Chosen {
    /// Its provider.
    pub provider: &'static dyn Provider,
    /// The runtime itself.
    pub runtime: Arc<dyn Runtime>,
}

/// What a pod's runtime is chosen by, or what it is.
pub enum Choice {
    /// It has been chosen.
    Made(&'static dyn Provider, Settings),
    /// It is to be chosen, by the node's configuration as it was read when the server was started.
    Open(Config),
}

/// Runtimes, as far as they can be made before the event loop runs.
pub struct Candidates {
    floor: Isolation,
    shim: ShimCgroup,
    choice: Choice,
    prepared: Vec<(&'static dyn Provider, Box<dyn Prepared>)>,
}

/// Which runtime a pod with these annotations gets, and what is said to that.
///
/// # Errors
/// What the pod asks for and can't have.
pub fn decide(
    floor: Isolation,
    annotations: &Annotations,
    config: &Config,
) -> Result<(&'static dyn Provider, Settings)> {
    let allowed = &config.allowed_annotations;
    let unavailable = |isolation| unavailable(isolation, config);
    let decision = dispatch::decide(floor, annotations, allowed, unavailable)?;
    let provider = runtimes::provider(decision.isolation)
        .ok_or_else(|| Error::internal(runtimes::not_built(decision.isolation)))?;
    Ok((provider, config.of_pod(provider, &decision.settings)?))
}

/// Why an isolation can't be had of this binary on this node, as that is configured, if it can't.
fn unavailable(isolation: Isolation, config: &Config) -> Option<String> {
    match runtimes::provider(isolation) {
        Some(provider) => provider.unavailable(&config.settings(provider)),
        None => Some(runtimes::not_built(isolation)),
    }
}

impl Candidates {
    /// Prepares what the choice is among: the one that it has fallen on, or all that are not weaker than
    /// `floor`. The calling process must have one thread.
    ///
    /// # Errors
    /// If one can't be prepared.
    pub fn prepare(floor: Isolation, shim: ShimCgroup, choice: Choice) -> Result<Self> {
        let wanted = |provider: &dyn Provider| match &choice {
            Choice::Made(made, _) => provider.isolation() == made.isolation(),
            Choice::Open(_) => provider.isolation() >= floor,
        };
        let mut prepared = Vec::new();
        for provider in PROVIDERS.iter().filter(|provider| wanted(**provider)) {
            prepared.push((*provider, provider.prepare()?));
        }
        Ok(Self {
            floor,
            shim,
            choice,
            prepared,
        })
    }

    /// Whether the choice is still to be made.
    pub fn is_open(&self) -> bool {
        matches!(self.choice, Choice::Open(_))
    }

    /// Chooses, for a pod with these annotations where the choice is open. Must be called within the event
    /// loop.
    ///
    /// # Errors
    /// What the pod asks for and can't have.
    pub fn choose(self, annotations: &Annotations) -> Result<Chosen> {
        let (provider, settings) = match self.choice {
            Choice::Made(provider, settings) => (provider, settings),
            Choice::Open(config) => decide(self.floor, annotations, &config)?,
        };
        let isolation = provider.isolation();
        if isolation < self.floor {
            return Err(Error::internal(format!(
                "the pod is to be at least {}, and its runtime is {isolation}",
                self.floor
            )));
        }
        let mut prepared = self.prepared.into_iter();
        let (_, prepared) = prepared
            .find(|(one, _)| one.isolation() == isolation)
            .ok_or_else(|| Error::internal(format!("the {isolation} runtime is not prepared")))?;
        Ok(Chosen {
            provider,
            runtime: prepared.runtime(&settings, self.shim)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dispatch::ISOLATION;

    fn open(floor: Isolation) -> Candidates {
        let config = Config::load(Path::new("/nowhere/trefoil")).expect("the defaults");
        Candidates::prepare(floor, ShimCgroup::Pod, Choice::Open(config)).expect("prepared")
    }

    #[test]
    fn what_is_weaker_than_the_handler_is_not_prepared() {
        let candidates = open(Isolation::MicroVm);
        let isolations = candidates.prepared.iter();
        let isolations: Vec<_> = isolations.map(|(one, _)| one.isolation()).collect();
        assert!(isolations.contains(&Isolation::MicroVm), "{isolations:?}");
        assert!(
            !isolations.contains(&Isolation::Namespace),
            "{isolations:?}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_annotation_that_lowers_is_refused() {
        let lower = Annotations::from([(ISOLATION.to_owned(), "namespace".to_owned())]);
        let why = open(Isolation::MicroVm).choose(&lower).err();
        let why = why.expect("refused").to_string();
        assert!(why.contains("may only raise it"), "{why}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_choice_that_was_made_is_kept() {
        let config = Config::load(Path::new("/nowhere/trefoil")).expect("the defaults");
        let provider = runtimes::provider(Isolation::MicroVm).expect("there is one");
        let settings = config.of_pod(provider, &[]).expect("right");
        let choice = Choice::Made(provider, settings);
        let candidates = Candidates::prepare(Isolation::Namespace, ShimCgroup::Own, choice);
        let candidates = candidates.expect("prepared");
        assert!(!candidates.is_open() && candidates.prepared.len() == 1);
        let chosen = candidates.choose(&Annotations::new()).expect("chosen");
        assert_eq!(chosen.provider.isolation(), Isolation::MicroVm);
    }
}
