//! The three dialects in which containerd starts a shim.
//!
//! | containerd | tells the shim by | expects |
//! |---|---|---|
//! | 1.6 | flags, environment, runtime options (an `Any`) on stdin | the bare address |
//! | 1.7 to 2.2 | the same, and `MAX_SHIM_VERSION` | JSON |
//! | 2.3 on | a `BootstrapParams` message on stdin | a `BootstrapResult` message |
//!
//! 1.7 refuses a version above 2 and can't be told from 2.0, which accepts 2 as well as 3. So JSON
//! always says 2: these daemons then speak Task v2, which we serve from the same code.

use std::io::{IsTerminal, Read, Write};

use containerd_shim::{Flags, StartOpts};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use trefoil_core::{Context, Error, Result};

const MAX_INPUT: u64 = 4 << 20;
const PROTOCOL: &str = "ttrpc";

/// The type of a handler's runtime options, as containerd names it. Some name a host before it.
pub const OPTIONS_TYPE: &str = "containerd.runc.v1.Options";

/// How the caller expects to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 1.6: the address and nothing else.
    Address,
    /// containerd 1.7 to 2.2.
    Json,
    /// containerd 2.3 and later.
    Message,
}

/// What containerd asks of `start`.
#[derive(Debug)]
pub struct Request {
    /// Who is to be served, and where containerd listens.
    pub opts: StartOpts,
    /// The cgroup the shim itself is to join, if one is configured.
    pub shim_cgroup: String,
    /// How to answer.
    pub dialect: Dialect,
}

/// What the environment says, for the dialects without a message.
#[derive(Debug, Default)]
pub struct Environment {
    ttrpc_address: String,
    knows_versions: bool,
}

impl Environment {
    fn read() -> Self {
        Self {
            ttrpc_address: std::env::var("TTRPC_ADDRESS").unwrap_or_default(),
            knows_versions: std::env::var_os("MAX_SHIM_VERSION").is_some(),
        }
    }
}

/// Reads the request from the command line, the environment and stdin.
pub fn read(flags: &Flags) -> Result<Request> {
    parse(&read_stdin()?, flags, Environment::read())
}

/// All of stdin, or nothing if that is a person's terminal.
pub fn read_stdin() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    let mut input = Vec::new();
    if !stdin.is_terminal() {
        stdin
            .lock()
            .take(MAX_INPUT)
            .read_to_end(&mut input)
            .context(|| "read what containerd wrote to stdin")?;
    }
    Ok(input)
}

fn parse(input: &[u8], flags: &Flags, environment: Environment) -> Result<Request> {
    let request = match message(input, flags)? {
        Some(params) => from_message(params, flags),
        None => from_flags(input, flags, environment),
    }?;
    if request.opts.ttrpc_address.is_empty() {
        return Err(Error::invalid(
            "containerd didn't say where it takes events (TTRPC_ADDRESS)",
        ));
    }
    Ok(request)
}

/// The `BootstrapParams` on stdin, if that is what stands there.
///
/// Runtime options are a protobuf `Any`, whose two fields have the numbers and types of a
/// `BootstrapParams`' first two: whether the id and the namespace are those of the command line tells
/// the messages apart.
fn message(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>> {
    if input.is_empty() {
        return Ok(None);
    }
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else {
        return Ok(None);
    };
    if params.instance_id == flags.id && params.namespace == flags.namespace {
        return Ok(Some(params));
    }
    let names_only = BootstrapParams {
        instance_id: params.instance_id.clone(),
        namespace: params.namespace.clone(),
        ..Default::default()
    };
    if params == names_only {
        return Ok(None);
    }
    Err(Error::invalid(format!(
        "containerd's message is for {}/{}, its command line for {}/{}",
        params.namespace, params.instance_id, flags.namespace, flags.id
    )))
}

fn from_message(params: BootstrapParams, flags: &Flags) -> Result<Request> {
    let mut opts = StartOpts::from(params);
    opts.debug |= flags.debug;
    Ok(Request {
        shim_cgroup: shim_cgroup(&opts)?,
        opts,
        dialect: Dialect::Message,
    })
}

fn from_flags(input: &[u8], flags: &Flags, environment: Environment) -> Result<Request> {
    let options = Any::parse_from_bytes(input)
        .ok()
        .filter(|any| !any.type_url.is_empty());
    let opts = StartOpts {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        address: flags.address.clone(),
        publish_binary: flags.publish_binary.clone(),
        ttrpc_address: environment.ttrpc_address,
        debug: flags.debug,
        extensions: options.into_iter().collect(),
        ..Default::default()
    };
    Ok(Request {
        shim_cgroup: shim_cgroup(&opts)?,
        opts,
        dialect: if environment.knows_versions {
            Dialect::Json
        } else {
            Dialect::Address
        },
    })
}

fn shim_cgroup(opts: &StartOpts) -> Result<String> {
    let options = opts
        .extensions
        .iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(OPTIONS_TYPE))
        .map(|any| Options::parse_from_bytes(&any.value))
        .transpose()
        .context(|| "read the handler's runtime options")?;
    Ok(options
        .map(|options| options.shim_cgroup)
        .unwrap_or_default())
}

