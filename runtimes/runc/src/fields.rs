//! Every field of the runtime specification 1.3 for Linux, and what becomes of it.
//!
//! The table is the source of `docs/runtime-spec.md`, which a test compares (`UPDATE=1` rewrites it).
//! Tests hold that what it has is what the reader of configurations (`lib/spec`) knows, and that each
//! field's test is there.

/// What is done with a field that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    /// The container has it, or does not start.
    Applied,
    /// No container starts with it: it cannot be had here.
    Refused,
    /// It is logged by name and has no effect.
    Recorded,
}

use Treatment::{Applied, Recorded, Refused};

/// A path of keys. `[]` follows a list, `{}` a map with keys of the user's; `*` stands for all
/// below. Then what is done, what there is to say, and the test that shows it: one of `tests/fields`,
/// which makes containers, where it begins with `fields`, or else one of a module's own.
type Field = (&'static str, Treatment, &'static str, &'static str);

mod table;

mod tests;
