//! The states of a connection and of its parts.

use super::packet::Op;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host's side has asked for it, and the guest has not answered.
    Connecting,
    /// Data may flow.
    Open,
    /// The host's side has gone, and the guest is to be told or to answer.
    Closing,
    /// The guest has gone and its data is still to be delivered. Its ports are free again.
    Lingering,
}

/// What one side still does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// It sends and receives.
    #[default]
    Whole,
    /// It receives no more.
    Sends,
    /// It sends no more.
    Receives,
    /// Neither.
    Gone,
}

impl Side {
    /// Whether it may send.
    pub fn sends(self) -> bool {
        matches!(self, Self::Whole | Self::Sends)
    }

    /// Whether it may receive.
    pub fn receives(self) -> bool {
        matches!(self, Self::Whole | Self::Receives)
    }

    /// It sends no more.
    pub fn end_sending(&mut self) {
        *self = match self {
            Self::Whole | Self::Receives => Self::Receives,
            Self::Sends | Self::Gone => Self::Gone,
        };
    }

    /// It receives no more.
    pub fn end_receiving(&mut self) {
        *self = match self {
            Self::Whole | Self::Sends => Self::Sends,
            Self::Receives | Self::Gone => Self::Gone,
        };
    }
}

/// What is known of the socket's data for the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Input {
    /// None is there, or we are told when there is.
    #[default]
    Awaited,
    /// Some is there, or its end.
    Ready,
    /// There was more the last time than we had room for.
    Bulk,
}

/// What the host's side has been told of the guest's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// More may come.
    #[default]
    Open,
    /// It was all.
    Ended,
}

/// Who tells whom of the guest's credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// Nobody has needed to.
    #[default]
    Unknown,
    /// The guest was asked, when it had been sent so much, and has not answered.
    Asked(u32),
    /// The guest has told without being asked.
    Unasked,
}

/// Packets without data that the guest is to get: one bit each, however often it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending(u8);

impl Pending {
    /// Adds one.
    pub fn add(&mut self, op: Op) {
        self.0 |= 1 << op as u16;
    }

    /// Takes one off; whether it was there.
    pub fn take(&mut self, op: Op) -> bool {
        let there = self.has(op);
        self.0 &= !(1 << op as u16);
        there
    }

    /// Whether this one is there.
    pub fn has(self, op: Op) -> bool {
        self.0 & 1 << op as u16 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}
