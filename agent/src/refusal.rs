//! How a configuration is refused: by the name of what is wrong with it.

use std::fmt::Display;

use trefoil_core::Error;

/// That the configuration's `field` can't be had, and why.
pub(crate) fn refused(field: impl Display, why: impl Display) -> Error {
    Error::invalid(format!("the configuration's {field} is refused: {why}"))
}
