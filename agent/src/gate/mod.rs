//! What stands between a confidential pod's host and the rest of the agent.
//!
//! Every request of the host's comes here first: [`decode`] makes it a value of the policy's closed enum,
//! the policy's [`Gate`] decides about it, and [`encode`] makes a new message of what has passed. The
//! message that came is dropped, so nothing else of the agent ever sees it. What the gate has to know of
//! the pod (that a container ended) it hears from the agent, not from the host.

mod decode;
mod encode;
mod service;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use trefoil_agent_protocol::service::{
    Agent, ContainerRequest, CreateContainerRequest, ExecRequest, ProcessStarted, PutFilesRequest,
    SetUpRequest, Streams,
};
use trefoil_core::{Error, Result};
use trefoil_os::lock;
use trefoil_policy::{Approved, Denial, Gate, GrantedRoot, Output, Request};

use crate::secrets::is_sealed;
use crate::service::Bound;

/// What a container's log says whose output is withheld.
const NO_LOGS: &str =
    "The pod's policy keeps its containers' output from the host: knobs.logs is off.\n";

/// What is behind the gate.
#[async_trait]
pub(crate) trait Guarded: Agent + Send + Sync + 'static {
    /// Finds the policy: in the initdata of a request, once it is known to be that of the pod's author.
    ///
    /// # Errors
    /// Why the initdata is not the author's, or has no policy.
    fn open(&self, request: &SetUpRequest) -> Result<Gate>;

    /// Makes a container of what the policy grants.
    ///
    /// # Errors
    /// What making it fails with.
    async fn make(
        &self,
        request: CreateContainerRequest,
        root: GrantedRoot,
        bound: Bound,
    ) -> Result<ProcessStarted>;

    /// Starts a container.
    ///
    /// # Errors
    /// What starting it fails with.
    async fn start(&self, request: ContainerRequest) -> Result<()>;

    /// Deletes a container.
    ///
    /// # Errors
    /// What deleting it fails with.
    async fn remove(&self, request: ContainerRequest) -> Result<()>;

    /// Runs one more process in a container.
    ///
    /// # Errors
    /// What running it fails with.
    async fn run(&self, request: ExecRequest, bound: Bound) -> Result<ProcessStarted>;

    /// Makes a volume of files, or makes it anew.
    ///
    /// # Errors
    /// What is wrong with the files, or what writing them fails with.
    async fn put(&self, request: PutFilesRequest, bound: Bound) -> Result<()>;

    /// Waits for the end of a container that is there now, and says whether it was with success.
    fn end_of(&self, container: &str) -> Option<BoxFuture<'static, bool>>;

    /// Takes the streams of a process that is to have none, writes a line to its output, and closes them.
    fn withhold(&self, streams: Streams, line: &'static str);

    /// Ends the guest, for a reason.
    fn give_up(&self, why: Error);
}

/// A pod behind its gate.
pub(crate) struct Gated<P> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    pod: P,
    /// There is none before the host has brought the author's policy.
    gate: Mutex<Option<Gate>>,
    /// Those that wait for containers' ends.
    watchers: Mutex<HashMap<String, JoinHandle<()>>>,
}

/// What a denial is to the host.
fn denied(denial: &Denial) -> Error {
    Error::precondition(denial.to_string())
}

impl<P: Guarded> Gated<P> {
    /// Puts a pod behind a gate that is closed until the host has brought a policy.
    pub(crate) fn new(pod: P) -> Self {
        Self {
            inner: Arc::new(Inner {
                pod,
                gate: Mutex::default(),
                watchers: Mutex::default(),
            }),
        }
    }

    /// Says whether the host may connect to a port of the guest's.
    pub(crate) fn forwards(&self) -> impl Fn(u16) -> Result<()> + Send + Sync + 'static {
        let inner = self.inner.clone();
        move |port| inner.admit(Request::Forward { port }).map(drop)
    }
}

impl<P: Guarded> Inner<P> {
    /// The one place where requests are decided on.
    fn admit(&self, request: Request) -> Result<Approved> {
        let decided = match lock(&self.gate).as_mut() {
            Some(gate) => gate.decide(request),
            None => Gate::without_policy(request),
        };
        decided.map_err(|denial| {
            log::warn!("{denial}");
            denied(&denial)
        })
    }

    /// Tells the gate something, if there is one.
    fn tell(&self, what: impl FnOnce(&mut Gate)) {
        if let Some(gate) = lock(&self.gate).as_mut() {
            what(gate);
        }
    }

