//! What a machine and its parent say to each other over the machine's control socket.
//!
//! First the parent sends what the machine is to be, with the descriptors of it all: a
//! [`Configuration`](super::configuration::Configuration). From then on, [`Request`]s one way, of which
//! one brings descriptors, a disk's, and [`Message`]s the other. The socket itself, and what bounds its
//! messages, is [`trefoil_jail::control`].

use serde::{Deserialize, Serialize};
pub use trefoil_jail::control::{MOST_BYTES, MOST_DESCRIPTORS, MOST_LAUNCH_BYTES};

use super::exit::Stop;

/// What the parent can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Request {
    /// Stop the virtual CPUs. A machine that is paused stays so.
    Pause,
    /// Let them run.
    Resume,
    /// Only answer.
    Stats,
    /// End in order, as if the guest had powered itself off.
    PowerOff,
    /// End at once.
    Kill,
    /// Put a disk into a place that was kept for one. Its files come along as descriptors.
    Attach(Attach),
    /// Take a disk out again.
    Detach(Detach),
}

impl Request {
    /// Whether descriptors come with it.
    pub(crate) fn brings_descriptors(&self) -> bool {
        matches!(self, Self::Attach(_))
    }
}

/// A disk that comes. It is made of the files that come along, from 1 to
/// [`MOST_PARTS`](crate::devices::block::MOST_PARTS), one after the other; several can only be read. Each
/// has a length that is a multiple of 512.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attach {
    /// Which device, counted as in the configuration; it must be a
    /// [`Slot`](super::configuration::Device::Slot).
    pub device: u8,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// By which the guest can find it; at most 20 bytes.
    pub serial: String,
}

/// A disk that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Detach {
    /// Where it is.
    pub device: u8,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done(Stats),
    /// It was not, and why, in a sentence.
    Refused(#[serde(with = "trefoil_jail::sentence")] String),
}

/// How the machine is. What it counts is in the memory it shares: [`crate::metrics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stats {
    /// The virtual CPUs are stopped.
    pub paused: bool,
}

/// What the machine says.
pub type Message = trefoil_jail::Message<Answer, Stop>;
