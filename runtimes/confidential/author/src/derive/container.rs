//! A container of the policy.

use std::collections::BTreeSet;

use trefoil_policy::{
    Command, Container, ExecRule, Kind, Namespace, Paths, Pattern, Process, Range, ResourceBounds,
    Restart,
};

use crate::image::Image;
use crate::manifest::container::{Container as Declared, Resources, SidecarPolicy};
use crate::manifest::pod::RestartPolicy;
use crate::yaml::Fault;

use super::fields::shorten;
use super::variables::Variables;
use super::{Knobs, Pod, Result, capabilities, env, exec, mounts, sandbox, seccomp, signals, user};

/// What the kubelet has masked in `/proc` and `/sys`, in all versions.
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// What newer ones have masked, too. What they mask for each processor of the node is nothing to a guest.
const MASKED_BY_SOME: [&str; 2] = ["/proc/interrupts", "/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// All that a kubelet may reckon: it depends on the node's memory.
const OOM_SCORES: Range<i32> = Range {
    least: -1000,
    most: 1000,
};

/// Works out a container. `before` is the one that has to be there before it.
pub(super) fn of_pod(
    pod: &Pod<'_>,
    declared: &Declared,
    kind: Kind,
    before: Option<&str>,
    image: &Image,
    knobs: &Knobs,
) -> Result<Container> {
    let security = &declared.security_context;
    sandbox::check_container(security)?;
    check_resources(&declared.resources).map_err(|fault| fault.in_field("resources"))?;
    let variables = env::of_manifest(pod, declared)?;
    let mounts = mounts::of_container(pod, declared, image)?;
    let exec = allowed(pod, declared, knobs)?;
    let terminals = env::Terminals {
        own: declared.tty,
        further: exec.iter().any(|rule| rule.terminal),
    };
    let process = process(pod, declared, variables, terminals, image)?;
    let of_pod = pod.spec().security_context.seccomp_profile.as_ref();
    let profile = security.seccomp_profile.as_ref().or(of_pod);
    Ok(Container {
        name: declared.name.clone(),
        kind,
        image: image.digest,
        layers: image.layers.clone(),
        after: before.map(str::to_owned).into_iter().collect(),
        required: true,
        restart: restart(pod.spec().restart_policy, kind, declared.restart_policy),
        read_only_root: security.read_only_root_filesystem.unwrap_or_default(),
        mounts,
        namespaces: namespaces(pod.spec().share_process_namespace.unwrap_or_default()),
        seccomp: seccomp::of_container(profile, &process.capabilities.bounding)?,
        masked_paths: paths(&MASKED, &MASKED_BY_SOME),
        readonly_paths: paths(&READ_ONLY, &[]),
        devices: Vec::new(),
        device_rules: BTreeSet::new(),
        oom_score: OOM_SCORES,
        resources: ResourceBounds::default(),
        update: knobs.resize.then(|| updates(declared)),
        signals: signals::of_container(declared, image)?,
        exec,
        process,
    })
}

/// The resources that a guest has of its own.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// All others are devices of the host's, or its huge pages.
fn check_resources(resources: &Resources) -> Result<()> {
    let why = crate::manifest::refused::why("resourceClaims").unwrap_or_default();
    if !resources.claims.is_empty() {
        return Err(Fault::new(why).in_field("claims"));
    }
    for (field, amounts) in [
        ("limits", &resources.limits),
        ("requests", &resources.requests),
    ] {
        if let Some(name) = amounts
            .keys()
            .find(|name| !RESOURCES.contains(&name.as_str()))
        {
            let why = match name.starts_with("hugepages-") {
                true => "huge pages are not set aside in a guest: use memory",
                false => why,
            };
            return Err(Fault::new(why).in_field(name).in_field(field));
        }
    }
    Ok(())
}

fn process(
    pod: &Pod<'_>,
    declared: &Declared,
    variables: Variables,
    terminals: env::Terminals,
    image: &Image,
) -> Result<Process> {
    let security = &declared.security_context;
    let command = command(declared, &variables, image)?;
    Ok(Process {
        command,
        env: env::of_container(pod.hostname(), terminals, &image.config.env, variables),
        user: user::of_container(&pod.spec().security_context, declared, image)?,
        cwd: cwd(declared, image)?,
        capabilities: capabilities::of_container(&security.capabilities)?,
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        // containerd sets none of a container of Kubernetes'.
        rlimits: Vec::new(),
        terminal: declared.tty,
    })
}

/// The manifest's command and arguments in place of the image's: a command takes the place of both.
fn command(declared: &Declared, variables: &Variables, image: &Image) -> Result<Vec<String>> {
    let (command, args) = (&declared.command, &declared.args);
    let config = &image.config;
    let mut all = Vec::new();
    if command.is_empty() && config.entrypoint != [""] {
        all.extend(config.entrypoint.iter().cloned());
    }
    for (field, list) in [("command", command), ("args", args)] {
        for (number, argument) in list.iter().enumerate() {
            let fault = |fault: Fault| fault.in_item(number).in_field(field);
            let expanded = variables.expand(argument).map_err(fault)?;
            let Some(text) = expanded.exact() else {
                let unknown = expanded.unknown.join(", ");
                let why = format!(
                    "{unknown} is not known here: have the program read the variable itself"
                );
                return Err(fault(Fault::new(why)));
            };
            all.push(text.to_owned());
        }
    }
    if command.is_empty() && args.is_empty() {
        all.extend(config.cmd.iter().cloned());
    }
    match all.first() {
        Some(program) if !program.is_empty() => Ok(all),
        _ => Err(Fault::new("must be given, as the image names no program").in_field("command")),
    }
}

fn cwd(declared: &Declared, image: &Image) -> Result<String> {
    let own = declared
        .working_dir
        .as_deref()
        .filter(|path| !path.is_empty());
    let (path, field) = match own {
        Some(path) => (path, "workingDir"),
        None => (image.config.working_dir.as_str(), "image"),
    };
    let relative = path.trim_matches('/');
    if relative.is_empty() && (path.is_empty() || path.starts_with('/')) {
        return Ok("/".to_owned());
    }
    let cleaned = path
        .strip_prefix('/')
        .and_then(|path| mounts::clean(path.trim_start_matches('/')));
    let cleaned = cleaned.ok_or_else(|| {
        let why = format!(
            "its working directory {:?} must be an absolute path without ..",
            shorten(path)
        );
        Fault::new(why).in_field(field)
    })?;
    Ok(format!("/{cleaned}"))
}

fn restart(of_pod: RestartPolicy, kind: Kind, own: Option<SidecarPolicy>) -> Restart {
    match (kind, own, of_pod) {
        (Kind::Sidecar, ..) => Restart::Always,
        (_, Some(SidecarPolicy::OnFailure), _) => Restart::OnFailure,
        (_, Some(SidecarPolicy::Never), _) => Restart::Never,
        (_, Some(SidecarPolicy::Always), _) => Restart::Always,
        // What has ended well has done its work.
        (Kind::Init, None, RestartPolicy::Always | RestartPolicy::OnFailure) => Restart::OnFailure,
        (Kind::App, None, RestartPolicy::Always) => Restart::Always,
        (_, None, RestartPolicy::OnFailure) => Restart::OnFailure,
        (_, None, RestartPolicy::Never) => Restart::Never,
    }
}

fn namespaces(shared_pids: bool) -> BTreeSet<Namespace> {
    let mut own = BTreeSet::from([Namespace::Cgroup, Namespace::Mount]);
    if !shared_pids {
        own.insert(Namespace::Pid);
    }
    own
}

fn paths(required: &[&str], optional: &[&str]) -> Paths {
    let set = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect();
    Paths {
        required: set(required),
        optional: set(optional),
    }
}

/// What its limits may become while it runs: no less than it was promised.
fn updates(declared: &Declared) -> ResourceBounds {
    let limits = &declared.resources.limits;
    let from = |least| Range {
        least,
        most: u64::MAX,
    };
    ResourceBounds {
        memory: limits.get("memory").map(|limit| from(limit.units())),
        // Of 100 milliseconds, a thousandth of a core is as many microseconds.
        cpu: limits.get("cpu").map(|limit| from(limit.milli() * 100)),
        ..ResourceBounds::default()
    }
}

/// What may be run in it: what the kubelet runs by itself, and what was asked for.
fn allowed(pod: &Pod<'_>, declared: &Declared, knobs: &Knobs) -> Result<Vec<ExecRule>> {
    let mut all = exec::of_container(declared, pod.pod.is_indexed)?;
    for (_, words) in knobs
        .exec
        .iter()
        .filter(|(container, _)| *container == declared.name)
    {
        let more = words.last().is_some_and(|word| word == "...");
        let words = &words[..words.len() - usize::from(more)];
        all.push(ExecRule {
            command: Command {
                arguments: words.iter().cloned().map(Pattern::Exact).collect(),
                more,
            },
            terminal: true,
            stdin: true,
            output: true,
        });
    }
    Ok(all)
}
