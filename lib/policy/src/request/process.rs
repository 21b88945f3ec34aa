//! A process's configuration.

use std::collections::BTreeSet;

use super::json::Field;
use crate::{Capabilities, Capability, Denial, Rlimit, RlimitKind, User};

/// A process, as `process` of the OCI runtime specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostProcess {
    /// It has a terminal.
    pub terminal: bool,
    /// Of this many rows and columns at first.
    pub console_size: Option<(u16, u16)>,
    /// Whose it is.
    pub user: User,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables with `=` between name and value.
    pub env: Vec<String>,
    /// The working directory.
    pub cwd: String,
    /// Its five sets.
    pub capabilities: Capabilities,
    /// Its limits.
    pub rlimits: Vec<Rlimit>,
    /// It can't gain privileges.
    pub no_new_privileges: bool,
    /// How soon the kernel may end it.
    pub oom_score: Option<i32>,
}

impl HostProcess {
    /// Reads one that is to be run beside others.
    ///
    /// # Errors
    /// What is malformed, there twice, missing or unknown.
    pub fn from_json(json: &[u8]) -> Result<Self, Denial> {
        Self::read(Field::parse("configuration", json)?)
    }

    pub(super) fn read(process: Field) -> Result<Self, Denial> {
        let mut process = process.object()?;
        let read = Self {
            terminal: process.maybe("terminal", Field::bool)?.unwrap_or(false),
            console_size: process.maybe("consoleSize", console_size)?,
            user: user(process.demand("user")?)?,
            args: process.list("args", Field::text)?,
            env: process.list("env", Field::text)?,
            cwd: process.demand("cwd")?.text()?,
            capabilities: process
                .maybe("capabilities", capabilities)?
                .unwrap_or_default(),
            rlimits: process.list("rlimits", rlimit)?,
            no_new_privileges: process
                .maybe("noNewPrivileges", Field::bool)?
                .unwrap_or(false),
            oom_score: process.maybe("oomScoreAdj", Field::number)?,
        };
        process.end()?;
        Ok(read)
    }
}

fn console_size(size: Field) -> Result<(u16, u16), Denial> {
    let mut size = size.object()?;
    let read = (
        size.demand("height")?.number()?,
        size.demand("width")?.number()?,
    );
    size.end()?;
    Ok(read)
}

fn user(user: Field) -> Result<User, Denial> {
    let mut user = user.object()?;
    let read = User {
        uid: user.demand("uid")?.number()?,
        gid: user.demand("gid")?.number()?,
        additional_gids: user.set("additionalGids", Field::number)?,
    };
    user.end()?;
    Ok(read)
}

fn capabilities(sets: Field) -> Result<Capabilities, Denial> {
    let mut sets = sets.object()?;
    let mut set = |name: &str| -> Result<BTreeSet<Capability>, Denial> {
        let read = |one: Field| one.one_of(Capability::of_name, "a capability of Linux");
        sets.set(name, read)
    };
    let read = Capabilities {
        bounding: set("bounding")?,
        effective: set("effective")?,
        permitted: set("permitted")?,
        inheritable: set("inheritable")?,
        ambient: set("ambient")?,
    };
    sets.end()?;
    Ok(read)
}

fn rlimit(limit: Field) -> Result<Rlimit, Denial> {
    let mut limit = limit.object()?;
    let read = Rlimit {
        kind: limit
            .demand("type")?
            .one_of(RlimitKind::of_name, "a limit of Linux")?,
        soft: limit.demand("soft")?.number()?,
        hard: limit.demand("hard")?.number()?,
    };
    limit.end()?;
    Ok(read)
}