/// Tells containerd where the pod's server listens.
pub fn answer(dialect: Dialect, address: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&encode(dialect, address)?)
        .and_then(|()| stdout.flush())
        .context(|| "tell containerd the shim's address")
}

fn encode(dialect: Dialect, address: &str) -> Result<Vec<u8>> {
    match dialect {
        Dialect::Address => Ok(address.into()),
        Dialect::Json => Ok(serde_json::json!({
            "version": 2,
            "address": address,
            "protocol": PROTOCOL,
        })
        .to_string()
        .into_bytes()),
        Dialect::Message => BootstrapResult {
            version: 3,
            address: address.into(),
            protocol: PROTOCOL.into(),
            ..Default::default()
        }
        .write_to_bytes()
        .context(|| "encode the answer to containerd"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;

    const TTRPC: &str = "/run/containerd/containerd.sock.ttrpc";

    fn flags() -> Flags {
        Flags {
            id: "pod".into(),
            namespace: "k8s.io".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Default::default()
        }
    }

    fn environment(knows_versions: bool) -> Environment {
        Environment {
            ttrpc_address: TTRPC.into(),
            knows_versions,
        }
    }

    fn options(cgroup: &str) -> Any {
        let options = Options {
            shim_cgroup: cgroup.into(),
            ..Default::default()
        };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().expect("encode"),
            ..Default::default()
        }
    }

    #[test]
    fn a_message_is_answered_by_a_message() {
        let params = BootstrapParams {
            instance_id: "pod".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: TTRPC.into(),
            socket_dir: Some("/run/x".into()),
            extensions: vec![Extension {
                value: Some(options("/shims")).into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let input = params.write_to_bytes().expect("encode");
        let request = parse(&input, &flags(), Environment::default()).expect("parse");
        assert_eq!(request.dialect, Dialect::Message);
        assert_eq!(request.shim_cgroup, "/shims");
        assert_eq!(request.opts.socket_dir.as_deref(), Some("/run/x"));
        let answer = encode(request.dialect, "unix:///s").expect("encode");
        let result = BootstrapResult::parse_from_bytes(&answer).expect("decode");
        assert_eq!((result.version, result.address.as_str()), (3, "unix:///s"));
    }

    #[test]
    fn options_alone_are_an_older_containerd() {
        for (cgroup, knows_versions, dialect) in [
            ("", true, Dialect::Json),
            ("/shims", true, Dialect::Json),
            ("/shims", false, Dialect::Address),
        ] {
            let input = options(cgroup).write_to_bytes().expect("encode");
            let request = parse(&input, &flags(), environment(knows_versions)).expect("parse");
            assert_eq!(request.dialect, dialect);
            assert_eq!(request.shim_cgroup, cgroup);
        }
    }

    #[test]
    fn json_says_version_2_which_every_such_containerd_takes() {
        let request = parse(&[], &flags(), environment(true)).expect("parse");
        let answer = encode(request.dialect, "unix:///s").expect("encode");
        let value: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(value["version"], 2);
        assert_eq!(value["address"], "unix:///s");
        assert_eq!(value["protocol"], "ttrpc");
    }

    #[test]
    fn a_message_for_somebody_else_is_refused() {
        let params = BootstrapParams {
            instance_id: "other".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: TTRPC.into(),
            ..Default::default()
        };
        let input = params.write_to_bytes().expect("encode");
        let why = parse(&input, &flags(), environment(true)).expect_err("refused");
        assert!(why.to_string().contains("k8s.io/other"), "{why}");
    }

    #[test]
    fn without_an_address_for_events_there_is_no_start() {
        assert!(parse(&[], &flags(), Environment::default()).is_err());
    }
}
