//! The host's messages as values of a closed enum. A message with a field that this agent does not know
//! is denied: an agent that passes over it would do something else than was asked.

use std::fmt::Display;

use protobuf::{EnumOrUnknown, MessageField, SpecialFields};
use trefoil_agent_protocol::service::{
    AdjustClockRequest, ContainerRequest, CreateContainerRequest, Disk, ExecRequest, Filesystem,
    Nothing, ProcessRequest, PutFilesRequest, ResizeRequest, Rootfs, SetUpRequest, SignalRequest,
    Streams as Numbers, UpdateRequest, VolumeRequest,
};
use trefoil_policy::{
    Check, Configuration, CreateContainer, Denial, Exec, File, HostProcess, LayerDisk, Owner,
    Request, Resources, Root, SetUp, Signal, Streams,
};

type Decoded<T = Request> = Result<T, Denial>;

/// Sees to it that a message has no field but its own.
fn known(message: impl Display, special: &SpecialFields) -> Decoded<()> {
    match special.unknown_fields().iter().next() {
        Some((number, _)) if Check::Unknown.is_made() => Err(Denial::new(
            Check::Unknown,
            message,
            format_args!("a field of number {number} came"),
            "the fields of the agent's protocol",
        )),
        _ => Ok(()),
    }
}

pub(super) fn set_up(request: &SetUpRequest) -> Decoded<SetUp> {
    known("SetUp", &request.special_fields)?;
    if let Some(scratch) = request.scratch.as_ref() {
        known("SetUp.scratch", &scratch.special_fields)?;
    }
    let sysctls = request.sysctls.iter();
    let sysctls = sysctls.map(|(name, value)| (name.clone(), value.clone()));
    Ok(SetUp {
        hostname: request.hostname.clone(),
        sysctls: sysctls.collect(),
        network: network(&request.network)?,
        time: request.time,
        seed: request.seed.clone(),
        share: request.share,
        scratch: request.scratch.as_ref().map(|scratch| scratch.device),
    })
}

/// What is left of the JSON once it has been read into types that know all of its fields.
fn network(json: &[u8]) -> Decoded<Vec<u8>> {
    if json.is_empty() {
        return Ok(Vec::new());
    }
    let read = serde_json::from_slice::<trefoil_netlink::Network>(json);
    read.and_then(|network| serde_json::to_vec(&network))
        .map_err(|why| {
            let came = format_args!("it can't be read: {why}");
            Denial::new(Check::Malformed, "SetUp.network", came, "a pod's network")
        })
}

pub(super) fn create(request: CreateContainerRequest) -> Decoded {
    known("CreateContainer", &request.special_fields)?;
    let within = |denial: Denial| denial.within("CreateContainer");
    Ok(Request::CreateContainer(Box::new(CreateContainer {
        configuration: Configuration::from_json(&request.configuration).map_err(within)?,
        root: root(&request.rootfs)?,
        streams: streams("CreateContainer", &request.streams)?,
        container: request.container,
        name: request.name,
    })))
}

fn root(rootfs: &MessageField<Rootfs>) -> Decoded<Root> {
    let Some(rootfs) = rootfs.as_ref() else {
        return Ok(Root::default());
    };
    known("CreateContainer.rootfs", &rootfs.special_fields)?;
    let disks = [
        ("layers", &rootfs.layers),
        ("writable", &rootfs.writable),
        ("verified", &rootfs.verified),
    ];
    for (name, disk) in disks {
        if let Some(disk) = disk.as_ref() {
            let message = format_args!("CreateContainer.rootfs.{name}");
            known(message, &disk.special_fields)?;
        }
    }
    Ok(Root {
        share: rootfs.share.clone(),
        plain: rootfs.layers.is_some(),
        writable: rootfs.writable.is_some(),
        verified: rootfs.verified.as_ref().map(disk),
    })
}

fn disk(disk: &Disk) -> LayerDisk {
    LayerDisk {
        device: disk.device,
        erofs: disk.filesystem == EnumOrUnknown::new(Filesystem::EROFS),
        parts: disk.parts.clone(),
    }
}

fn streams(of: &str, numbers: &MessageField<Numbers>) -> Decoded<Streams> {
    let Some(numbers) = numbers.as_ref() else {
        return Ok(Streams::default());
    };
    known(format_args!("{of}.streams"), &numbers.special_fields)?;
    Ok(Streams {
        terminal: numbers.terminal,
        stdin: numbers.stdin,
        stdout: numbers.stdout,
        stderr: numbers.stderr,
    })
}

pub(super) fn exec(request: ExecRequest) -> Decoded {
    known("Exec", &request.special_fields)?;
    let configuration =
        HostProcess::from_json(&request.configuration).map_err(|denial| denial.within("Exec"))?;
    Ok(Request::Exec(Box::new(Exec {
        configuration,
        streams: streams("Exec", &request.streams)?,
        container: request.container,
        process: request.process,
    })))
}

/// A request about a container as a whole.
pub(super) fn container(
    name: &str,
    request: ContainerRequest,
    make: fn(String) -> Request,
) -> Decoded {
    known(name, &request.special_fields)?;
    Ok(make(request.container))
}

/// A request about one process.
pub(super) fn process(
    name: &str,
    request: ProcessRequest,
    make: fn(String, String) -> Request,
) -> Decoded {
    known(name, &request.special_fields)?;
    Ok(make(request.container, request.process))
}

/// A request that says nothing.
pub(super) fn nothing(name: &str, message: &Nothing, request: Request) -> Decoded {
    known(name, &message.special_fields)?;
    Ok(request)
}

pub(super) fn signal(request: SignalRequest) -> Decoded {
    known("Signal", &request.special_fields)?;
    Ok(Request::Signal(Signal {
        container: request.container,
        process: request.process,
        signal: request.signal,
        all: request.all,
    }))
}

pub(super) fn resize(request: ResizeRequest) -> Decoded {
    known("Resize", &request.special_fields)?;
    let characters = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Ok(Request::Resize {
        container: request.container,
        process: request.process,
        width: characters(request.width),
        height: characters(request.height),
    })
}

pub(super) fn update(request: UpdateRequest) -> Decoded {
    known("Update", &request.special_fields)?;
    let resources =
        Resources::from_json(&request.resources).map_err(|denial| denial.within("Update"))?;
    Ok(Request::Update {
        container: request.container,
        resources: Box::new(resources),
    })
}

pub(super) fn refresh(request: VolumeRequest) -> Decoded {
    known("RefreshVolume", &request.special_fields)?;
    Ok(Request::RefreshVolume {
        share: request.share,
    })
}

pub(super) fn put_files(request: PutFilesRequest) -> Decoded {
    known("PutFiles", &request.special_fields)?;
    for (at, file) in request.files.iter().enumerate() {
        let of = format_args!("PutFiles.files[{at}]");
        known(of, &file.special_fields)?;
        if (file.user, file.group) != (0, 0) && Check::Unknown.is_made() {
            return Err(Denial::new(
                Check::Unknown,
                of,
                "an owner came",
                "none: whose it is stands in the policy",
            ));
        }
    }
    let files = request.files.into_iter().map(|file| File {
        path: file.path,
        contents: file.contents,
        mode: file.mode,
        owner: Owner::default(),
    });
    Ok(Request::PutFiles {
        volume: request.volume,
        files: files.collect(),
    })
}

pub(super) fn adjust_clock(request: &AdjustClockRequest) -> Decoded {
    known("AdjustClock", &request.special_fields)?;
    Ok(Request::AdjustClock {
        offset: request.offset,
        step: request.step,
    })
}
