//! A pod's machine: what it is made of ([`profile`], [`size`]), how it comes about ([`boot`]), and what runs
//! then ([`running`]).

pub(crate) mod boot;
pub(crate) mod console;
pub(crate) mod phases;
pub(crate) mod profile;
mod running;
pub(crate) mod size;

pub(crate) use running::Machine;
