//! Work that may wait for a disk or a network, or that changes what belongs to a thread, apart from the
//! event loop.

use crate::{Context, Result};

/// Stack of such a thread, in bytes.
const STACK: usize = 256 << 10;

/// Does something on a thread of its own, whose root and namespaces it may change. It is carried through
/// even if nobody waits for it any more.
///
/// # Errors
/// What the work fails with; or that there can be no thread.
pub async fn apart<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // It fails only if nobody waits any more.
            let _ = done.send(work());
        })
        .context(|| "make a thread")?;
    outcome.await.context(|| "wait for a thread")?
}
