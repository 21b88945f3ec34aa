//! Builds what is for guests: the kernel and the image that a microVM boots, and the agent.
//!
//! All are reproducible, cached under a key of their inputs, and need neither root nor a change
//! to the machine. Nothing in here runs on a node: the results do.
//!
//! Also here, because both builders and the test bench need them: the [`cache`], and Debian's
//! packages without touching the machine's own package state ([`debian`]), and long work that says how far it
//! is ([`progress`]).

pub mod cache;
pub mod cpio;
pub mod debian;
mod home;
pub mod image;
pub mod kernel;
pub mod program;
pub mod progress;
pub mod run;
