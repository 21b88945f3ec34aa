//! Why a request was denied.

use std::fmt;

use crate::Check;

/// No denial has more bytes: it has to fit into an event with what others say around it.
pub const LONGEST_DENIAL: usize = 512;

/// The most bytes of each part, which together are less.
const LONGEST_FIELD: usize = 150;
const LONGEST_CAME: usize = 110;
const LONGEST_ALLOWED: usize = 180;

/// That a request was denied: one field, what came, and what would be allowed.
///
/// It says nothing that the host doesn't know, but for what the policy allows; and nothing of what the
/// policy calls secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The check, whose name is the denial's code.
    pub check: Check,
    /// The field, from the request's name on.
    pub field: String,
    /// What came, shortened.
    pub came: String,
    /// What would be allowed, shortened.
    pub allowed: String,
}

impl Denial {
    /// One, of which each part is shortened to one line.
    pub fn new(
        check: Check,
        field: impl fmt::Display,
        came: impl fmt::Display,
        allowed: impl fmt::Display,
    ) -> Self {
        Self {
            check,
            field: short(field, LONGEST_FIELD),
            came: short(came, LONGEST_CAME),
            allowed: short(allowed, LONGEST_ALLOWED),
        }
    }

    /// The same, as it is named from further out.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = short(format_args!("{outer}.{}", self.field), LONGEST_FIELD);
        self
    }

    /// A name that stays the same from version to version.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.check.name()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "the policy denies {} ({}): {}; allowed: {}",
            self.field,
            self.code(),
            self.came,
            self.allowed
        )
    }
}

impl std::error::Error for Denial {}

/// A value in one line of at most so many bytes.
fn short(value: impl fmt::Display, longest: usize) -> String {
    let mut line = Line {
        text: String::new(),
        longest,
    };
    // It fails when the line is full.
    if fmt::Write::write_fmt(&mut line, format_args!("{value}")).is_err() {
        line.text.push('…');
    }
    line.text
}

/// Takes no more than it has room for, so that nothing long is written in vain.
struct Line {
    text: String,
    longest: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for one in more.chars() {
            let one = if one.is_control() { ' ' } else { one };
            if self.text.len() + one.len_utf8() > self.longest - '…'.len_utf8() {
                return Err(fmt::Error);
            }
            self.text.push(one);
        }
        Ok(())
    }
}
