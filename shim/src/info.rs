//! `-info` and `-v`: what this binary is, for containerd and for people.

use std::collections::HashMap;
use std::io::Write;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use trefoil_core::{Context, Error, Result};

use crate::config::Config;
use crate::dispatch::Handler;
use crate::{bootstrap, config, runtimes};

/// Which mounts of a root filesystem containerd (from 2.2 on) is to leave to us as they are.
const ALLOW_MOUNTS: &str = "containerd.io/runtime-allow-mounts";

/// What `-v` prints.
pub fn version_text(handler: &Handler) -> String {
    format!(
        "{}:\n  Runtime: {}\n  Version: {}\n",
        handler.binary,
        handler.runtime,
        env!("CARGO_PKG_VERSION"),
    )
}

/// Answers `-info`: a `RuntimeInfo` message on stdout. containerd reads the OCI features in it to learn
/// what it may ask for in a container's configuration.
pub fn print(handler: &Handler) -> Result<()> {
    let info = describe(handler, &bootstrap::read_stdin()?)?;
    let bytes = info
        .write_to_bytes()
        .context(|| "encode the runtime's description")?;
    std::io::stdout()
        .write_all(&bytes)
        .context(|| "print the runtime's description")
}

/// What `-info` answers to this input.
pub fn describe(handler: &Handler, input: &[u8]) -> Result<RuntimeInfo> {
    let runtime = runtimes::provider_of_floor(handler.floor)
        .ok_or_else(|| Error::internal(runtimes::not_built(handler.floor)))?;
    // A configuration that is wrong is told of when a pod is started.
    let config = Config::load(&config::directory()).ok();
    let settings = config.map(|config| config.settings(runtime));
    let features = runtime.features(&settings.unwrap_or_default());
    let mut annotations = HashMap::new();
    if let Some(mounts) = runtime.rootfs_mounts() {
        annotations.insert(ALLOW_MOUNTS.to_owned(), mounts.to_owned());
    }
    Ok(RuntimeInfo {
        annotations,
        name: handler.runtime.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
        .into(),
        options: Any::parse_from_bytes(input)
            .ok()
            .filter(|any| !any.type_url.is_empty())
            .into(),
        features: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features".into(),
            value: features.to_string().into_bytes(),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    })
}
