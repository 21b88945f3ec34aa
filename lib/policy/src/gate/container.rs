//! Making a container: whether it may be now, and what it is made of.

use super::process::Variables;
use super::state::{Instance, Phase};
use super::{Approved, Gate, GrantedRoot, Output, files, linux, mounts, process};
use crate::{
    Check, Configuration, Container, CreateContainer, Denial, Kind, Layer, LayerDisk, Request,
    Restart, Root, Streams, ensure,
};

/// No name of the host's is longer, in bytes.
const LONGEST_NAME: usize = 128;

/// The bytes of a block.
const BLOCK: u64 = 4096;

/// How many hashes are in one block of a tree.
const HASHES: u64 = 128;

impl Gate {
    pub(super) fn create(&mut self, asked: CreateContainer) -> Result<Approved, Denial> {
        let CreateContainer {
            container: id,
            name,
            configuration,
            root,
            streams,
        } = asked;
        check_name("container", &id)?;
        self.check_new(&id)?;
        let (container, variables) = self.named(&name)?;
        self.check_turn(container)?;
        let disk = self.check_root(container, &root)?.clone();
        let (configuration, bound) =
            self.configuration(container, variables, &id, configuration)?;
        let terminal = container.process.terminal;
        check_streams(&streams, terminal)?;
        self.check_stdin(&streams)?;
        let device = disk.device;
        let approved = Approved {
            output: self.output_of(container),
            root: Some(GrantedRoot {
                layers: Some(container.layers.clone()),
            }),
            bound,
            start: None,
            request: Request::CreateContainer(Box::new(CreateContainer {
                container: id.clone(),
                name: name.clone(),
                configuration,
                root: Root {
                    verified: Some(disk),
                    ..Root::default()
                },
                streams,
            })),
        };
        self.state.add(id, name, device, terminal);
        Ok(approved)
    }

    /// A name that no container has.
    pub(super) fn check_new(&self, container: &str) -> Result<(), Denial> {
        let is_new = !self.state.containers.contains_key(container);
        ensure(Check::Twice, is_new, || {
            (
                "container",
                format!("{container:?} came again"),
                "a name that no container has",
            )
        })
    }

    fn named(&self, name: &str) -> Result<(&Container, &Variables), Denial> {
        self.of_policy(name).ok_or_else(|| {
            let all = self.policy.containers.iter();
            let names: Vec<_> = all.map(|one| one.name.as_str()).collect();
            let came = format_args!("{name:?} came");
            Denial::new(Check::Container, "name", came, files::one_of(&names))
        })
    }

    /// Whether it is the container's turn.
    fn check_turn(&self, container: &Container) -> Result<(), Denial> {
        let name = &container.name;
        let mut instances = self.state.containers.values();
        let lives = instances.any(|one| one.name == *name && one.phase != Phase::Ended);
        ensure(Check::Alive, !lives, || {
            (
                "name",
                format!("{name:?} came again"),
                "it once the one before has ended",
            )
        })?;
        let history = self.state.history(name);
        let finished = container.kind == Kind::Init && history.succeeded;
        ensure(Check::Finished, !finished, || {
            let came = format!("{name:?} came after it had ended with success");
            ("name", came, "an init container until it has succeeded")
        })?;
        let again = match (container.restart, history.ended) {
            (_, None) | (Restart::Always, _) | (Restart::OnFailure, Some(false)) => true,
            (Restart::Never, _) | (Restart::OnFailure, Some(true)) => false,
        };
        ensure(Check::Restart, again || finished, || {
            let came = format!("{name:?} came again");
            ("name", came, "it once, by its restart policy")
        })?;
        for before in &container.after {
            let history = self.state.history(before);
            let kind = self.policy.container(before).map(|one| one.kind);
            let (done, wanted) = match kind {
                Some(Kind::Init) => (history.succeeded, "ended with success"),
                _ => (history.started, "been started"),
            };
            ensure(Check::Order, done, || {
                let allowed = format!("it once {before:?} has {wanted}");
                ("name", format!("{name:?} came"), allowed)
            })?;
        }
        Ok(())
    }

