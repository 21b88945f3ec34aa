//! The handler's options, as the Create request carries them.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::Options;
use trefoil_core::{Error, Result, RuntimeOptions};

use crate::bootstrap::OPTIONS_TYPE;

/// Reads the options. Those that would name another program to run are refused: no other program is.
pub fn decode(any: Option<&Any>) -> Result<RuntimeOptions> {
    let Some(any) = any.filter(|any| !any.type_url.is_empty()) else {
        return Ok(RuntimeOptions::default());
    };
    if any.type_url.rsplit('/').next() != Some(OPTIONS_TYPE) {
        if !any.value.is_empty() {
            log::debug!(
                "options of type {} say nothing to this runtime",
                any.type_url
            );
        }
        return Ok(RuntimeOptions::default());
    }
    let options = Options::parse_from_bytes(&any.value)
        .map_err(|why| Error::invalid(format!("read the handler's options: {why}")))?;
    if !options.binary_name.is_empty() {
        return Err(Error::invalid(format!(
            "the handler's option BinaryName asks for {:?}, but this runtime runs no other program",
            options.binary_name
        )));
    }
    Ok(RuntimeOptions {
        systemd_cgroup: options.systemd_cgroup,
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(options: &Options) -> Any {
        Any {
            type_url: OPTIONS_TYPE.into(),
            value: options.write_to_bytes().expect("encode"),
            ..Default::default()
        }
    }

    #[test]
    fn what_containerd_configures_arrives() {
        let options = Options {
            systemd_cgroup: true,
            no_new_keyring: true,
            ..Default::default()
        };
        let decoded = decode(Some(&any(&options))).expect("decode");
        assert!(decoded.systemd_cgroup && decoded.no_new_keyring && !decoded.no_pivot_root);
        assert_eq!(decode(None).expect("none"), RuntimeOptions::default());
    }

    #[test]
    fn another_runtimes_program_is_refused_by_name() {
        let options = Options {
            binary_name: "/usr/bin/crun".into(),
            ..Default::default()
        };
        let why = decode(Some(&any(&options))).expect_err("refused");
        assert!(why.to_string().contains("crun"), "{why}");
    }
}
