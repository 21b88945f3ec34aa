//! A microVM in one small, jailed process.
pub mod devices;
pub mod layout;
pub mod metrics;
pub mod ram;