    /// The disk with its layers.
    fn check_root<'a>(
        &self,
        container: &Container,
        root: &'a Root,
    ) -> Result<&'a LayerDisk, Denial> {
        let disk = check_disk(root)?;
        let layers = &container.layers;
        let (came, wanted) = (disk.parts.len(), layers.len());
        ensure(Check::LayerCount, came == wanted, || {
            (
                "rootfs.verified.parts",
                format!("{came} came"),
                wanted.to_string(),
            )
        })?;
        for (at, (bytes, layer)) in disk.parts.iter().zip(layers).enumerate() {
            let least = bytes_of(layer);
            ensure(Check::LayerSize, *bytes >= least, || {
                let field = format!("rootfs.verified.parts[{at}]");
                (field, format!("{bytes} came"), format!("{least} and more"))
            })?;
        }
        let other = |one: &&Instance| {
            one.device == disk.device
                && self.policy.container(&one.name).map(|one| &one.layers) != Some(layers)
        };
        let other = self.state.containers.values().find(other);
        let taken = other.map(|other| format!("the layers of {:?}", other.name));
        let scratch = self.state.scratch == Some(disk.device);
        let taken = taken.or_else(|| scratch.then(|| "the scratch disk".into()));
        ensure(Check::Aliases, taken.is_none(), || {
            let is = taken.as_deref().unwrap_or_default();
            let came = format!("{} came, which is {is}", disk.device);
            ("rootfs.verified.device", came, "a disk of its own")
        })?;
        Ok(disk)
    }

    /// What the container is to be, as the policy has it, and which of its variables are bound to one value.
    fn configuration(
        &self,
        container: &Container,
        variables: &Variables,
        id: &str,
        host: Configuration,
    ) -> Result<(Configuration, Vec<usize>), Denial> {
        let within = |denial: Denial| denial.within("configuration");
        ensure(Check::RootPath, host.root_path == ROOT, || {
            (
                "root.path",
                format!("{:?} came", host.root_path),
                format!("{ROOT:?}"),
            )
        })
        .map_err(within)?;
        let (came, wanted) = (host.read_only_root, container.read_only_root);
        ensure(Check::RootReadOnly, came == wanted, || {
            ("root.readonly", format!("{came} came"), wanted.to_string())
        })
        .map_err(within)?;
        let process = &container.process;
        let (process, bound) =
            process::first(process, variables, container.oom_score, host.process)
                .map_err(|denial| within(denial.within("process")))?;
        let mounts =
            mounts::of(container, &self.policy, &self.state, host.mounts).map_err(within)?;
        let linux = linux::of(container, id, host.linux)
            .map_err(|denial| within(denial.within("linux")))?;
        let made = Configuration {
            root_path: ROOT.into(),
            read_only_root: wanted,
            process,
            mounts,
            linux,
        };
        Ok((made, bound))
    }

    pub(super) fn check_stdin(&self, streams: &Streams) -> Result<(), Denial> {
        let sound = streams.stdin == 0 || self.policy.knobs.stdin;
        ensure(Check::Stdin, sound, || {
            ("streams.stdin", "it came", "none: knobs.stdin is off")
        })
    }

    /// Whether the host gets what a container writes.
    fn output_of(&self, container: &Container) -> Output {
        let knobs = &self.policy.knobs;
        match knobs.logs || (knobs.attach && container.process.terminal) {
            true => Output::Shown,
            false => Output::Withheld,
        }
    }
}

/// What the root's directory is called in every configuration.
const ROOT: &str = "rootfs";

/// The least bytes that a layer has: its blocks, a superblock, and the tree above the blocks.
fn bytes_of(layer: &Layer) -> u64 {
    let mut blocks = layer.blocks.saturating_add(1);
    let mut level = layer.blocks;
    while level > 1 {
        level = level.div_ceil(HASHES);
        blocks = blocks.saturating_add(level);
    }
    blocks.saturating_mul(BLOCK)
}

/// A name that the host gives to something of the guest, and that becomes part of paths.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Denial> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let sound = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && !matches!(name, "." | "..");
    ensure(Check::Name, sound, || {
        let allowed = format!("1 to {LONGEST_NAME} of A-Z a-z 0-9 . _ -");
        (field.to_owned(), format!("{name:?} came"), allowed)
    })
}

/// What holds of a root whatever the policy says.
pub(super) fn check_disk(root: &Root) -> Result<&LayerDisk, Denial> {
    ensure(Check::RootShare, root.share.is_empty(), || {
        (
            "rootfs.share",
            format!("{:?} came", root.share),
            "none: only verified layers",
        )
    })?;
    ensure(Check::RootPlain, !root.plain, || {
        ("rootfs.layers", "they came", "none: only verified layers")
    })?;
    ensure(Check::RootWritable, !root.writable, || {
        (
            "rootfs.writable",
            "it came",
            "none: the guest has a scratch disk of its own",
        )
    })?;
    let Some(disk) = &root.verified else {
        let field = "rootfs.verified";
        let allowed = "the disk with the container's layers";
        return Err(Denial::new(Check::Missing, field, "it is missing", allowed));
    };
    ensure(Check::LayerFilesystem, disk.erofs, || {
        ("rootfs.verified.filesystem", "another one came", "EROFS")
    })?;
    Ok(disk)
}

/// What holds of streams whatever the policy says.
pub(super) fn check_streams(streams: &Streams, terminal: bool) -> Result<(), Denial> {
    ensure(Check::StreamTerminal, streams.terminal == terminal, || {
        (
            "streams.terminal",
            format!("{} came", streams.terminal),
            terminal.to_string(),
        )
    })?;
    ensure(
        Check::StreamStderr,
        !terminal || streams.stderr == 0,
        || ("streams.stderr", "it came", "none beside a terminal"),
    )?;
    let numbers = [streams.stdin, streams.stdout, streams.stderr];
    let twice = |at: usize| numbers[at] != 0 && numbers[..at].contains(&numbers[at]);
    ensure(Check::StreamTwice, !(twice(1) || twice(2)), || {
        ("streams", "a number came twice", "another number for each")
    })
}