    /// Opens the gate, if the set-up is what its own policy allows.
    fn open(self: &Arc<Self>, request: &SetUpRequest) -> Result<Approved> {
        let asked = decode::set_up(request).map_err(|denial| denied(&denial))?;
        let mut gate = lock(&self.gate);
        let mut opened = match gate.take() {
            // It says that it is set up already.
            Some(open) => open,
            None => self.pod.open(request)?,
        };
        let was_open = opened.is_set_up();
        let decided = opened.decide(Request::SetUp(asked));
        if was_open || decided.is_ok() {
            *gate = Some(opened);
        }
        decided.map_err(|denial| denied(&denial))
    }

    /// Ends the guest if a container that the pod's author requires has not been started in time.
    fn expect_required(self: &Arc<Self>) {
        let within = lock(&self.gate)
            .as_ref()
            .and_then(|gate| gate.policy().sandbox.start_within);
        let Some(within) = within else { return };
        let inner = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(within.into())).await;
            let missing = lock(&inner.gate)
                .as_ref()
                .and_then(|gate| gate.missing().next().map(str::to_owned));
            if let Some(name) = missing {
                inner.pod.give_up(Error::precondition(format!(
                    "container {name} has not been started within {within} s, and the policy requires it"
                )));
            }
        });
    }

    /// Makes a container, and hears of its end.
    async fn create(self: &Arc<Self>, request: CreateContainerRequest) -> Result<ProcessStarted> {
        let asked = decode::create(request).map_err(|denial| denied(&denial))?;
        let approved = self.admit(asked)?;
        let Request::CreateContainer(create) = approved.request else {
            return Err(Error::internal("the gate made another request of this one"));
        };
        let root = approved
            .root
            .ok_or_else(|| Error::internal("the gate granted no root"))?;
        let (id, streams) = (create.container.clone(), create.streams);
        let bound = bound_variables(&create.configuration.process.env, &approved.bound);
        let mut message = encode::create(*create);
        if approved.output == Output::Withheld {
            message.streams = Some(encode::without_output(streams)).into();
            self.pod.withhold(encode::outputs(streams), NO_LOGS);
        }
        let made = self.pod.make(message, root, bound).await;
        match (&made, self.pod.end_of(&id)) {
            (Ok(_), Some(end)) => self.watch(id, end),
            _ => self.tell(|gate| gate.not_created(&id)),
        }
        made
    }

    /// Starts a container: only when it has been, those may be made that wait for it.
    async fn start(&self, request: ContainerRequest) -> Result<()> {
        let asked = decode::container("StartContainer", request, |container| {
            Request::StartContainer { container }
        });
        let approved = self.admit(asked.map_err(|denial| denied(&denial))?)?;
        let (Request::StartContainer { container }, Some(start)) =
            (approved.request, approved.start)
        else {
            return Err(Error::internal("the gate made another request of this one"));
        };
        let started = self.pod.start(encode::container(container)).await;
        self.tell(|gate| match started.is_ok() {
            true => gate.started(start),
            false => gate.not_started(start),
        });
        started
    }

    /// Brings the files of a volume: only when they are there, it may be mounted.
    async fn put_files(&self, request: PutFilesRequest) -> Result<()> {
        let asked = decode::put_files(request).map_err(|denial| denied(&denial))?;
        let approved = self.admit(asked)?;
        let Request::PutFiles { volume, files } = approved.request else {
            return Err(Error::internal("the gate made another request of this one"));
        };
        let bound = approved.bound.iter().filter_map(|at| files.get(*at));
        let bound = bound.map(|file| file.path.clone()).collect();
        let message = encode::put_files(volume.clone(), files);
        let put = self.pod.put(message, bound).await;
        self.tell(|gate| match put.is_ok() {
            true => gate.filled(&volume),
            false => gate.not_filled(&volume),
        });
        put
    }

    /// Tells the gate when a container has ended.
    fn watch(self: &Arc<Self>, container: String, end: BoxFuture<'static, bool>) {
        let inner = self.clone();
        let id = container.clone();
        let watcher = tokio::spawn(async move {
            let success = end.await;
            inner.tell(|gate| gate.ended(&id, success));
        });
        lock(&self.watchers).insert(container, watcher);
    }

    /// Forgets a container that has been deleted: only when all is known of its end, as its name may be
    /// another's from then on.
    async fn forget(&self, container: &str) {
        let watcher = lock(&self.watchers).remove(container);
        if let Some(watcher) = watcher
            && let Err(why) = watcher.await
        {
            log::warn!("watch container {container}: {why}");
        }
        self.tell(|gate| gate.deleted(container));
    }
}

/// Those variables of a process that are bound and sealed: nobody asks for others.
fn bound_variables(variables: &[String], bound: &[usize]) -> Bound {
    let bound = bound.iter().filter_map(|at| variables.get(*at));
    bound.filter(|one| is_sealed(one)).cloned().collect()
}
