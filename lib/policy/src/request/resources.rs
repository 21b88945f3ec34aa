//! Limits of a container.

use std::collections::BTreeSet;

use super::json::Field;
use crate::{Access, Check, Denial, DeviceKind, DeviceRule};

/// `linux.resources` of the OCI runtime specification, as far as a guest has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Devices that it may open, or may not.
    pub devices: Vec<HostDeviceRule>,
    /// Of its memory.
    pub memory: Memory,
    /// Of processor time.
    pub cpu: Cpu,
    /// How many processes; zero or less is no limit.
    pub pids: Option<i64>,
    /// How much of the disks' time, from 10 to 1000.
    pub io_weight: Option<u16>,
    /// Files of its cgroup.
    pub unified: Vec<(String, String)>,
}

/// A rule for devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDeviceRule {
    /// What it is of is allowed, or denied.
    pub allow: bool,
    /// What it is of; none is all devices.
    pub rule: Option<DeviceRule>,
}

/// Limits of memory, in bytes; -1 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
}

/// Limits of processor time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the specification")]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub period: Option<u64>,
    pub burst: Option<u64>,
    pub idle: Option<i64>,
}

/// The files of a cgroup that are limits, but for those that fields with bounds are of.
const UNIFIED: [&str; 6] = [
    "cpu.idle",
    "memory.high",
    "memory.low",
    "memory.min",
    "memory.oom.group",
    "memory.swap.max",
];

impl Resources {
    /// Reads limits that a container is to have from now on.
    ///
    /// # Errors
    /// What is malformed, there twice, missing or unknown.
    pub fn from_json(json: &[u8]) -> Result<Self, Denial> {
        Self::read(Field::parse("resources", json)?)
    }

    pub(super) fn read(resources: Field) -> Result<Self, Denial> {
        let mut resources = resources.object()?;
        let read = Self {
            devices: resources.list("devices", HostDeviceRule::read)?,
            memory: resources.maybe("memory", memory)?.unwrap_or_default(),
            cpu: resources.maybe("cpu", cpu)?.unwrap_or_default(),
            pids: resources.maybe("pids", pids)?.flatten(),
            io_weight: resources.maybe("blockIO", io_weight)?.flatten(),
            unified: resources.maybe("unified", unified)?.unwrap_or_default(),
        };
        resources.end()?;
        Ok(read)
    }
}

fn memory(memory: Field) -> Result<Memory, Denial> {
    let mut memory = memory.object()?;
    let read = Memory {
        limit: memory.maybe("limit", Field::number)?,
        reservation: memory.maybe("reservation", Field::number)?,
        swap: memory.maybe("swap", Field::number)?,
    };
    memory.end()?;
    Ok(read)
}

fn cpu(cpu: Field) -> Result<Cpu, Denial> {
    let mut cpu = cpu.object()?;
    let read = Cpu {
        shares: cpu.maybe("shares", Field::number)?,
        quota: cpu.maybe("quota", Field::number)?,
        period: cpu.maybe("period", Field::number)?,
        burst: cpu.maybe("burst", Field::number)?,
        idle: cpu.maybe("idle", Field::number)?,
    };
    cpu.end()?;
    Ok(read)
}

fn pids(pids: Field) -> Result<Option<i64>, Denial> {
    let mut pids = pids.object()?;
    let limit = pids.maybe("limit", Field::number)?;
    pids.end()?;
    Ok(limit)
}

fn io_weight(io: Field) -> Result<Option<u16>, Denial> {
    let mut io = io.object()?;
    let weight = io.maybe("weight", Field::number)?;
    io.end()?;
    Ok(weight)
}

fn unified(files: Field) -> Result<Vec<(String, String)>, Denial> {
    let one = |(name, value): (String, Field)| {
        let path = value.path().to_owned();
        let value = value.text()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b' ';
        let sound = value.len() <= 64 && value.bytes().all(plain);
        crate::ensure(
            Check::Unified,
            UNIFIED.contains(&name.as_str()) && sound,
            || (path, format!("{value:?} came"), UNIFIED.join(" ")),
        )?;
        Ok((name, value))
    };
    files.object()?.rest().map(one).collect()
}

impl HostDeviceRule {
    fn read(rule: Field) -> Result<Self, Denial> {
        let mut rule = rule.object()?;
        let allow = rule.maybe("allow", Field::bool)?.unwrap_or(false);
        let kind = |name: &str| match name {
            "a" => Some(None),
            "b" => Some(Some(DeviceKind::Block)),
            "c" | "u" => Some(Some(DeviceKind::Character)),
            _ => None,
        };
        let field = rule.take("type");
        let kind = field.map(|field| field.one_of(kind, "a, b, c or u"));
        let kind = kind.transpose()?.flatten();
        let major = number(rule.take("major"))?;
        let minor = number(rule.take("minor"))?;
        let access = rule.maybe("access", access)?.unwrap_or_default();
        rule.end()?;
        let rule = kind.zip(major).map(|(kind, major)| DeviceRule {
            kind,
            major,
            minor,
            access,
        });
        Ok(Self { allow, rule })
    }
}

/// Of a device; a negative one is any.
fn number(field: Option<Field>) -> Result<Option<u32>, Denial> {
    let Some(field) = field else {
        return Ok(None);
    };
    match field.is_negative() {
        true => Ok(None),
        false => field.number().map(Some),
    }
}

fn access(access: Field) -> Result<BTreeSet<Access>, Denial> {
    let path = access.path().to_owned();
    let text = access.text()?;
    let one = |letter| match letter {
        'r' => Ok(Access::Read),
        'w' => Ok(Access::Write),
        'm' => Ok(Access::MakeNode),
        _ => {
            let came = format_args!("{text:?} came");
            Err(Denial::new(Check::Malformed, &path, came, "r, w and m"))
        }
    };
    text.chars().map(one).collect()
}
