//! What is said, and what bounds it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Exit, sentence};

/// The most bytes of a message after the first.
pub const MOST_BYTES: usize = 8 << 10;
/// The most bytes of the first message.
pub const MOST_LAUNCH_BYTES: usize = 64 << 10;
/// The most descriptors that come with the first message. The kernel takes at most 253 in one.
pub const MOST_DESCRIPTORS: usize = 200;

/// What the process says: `A` is what it answers to a request, `D` how its work can be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Message<A, D> {
    /// It does what it is for.
    Running,
    /// To a request. There is none to one that ends the process.
    Answer(A),
    /// The last one.
    Ended(Exit<D>),
}

/// Why the socket is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// the other side is gone
    #[error("the other side of the control socket is gone")]
    Gone,
    /// the message is not what it must be
    #[error("read {what}: {why}")]
    Wrong {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// the kernel refuses
    #[error("{doing}: {why}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        why: std::io::Error,
    },
}

impl Failure {
    /// For `map_err` on a system call's outcome.
    pub(crate) fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |why| Self::System {
            doing,
            why: why.into(),
        }
    }
}

/// Reads a message's text, of which `whole` says whether all of it arrived.
///
/// # Errors
/// [`Failure::Wrong`], with a reason of bounded length.
pub fn parse<T: DeserializeOwned>(
    what: &'static str,
    text: &[u8],
    whole: bool,
) -> Result<T, Failure> {
    let wrong = |why| Failure::Wrong { what, why };
    if !whole {
        return Err(wrong(format!(
            "it has more than {} bytes, or descriptors",
            text.len()
        )));
    }
    // The library's message quotes what it did not expect, which may be as long as all of it.
    serde_json::from_slice(text).map_err(|why| wrong(sentence::cut(&why.to_string())))
}
