//! Processes: what they run, as whom, with what.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    Capability, Check, Command, Denial, Env, HostProcess, Pattern, Process, Range, Rlimit, ensure,
};

/// A process as the policy has it, and which of its variables are bound to one value.
type Made = (HostProcess, Vec<usize>);

/// A container's first process.
pub(super) fn first(
    policy: &Process,
    variables: &Variables,
    oom_score: Range<i32>,
    host: HostProcess,
) -> Result<Made, Denial> {
    check_command(&policy.command, &host.args)?;
    ensure(Check::Terminal, host.terminal == policy.terminal, || {
        (
            "terminal",
            format!("{} came", host.terminal),
            policy.terminal.to_string(),
        )
    })?;
    further(policy, variables, oom_score, host)
}

/// A process that is run beside a container's first one. Its command and terminal have been decided on. What came
/// is handed back, where it is the same as the policy's, and not copied.
pub(super) fn further(
    policy: &Process,
    variables: &Variables,
    oom_score: Range<i32>,
    mut host: HostProcess,
) -> Result<Made, Denial> {
    let no_size = host.console_size.is_none() || host.terminal;
    ensure(Check::ConsoleSize, no_size, || {
        ("consoleSize", "it came", "none without a terminal")
    })?;
    check_user(policy, &host)?;
    let bound = check_env(&policy.env, variables, &mut host.env)?;
    ensure(Check::Cwd, host.cwd == policy.cwd, || {
        (
            "cwd",
            format!("{:?} came", host.cwd),
            format!("{:?}", policy.cwd),
        )
    })?;
    check_capabilities(policy, &host)?;
    check_rlimits(&policy.rlimits, &mut host.rlimits)?;
    let (came, wanted) = (host.no_new_privileges, policy.no_new_privileges);
    ensure(Check::NewPrivileges, came == wanted, || {
        (
            "noNewPrivileges",
            format!("{came} came"),
            wanted.to_string(),
        )
    })?;
    let score = host.oom_score.unwrap_or(0);
    ensure(Check::OomScore, oom_score.contains(&score), || {
        let allowed = format!("{} to {}", oom_score.least, oom_score.most);
        ("oomScoreAdj", format!("{score} came"), allowed)
    })?;
    // Each of them has been decided on: a further one has to be, to be here.
    let HostProcess {
        terminal,
        console_size,
        user,
        args,
        env,
        cwd,
        capabilities,
        rlimits,
        no_new_privileges,
        oom_score,
    } = host;
    let made = HostProcess {
        terminal,
        console_size,
        user,
        args,
        env,
        cwd,
        capabilities,
        rlimits,
        no_new_privileges,
        oom_score,
    };
    Ok((made, bound))
}

/// The command is exact: the denial names the first argument that isn't.
fn check_command(policy: &[String], host: &[String]) -> Result<(), Denial> {
    let same = policy
        .iter()
        .zip(host)
        .take_while(|(one, other)| one == other);
    let at = same.count();
    ensure(
        Check::Command,
        policy.len() == host.len() && at == host.len(),
        || {
            let shown = |all: &[String], none: &str| {
                all.get(at)
                    .map_or_else(|| none.to_owned(), |one| format!("{one:?}"))
            };
            let came = format!("{} came", shown(host, "nothing more"));
            (format!("args[{at}]"), came, shown(policy, "nothing more"))
        },
    )
}

/// Whether a command is one that may be run.
pub(super) fn is_allowed(command: &Command, args: &[String]) -> bool {
    let patterns = &command.arguments;
    let enough = match command.more {
        true => args.len() >= patterns.len(),
        false => args.len() == patterns.len(),
    };
    enough && patterns.iter().zip(args).all(|(one, arg)| one.matches(arg))
}

fn check_user(policy: &Process, host: &HostProcess) -> Result<(), Denial> {
    let (user, wanted) = (&host.user, &policy.user);
    let one = |check, field: &str, came: u32, wanted: u32| {
        ensure(check, came == wanted, || {
            (
                format!("user.{field}"),
                format!("{came} came"),
                wanted.to_string(),
            )
        })
    };
    one(Check::UserId, "uid", user.uid, wanted.uid)?;
    one(Check::GroupId, "gid", user.gid, wanted.gid)?;
    let (came, wanted) = (&user.additional_gids, &wanted.additional_gids);
    ensure(Check::Groups, came == wanted, || {
        (
            "user.additionalGids",
            format!("{came:?} came"),
            format!("{wanted:?}"),
        )
    })
}

