//! How the server ended.

use std::fmt;

use serde::{Deserialize, Serialize};
use trefoil_jail::Done;

/// How a server's process ended.
pub type Exit = trefoil_jail::Exit<HungUp>;

/// The front end or the parent has hung up, and nobody is left to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HungUp;

impl Done for HungUp {
    const PROCESS: &'static str = "file server";

    fn code(&self) -> i32 {
        0
    }

    fn of_code(code: i32) -> Option<Self> {
        (code == 0).then_some(Self)
    }
}

impl fmt::Display for HungUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file server was hung up on")
    }
}
