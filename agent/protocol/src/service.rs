//! The agent's service and its messages, made from `proto/agent.proto`.

// None of it is written by hand.
#![allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/service/mod.rs"));

pub use agent::*;
pub use agent_ttrpc::{Agent, AgentClient, create_agent};