/// Checks that the policy has each variable, and that all it demands are there; brings them into the policy's
/// order, and says which of them have the one value that it gives them.
fn check_env(
    rules: &[Env],
    by_name: &Variables,
    host: &mut Vec<String>,
) -> Result<Vec<usize>, Denial> {
    let mut given = vec![false; rules.len()];
    let mut order = Vec::with_capacity(host.len());
    // Those that have no rule of their own, which says that it has been given.
    let mut others = HashSet::with_capacity(host.len());
    let mut named = Vec::new();
    for (at, variable) in host.iter().enumerate() {
        let field = || format!("env[{at}]");
        let pair = variable.split_once('=');
        let (name, value) = pair.unwrap_or((variable, ""));
        let is_exact = by_name.closest(rules, name, &mut named);
        let first = named.first().copied();
        ensure(Check::EnvName, pair.is_some() && first.is_some(), || {
            (field(), format!("{name:?} came"), env_names(rules))
        })?;
        let is_bound = named.iter().any(|rule| is_this(&rules[*rule], value));
        let mut open = named.iter();
        let fits =
            is_bound || named.is_empty() || open.any(|rule| rules[*rule].value.matches(value));
        ensure(Check::EnvValue, fits, || {
            let (came, wanted) = env_values(first.map(|rule| &rules[rule]), name, value);
            (field(), came, wanted)
        })?;
        let is_new = match first.filter(|_| is_exact) {
            Some(rule) => !given[rule],
            None => others.insert(name),
        };
        ensure(Check::EnvTwice, is_new, || {
            (field(), format!("{name:?} came twice"), "it once")
        })?;
        named.iter().for_each(|rule| given[*rule] = true);
        order.push((first, at, is_bound));
    }
    for (rule, given) in rules.iter().zip(given) {
        ensure(Check::EnvMissing, given || rule.optional, || {
            (
                "env",
                format!("{} is missing", rule.name),
                "all that are not optional",
            )
        })?;
    }
    order.sort_unstable_by_key(|(rule, at, _)| (*rule, *at));
    let mut came = std::mem::take(host);
    let sorted = order
        .iter()
        .map(|(_, at, _)| std::mem::take(&mut came[*at]));
    *host = sorted.collect();
    let bound = order.iter().enumerate().filter(|(_, (.., bound))| *bound);
    Ok(bound.map(|(at, _)| at).collect())
}

/// Whether a value is the one that a rule has.
fn is_this(rule: &Env, value: &str) -> bool {
    matches!(&rule.value, Pattern::Exact(exact) if exact == value)
}

/// Where the rules for variables are, by the names that they are for: a pod has hundreds of either.
#[derive(Debug)]
pub(super) struct Variables {
    exact: HashMap<String, Vec<usize>>,
    /// The closest first.
    others: Vec<usize>,
}

impl Variables {
    /// Those of a process.
    pub(super) fn of(rules: &[Env]) -> Self {
        let mut exact: HashMap<_, Vec<_>> = HashMap::new();
        let mut others = Vec::new();
        for (at, rule) in rules.iter().enumerate() {
            match &rule.name {
                Pattern::Exact(name) => exact.entry(name.clone()).or_default().push(at),
                _ => others.push(at),
            }
        }
        others.sort_by_key(|at| rules[*at].name.closeness());
        Self { exact, others }
    }

    /// Finds those that decide about a variable, and says whether it is theirs by its exact name.
    fn closest(&self, rules: &[Env], name: &str, found: &mut Vec<usize>) -> bool {
        found.clear();
        if let Some(exact) = self.exact.get(name) {
            found.extend(exact);
            return true;
        }
        let closeness = |at: usize| rules[at].name.closeness();
        for at in self.others.iter().copied() {
            if found
                .first()
                .is_some_and(|first| closeness(*first) != closeness(at))
            {
                break;
            }
            if rules[at].name.matches(name) {
                found.push(at);
            }
        }
        false
    }
}

fn env_names(rules: &[Env]) -> String {
    let names = rules.iter().map(|rule| match &rule.name {
        Pattern::Exact(name) => name.clone(),
        other => other.to_string(),
    });
    match names.collect::<Vec<_>>() {
        names if names.is_empty() => "none".into(),
        names => names.join(", "),
    }
}

/// What came and what would be allowed, without what is secret.
fn env_values(rule: Option<&Env>, name: &str, value: &str) -> (String, String) {
    match rule {
        Some(rule) if !rule.secret => (format!("{name}={value:?} came"), rule.value.to_string()),
        _ => (
            format!("another value of {name} came"),
            "the policy's value, which is secret".into(),
        ),
    }
}

fn check_capabilities(policy: &Process, host: &HostProcess) -> Result<(), Denial> {
    let (host, policy) = (&host.capabilities, &policy.capabilities);
    let sets = [
        ("bounding", &host.bounding, &policy.bounding),
        ("effective", &host.effective, &policy.effective),
        ("permitted", &host.permitted, &policy.permitted),
        ("inheritable", &host.inheritable, &policy.inheritable),
        ("ambient", &host.ambient, &policy.ambient),
    ];
    for (name, came, wanted) in sets {
        ensure(Check::Capabilities, came == wanted, || {
            (
                format!("capabilities.{name}"),
                capability_difference(came, wanted),
                names(wanted),
            )
        })?;
    }
    Ok(())
}

/// What is too much, or else what is missing.
fn capability_difference(came: &BTreeSet<Capability>, wanted: &BTreeSet<Capability>) -> String {
    let extra: BTreeSet<_> = came.difference(wanted).copied().collect();
    match extra.is_empty() {
        true => {
            let missing: BTreeSet<_> = wanted.difference(came).copied().collect();
            format!("{} missing", names(&missing))
        }
        false => format!("{} came", names(&extra)),
    }
}

fn names(capabilities: &BTreeSet<Capability>) -> String {
    let names: Vec<_> = capabilities.iter().map(|one| one.name()).collect();
    super::files::one_of(&names)
}

/// Checks limits, and brings them into the policy's order.
fn check_rlimits(policy: &[Rlimit], host: &mut Vec<Rlimit>) -> Result<(), Denial> {
    let (mut came, mut wanted) = (host.clone(), policy.to_vec());
    came.sort();
    wanted.sort();
    ensure(Check::Rlimits, came == wanted, || {
        ("rlimits", format!("{} came", shown(&came)), shown(&wanted))
    })?;
    *host = policy.to_vec();
    Ok(())
}

fn shown(limits: &[Rlimit]) -> String {
    let text = |one: &Rlimit| format!("{} {}/{}", one.kind, one.soft, one.hard);
    let texts: Vec<_> = limits.iter().map(text).collect();
    match texts.as_slice() {
        [] => "none".into(),
        texts => texts.join(", "),
    }
}
