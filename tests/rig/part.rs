//! The test program's command line: the name of one of its parts, and what that part is told.

/// What the part was told: all that follows its name.
pub fn arguments() -> impl Iterator<Item = String> {
    std::env::args().skip(2)
}

/// The part's name and what it was told, as a program's own name and its arguments.
pub fn named() -> impl Iterator<Item = String> {
    std::env::args().skip(1)
}
