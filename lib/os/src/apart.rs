//! Work that may wait for a disk or a network, or that changes what belongs to a thread, apart from the
//! event loop.

use crate::{Context, Error};

/// Stack of such a thread, in bytes.
const STACK: usize = 256 << 10;

/// Does something on a thread of its own, whose root and namespaces it may change. It is carried through
/// even if nobody waits for it any more.
///
/// # Errors
/// What the work fails with; or that there can be no thread.
pub async fn apart<T: Send + 'static, E: From<Error> + Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(move || {
            // It fails only if nobody waits any more.
            let _ = done.send(work());
        })
        .context(|| "make a thread")?;
    let outcome = outcome.await.map_err(std::io::Error::other);
    outcome.context(|| "wait for a thread")?
}
