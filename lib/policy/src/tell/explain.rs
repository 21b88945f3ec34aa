//! What a policy allows, in sentences.

use crate::{
    Command, Container, Content, Env, ExecRule, FileRule, Kind, Medium, Mount, MountKind, Owner,
    Pattern, Policy, Restart, Seccomp, Volume, VolumeKind,
};

impl Policy {
    /// What it allows, one sentence in each line. No line shows what is secret.
    #[must_use]
    pub fn explain(&self) -> Vec<String> {
        if self.permissive {
            return vec![
                "It allows everything, and is valid under a simulated TEE alone.".to_owned(),
            ];
        }
        let mut lines = self.explain_sandbox();
        lines.extend(self.volumes.iter().map(explain_volume));
        for container in &self.containers {
            lines.extend(explain_container(container));
        }
        lines.extend(self.explain_knobs());
        lines
    }

    fn explain_sandbox(&self) -> Vec<String> {
        let sandbox = &self.sandbox;
        let mut lines = vec![format!("The pod's hostname is {}.", sandbox.hostname)];
        for sysctl in &sandbox.sysctls {
            let value = &sysctl.value;
            lines.push(format!(
                "The kernel's setting {} is {value:?}.",
                sysctl.name
            ));
        }
        if let Some(within) = sandbox.start_within {
            let required = self.containers.iter().filter(|one| one.required);
            let names: Vec<_> = required.map(|one| one.name.as_str()).collect();
            lines.push(format!(
                "The guest ends unless {} has started within {within} seconds.",
                names.join(", ")
            ));
        }
        lines
    }

    fn explain_knobs(&self) -> Vec<String> {
        let knobs = &self.knobs;
        let ports: Vec<_> = knobs.port_forward.iter().map(u16::to_string).collect();
        let say = |on: bool, what: &str| match on {
            true => format!("The host may {what}."),
            false => format!("The host may not {what}."),
        };
        vec![
            say(
                knobs.logs,
                "read what containers write to their output (logs)",
            ),
            say(knobs.attach, "attach to the containers' terminals (attach)"),
            say(knobs.stdin, "write to the containers' input (stdin)"),
            say(knobs.kernel_log, "read the guest's kernel log (kernel_log)"),
            match ports.is_empty() {
                true => say(
                    false,
                    "connect to the pod's ports past its network (port_forward)",
                ),
                false => format!(
                    "The host may connect to ports {} past the pod's network (port_forward).",
                    ports.join(", ")
                ),
            },
        ]
    }
}

fn explain_volume(volume: &Volume) -> String {
    let name = &volume.name;
    match &volume.kind {
        VolumeKind::EmptyDir { medium, .. } => {
            let medium = match medium {
                Medium::Memory => "in the guest's memory",
                Medium::Encrypted => "on the guest's encrypted disk",
            };
            format!("Volume {name} is a directory {medium}, empty at first.")
        }
        VolumeKind::EmptyFile => {
            format!("Volume {name} is a file of each container's own, empty at first.")
        }
        VolumeKind::Files {
            files,
            update,
            known_to_host,
            ..
        } => {
            let files: Vec<_> = files.iter().map(explain_file).collect();
            let update = if *update {
                ", also anew while containers run"
            } else {
                ""
            };
            let known = if *known_to_host {
                ", and knows them"
            } else {
                ""
            };
            let files = files.join("; ");
            format!("The host brings the files of volume {name}{update}{known}: {files}.")
        }
    }
}

fn explain_file(rule: &FileRule) -> String {
    let path = match &rule.path {
        Pattern::Exact(path) if path.is_empty() => "the file".to_owned(),
        path => path.to_string(),
    };
    let file = match &rule.content {
        Content::Digest(digest) => format!("{path} of the digest {digest}"),
        Content::Sealed(_) => format!("{path}, a sealed secret that the guest unseals"),
        Content::AtMost(most) => format!("{path} with anything of at most {most} bytes"),
    };
    match rule.owner {
        Owner { user: 0, group: 0 } => file,
        Owner { user, group } => format!("{file}, of user {user} and group {group}"),
    }
}

