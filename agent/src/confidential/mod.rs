//! What only a confidential guest's agent does: the guest of a host that is not believed.
//!
//! [`tee`] says what the guest was launched as, and by that which initdata is the author's. A pod's
//! layers are verified ([`layers`]), what it writes is encrypted if the host keeps it ([`scratch`]), and what
//! the host brings of volumes are bytes ([`volumes`]).

pub(crate) mod corruption;
mod ext4;
mod guarded;
pub(crate) mod layers;
mod mounted;
pub(crate) mod root;
pub(crate) mod scratch;
pub(crate) mod tee;
mod tree;
pub(crate) mod volumes;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::Notify;
use trefoil_agent_protocol::service::{CreateContainerRequest, PutFilesRequest, SetUpRequest};
use trefoil_core::{Error, Result};
use trefoil_initdata::{Initdata, POLICY};
use trefoil_os::lock;
use trefoil_policy::{Gate, Layer, Policy, Protection};

use corruption::Corruption;
use layers::VerifiedDisks;
use root::Root;
use scratch::Scratch;
use tee::Tee;
use volumes::Volumes;

use crate::secrets::{self, PodSecrets};

/// Whose guest it is: the author's of the pod, once the host has brought what that author has bound to it.
#[derive(Default)]
pub(crate) struct Author {
    tee: OnceLock<Tee>,
    corruption: Arc<Corruption>,
    pod: OnceLock<Confidential>,
    /// Why the guest is to end.
    end: Mutex<Option<Error>>,
    ending: Notify,
}

impl Author {
    /// Of a guest in this TEE.
    pub(crate) fn of(tee: Tee) -> Arc<Self> {
        Arc::new(Self {
            tee: tee.into(),
            ..Self::default()
        })
    }

    /// Becomes the pod of the initdata that a request brings, and answers with the gate of its policy.
    ///
    /// # Errors
    /// What is wrong with the initdata or its policy, or what the kernel says.
    pub(crate) fn open(&self, request: &SetUpRequest) -> Result<Gate> {
        let tee = self.tee.get();
        let tee = tee.ok_or_else(|| Error::internal("nobody has looked which TEE this is"))?;
        let initdata = initdata(tee, request)?;
        let policy = policy(&initdata)?;
        let sealed = secrets::sealed_values(&policy);
        let protection = match tee.is_simulated() {
            true => Protection::Simulated,
            false => Protection::Tee,
        };
        let gate = Gate::new(policy, protection)
            .map_err(|denial| Error::precondition(denial.to_string()))?;
        let simulated = tee.is_simulated();
        let secrets = PodSecrets::of(
            &initdata,
            &request.initdata,
            sealed,
            tee.evidence(),
            simulated,
        )?;
        // Beside all that follows, and most of that waits for disks.
        secrets.begin();
        let confidential = Confidential::make(request, &self.corruption, secrets)?;
        let set = self.pod.set(confidential);
        set.map_err(|_| Error::precondition("the guest is a pod's already"))?;
        Ok(gate)
    }

    /// Ends the guest, for a reason.
    pub(crate) fn give_up(&self, why: Error) {
        lock(&self.end).get_or_insert(why);
        self.ending.notify_one();
    }

    /// The pod.
    ///
    /// # Errors
    /// If there is none yet.
    pub(crate) fn pod(&self) -> Result<&Confidential> {
        let none = || Error::precondition("the guest has not been set up");
        self.pod.get().ok_or_else(none)
    }

    /// Resolves when something has happened that the pod can't go on after, and says what.
    pub(crate) async fn failed(&self) -> Error {
        tokio::select! {
            found = self.corruption.found() => found.map_or_else(|why| why, Error::precondition),
            () = self.ending.notified() => {
                let end = lock(&self.end).take();
                end.unwrap_or_else(|| Error::internal("the guest is to end"))
            }
        }
    }
}

/// What a confidential guest is once it is a pod's.
pub(crate) struct Confidential {
    disks: VerifiedDisks,
    scratch: Arc<Scratch>,
    volumes: Volumes,
    secrets: PodSecrets,
}

impl Confidential {
    /// Makes what the pod's containers have in common.
    ///
    /// # Errors
    /// What the kernel says.
    fn make(
        request: &SetUpRequest,
        corruption: &Arc<Corruption>,
        secrets: PodSecrets,
    ) -> Result<Self> {
        let scratch = Arc::new(Scratch::make(request.scratch.as_ref(), corruption)?);
        Ok(Self {
            secrets,
            disks: VerifiedDisks::new(corruption.clone()),
            volumes: Volumes::new(scratch.clone()),
            scratch,
        })
    }

    /// Makes a container's root of what a request names: `layers` are what the policy says that these must
    /// be, the uppermost first; none if it allows any.
    ///
    /// # Errors
    /// What is wrong with the request, or with a layer.
    pub(crate) fn root(
        &self,
        request: &CreateContainerRequest,
        layers: Option<&[Layer]>,
    ) -> Result<Root> {
        let (container, rootfs) = (&request.container, &request.rootfs);
        let wrong = |what: &str| Err(Error::invalid(format!("the root of {container}: {what}")));
        if !rootfs.share.is_empty() || rootfs.layers.is_some() || rootfs.writable.is_some() {
            return wrong("a confidential guest takes verified layers and nothing else");
        }
        let Some(disk) = rootfs.verified.as_ref() else {
            return wrong("it has no verified layers");
        };
        let called = match request.name.as_str() {
            "" => container,
            name => name,
        };
        self.disks
            .hold(called, disk, layers)
            .and_then(|disk| Root::make(container, disk, &self.scratch))
            .map_err(|why| why.context(format!("make the root of {container}")))
    }

    /// Where what the source of a container's mount names is; it is made if need be.
    ///
    /// # Errors
    /// If it names nothing that a confidential guest has.
    pub(crate) fn volume(&self, container: &str, source: &str) -> Result<PathBuf> {
        self.volumes.place(container, source)
    }

    /// Removes what was made for a container that there is not.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn forget(&self, container: &str) -> Result<()> {
        root::forget(container, self.scratch.path())
    }

    /// The pod's secrets.
    pub(crate) fn secrets(&self) -> &PodSecrets {
        &self.secrets
    }

    /// Makes a volume of files, or replaces what is in it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn put_files(&self, request: &PutFilesRequest) -> Result<()> {
        self.volumes.put(request)
    }
}

/// The initdata that a request brings, which is compared with what the TEE says before anything of it is read.
fn initdata(tee: &Tee, request: &SetUpRequest) -> Result<Initdata> {
    if request.initdata.is_empty() {
        return Err(Error::precondition(
            "there is no initdata: without it nothing may start",
        ));
    }
    Initdata::open(&request.initdata, tee.bound())
        .map_err(|why| Error::precondition(why.to_string()))
}

/// The policy in a pod's initdata.
fn policy(initdata: &Initdata) -> Result<Policy> {
    let policy = initdata
        .get(POLICY)
        .ok_or_else(|| Error::precondition(format!("the initdata has no {POLICY}")))?;
    Policy::from_json(policy.as_bytes())
        .map_err(|why| Error::precondition(format!("the initdata's {POLICY}: {why}")))
}
