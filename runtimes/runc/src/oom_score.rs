//! The score by which the kernel chooses whom to kill when memory runs out.

use oci_spec::runtime::Spec;
use trefoil_core::{Context, Result};

const PATH: &str = "/proc/self/oom_score_adj";

/// Takes a score out of `spec` that this process may not set: without CAP_SYS_RESOURCE nobody may go
/// below the score they have. The container then keeps the score it inherits, as with runc in a user
/// namespace.
pub fn make_possible(spec: &mut Spec) -> Result<()> {
    let Some(process) = spec.process_mut() else {
        return Ok(());
    };
    let Some(wanted) = process.oom_score_adj() else {
        return Ok(());
    };
    match std::fs::write(PATH, wanted.to_string()) {
        Err(why) if why.kind() == std::io::ErrorKind::PermissionDenied => {
            process.set_oom_score_adj(None);
            Ok(())
        }
        outcome => outcome.context(|| format!("set the OOM score {wanted}")),
    }
}