fn explain_container(container: &Container) -> Vec<String> {
    let name = &container.name;
    let process = &container.process;
    let mut lines = vec![
        explain_order(container),
        format!(
            "Container {name} is of {} layers of image {}; its root {}.",
            container.layers.len(),
            container.image,
            if container.read_only_root {
                "can't be written to"
            } else {
                "may be written to"
            },
        ),
        format!(
            "Container {name} runs {:?} in {} as user {} and group {}.",
            process.command, process.cwd, process.user.uid, process.user.gid
        ),
    ];
    lines.extend(process.env.iter().map(|env| explain_env(name, env)));
    lines.push(explain_privileges(container));
    lines.extend(
        container
            .mounts
            .iter()
            .map(|mount| explain_mount(name, mount)),
    );
    for device in &container.devices {
        lines.push(format!("Container {name} has the device {}.", device.path));
    }
    if container.update.is_some() {
        lines.push(format!(
            "The host may change the limits of container {name} within bounds."
        ));
    }
    match container.exec.as_slice() {
        [] => lines.push(format!(
            "The host may run nothing else in container {name}."
        )),
        rules => lines.extend(rules.iter().map(|rule| explain_exec(name, rule))),
    }
    lines
}

fn explain_order(container: &Container) -> String {
    let kind = match container.kind {
        Kind::Init => "an init container, which runs until it has ended with success once",
        Kind::Sidecar => "a sidecar",
        Kind::App => "one of the pod's containers",
    };
    let restart = match container.restart {
        Restart::Never => "never restarted",
        Restart::OnFailure => "restarted when it failed",
        Restart::Always => "restarted when it ended",
    };
    let after: Vec<_> = container.after.iter().map(String::as_str).collect();
    let after = match after.is_empty() {
        true => String::new(),
        false => format!(", and starts after {}", after.join(", ")),
    };
    format!(
        "Container {} is {kind}; it is {restart}{after}.",
        container.name
    )
}

fn explain_env(name: &str, env: &Env) -> String {
    let variable = match &env.name {
        Pattern::Exact(variable) => variable.clone(),
        pattern => format!("that is {pattern}"),
    };
    let value = match env.secret {
        true => "secret".to_owned(),
        false => env.value.to_string(),
    };
    let may = if env.optional { "may have" } else { "has" };
    format!("Container {name} {may} the variable {variable}, whose value is {value}.")
}

fn explain_privileges(container: &Container) -> String {
    let sets = &container.process.capabilities;
    let capabilities: Vec<_> = sets.bounding.iter().map(|one| one.name()).collect();
    let capabilities = match capabilities.is_empty() {
        true => "no capabilities".to_owned(),
        false => format!("at most {}", capabilities.join(", ")),
    };
    let filter = match container.seccomp {
        Seccomp::Unconfined => "no filter of system calls",
        Seccomp::Profile(_) => "the policy's filter of system calls",
    };
    let more = match container.process.no_new_privileges {
        true => "can't gain privileges",
        false => "may gain privileges by programs that give them",
    };
    format!(
        "Container {} has {capabilities} and {filter}, and {more}.",
        container.name
    )
}

fn explain_mount(name: &str, mount: &Mount) -> String {
    let what = match &mount.kind {
        MountKind::Proc => "proc".to_owned(),
        MountKind::Sysfs => "sysfs".to_owned(),
        MountKind::Devpts => "devpts".to_owned(),
        MountKind::Mqueue => "mqueue".to_owned(),
        MountKind::Cgroup => "its cgroup".to_owned(),
        MountKind::Tmpfs => "memory of its own".to_owned(),
        MountKind::SharedMemory => "the memory that the pod shares".to_owned(),
        MountKind::Volume { name, sub_path } => match sub_path {
            None => format!("volume {name}"),
            Some(path) => format!("{path} of volume {name}"),
        },
    };
    format!("Container {name} has {what} at {}.", mount.destination)
}

fn explain_exec(name: &str, rule: &ExecRule) -> String {
    let Command { arguments, more } = &rule.command;
    let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
    let more = if *more { " and whatever follows" } else { "" };
    let with = [
        (rule.terminal, "a terminal"),
        (rule.stdin, "its input"),
        (rule.output, "its output"),
    ];
    let with: Vec<_> = with
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, what)| what)
        .collect();
    let with = match with.is_empty() {
        true => ", and gets nothing of it but how it ended".to_owned(),
        false => format!(", with {}", with.join(", ")),
    };
    let command = arguments.join(" ");
    format!("The host may run {command}{more} in container {name}{with}.")
}
