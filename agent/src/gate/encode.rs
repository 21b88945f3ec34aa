//! Messages for the rest of the agent, made of what has passed.

use protobuf::EnumOrUnknown;
use trefoil_agent_protocol::service::{
    AdjustClockRequest, ContainerRequest, CreateContainerRequest, Disk, ExecRequest,
    File as FileMessage, Filesystem, ProcessRequest, PutFilesRequest, ResizeRequest, Rootfs,
    ScratchDisk, SetUpRequest, SignalRequest, Streams as Numbers, UpdateRequest,
};
use trefoil_policy::{CreateContainer, Exec, File, LayerDisk, Resources, SetUp, Signal, Streams};

/// Without the initdata, which has been opened.
pub(super) fn set_up(passed: SetUp) -> SetUpRequest {
    let scratch = passed.scratch.map(|device| ScratchDisk {
        device,
        ..Default::default()
    });
    SetUpRequest {
        hostname: passed.hostname,
        sysctls: passed.sysctls.into_iter().collect(),
        network: passed.network,
        time: passed.time,
        seed: passed.seed,
        share: passed.share,
        scratch: scratch.into(),
        ..Default::default()
    }
}

pub(super) fn create(passed: CreateContainer) -> CreateContainerRequest {
    let rootfs = Rootfs {
        verified: passed.root.verified.map(disk).into(),
        ..Default::default()
    };
    CreateContainerRequest {
        configuration: passed.configuration.to_json(),
        container: passed.container,
        name: passed.name,
        rootfs: Some(rootfs).into(),
        streams: Some(streams(passed.streams)).into(),
        ..Default::default()
    }
}

fn disk(disk: LayerDisk) -> Disk {
    Disk {
        device: disk.device,
        filesystem: EnumOrUnknown::new(Filesystem::EROFS),
        parts: disk.parts,
        ..Default::default()
    }
}

pub(super) fn streams(passed: Streams) -> Numbers {
    Numbers {
        terminal: passed.terminal,
        stdin: passed.stdin,
        stdout: passed.stdout,
        stderr: passed.stderr,
        ..Default::default()
    }
}

/// The streams of a process whose output is withheld.
pub(super) fn without_output(passed: Streams) -> Numbers {
    streams(Streams {
        stdout: 0,
        stderr: 0,
        ..passed
    })
}

/// The streams that are withheld of it.
pub(super) fn outputs(passed: Streams) -> Numbers {
    streams(Streams {
        terminal: false,
        stdin: 0,
        ..passed
    })
}

pub(super) fn exec(passed: Exec) -> ExecRequest {
    ExecRequest {
        configuration: passed.configuration.to_json(),
        container: passed.container,
        process: passed.process,
        streams: Some(streams(passed.streams)).into(),
        ..Default::default()
    }
}

pub(super) fn container(container: String) -> ContainerRequest {
    ContainerRequest {
        container,
        ..Default::default()
    }
}

pub(super) fn process(container: String, process: String) -> ProcessRequest {
    ProcessRequest {
        container,
        process,
        ..Default::default()
    }
}

pub(super) fn signal(passed: Signal) -> SignalRequest {
    SignalRequest {
        container: passed.container,
        process: passed.process,
        signal: passed.signal,
        all: passed.all,
        ..Default::default()
    }
}

pub(super) fn resize(container: String, process: String, width: u16, height: u16) -> ResizeRequest {
    ResizeRequest {
        container,
        process,
        width: width.into(),
        height: height.into(),
        ..Default::default()
    }
}

pub(super) fn update(container: String, resources: &Resources) -> UpdateRequest {
    UpdateRequest {
        container,
        resources: resources.to_json(),
        ..Default::default()
    }
}

pub(super) fn put_files(volume: String, files: Vec<File>) -> PutFilesRequest {
    let files = files.into_iter().map(|file| FileMessage {
        path: file.path,
        contents: file.contents,
        mode: file.mode,
        user: file.owner.user,
        group: file.owner.group,
        ..Default::default()
    });
    PutFilesRequest {
        volume,
        files: files.collect(),
        ..Default::default()
    }
}

pub(super) fn adjust_clock(offset: i64, step: bool) -> AdjustClockRequest {
    AdjustClockRequest {
        offset,
        step,
        ..Default::default()
    }
}
