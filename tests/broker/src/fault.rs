//! The ways in which a broker can be wrong, or hostile.

use std::str::FromStr;

use anyhow::bail;

/// One answer of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The challenge.
    Auth,
    /// The token.
    Attest,
    /// A resource.
    Resource,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Resources are encrypted to a key that is not the guest's.
    OtherKey,
    /// Each session gets the same nonce.
    ReplayedNonce,
    /// The nonce has so many bytes, not 32.
    NonceOf(usize),
    /// The challenge chooses a hash that was not offered.
    OtherHash,
    /// A resource's tag has a bit flipped.
    WrongTag,
    /// A resource's header has a blank more than was authenticated.
    WrongHeader,
    /// The session has no cookie.
    NoCookie,
    /// Nothing is answered.
    Silent(Step),
    /// An answer says that it is of a tebibyte.
    Announced(Step),
    /// An answer has no end.
    Endless(Step),
    /// An answer ends before it should.
    Truncated(Step),
    /// An answer is `status` without a reason.
    Status(Step, u16),
    /// An answer is no JSON.
    Garbage(Step),
    /// So many connections are closed at once; then all is well.
    HangsUp(usize),
    /// The connection is closed after each answer, which is none of an error.
    Closes,
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    /// The names that the program's command line has for some of them.
    fn from_str(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "other-key" => Self::OtherKey,
            "replayed-nonce" => Self::ReplayedNonce,
            "short-nonce" => Self::NonceOf(16),
            "wrong-tag" => Self::WrongTag,
            "silent" => Self::Silent(Step::Auth),
            "huge" => Self::Endless(Step::Resource),
            "truncated" => Self::Truncated(Step::Resource),
            "busy" => Self::Status(Step::Auth, 503),
            "closes" => Self::Closes,
            other => bail!("unknown fault {other:?}"),
        })
    }
}
