use std::{fmt, io};

use nix::errno::Errno;

/// A failure in one sentence, `doing: why`, which keeps the kernel's number.
#[derive(Debug)]
pub struct Error {
    doing: String,
    source: io::Error,
    note: Option<String>,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure while `doing` something, for a reason.
    pub fn new(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            doing: doing.into(),
            source: source.into(),
            note: None,
        }
    }

    /// A failure while `doing` something that can't be right, whatever the state of the machine. Its
    /// [kind](Self::kind) is `InvalidInput`.
    pub fn invalid(doing: impl Into<String>, why: impl Into<String>) -> Self {
        let why = io::Error::new(io::ErrorKind::InvalidInput, why.into());
        Self::new(doing, why)
    }

    /// The same failure, with what was said of it besides: it follows in brackets.
    #[must_use]
    pub fn noting(self, note: Option<String>) -> Self {
        Self { note, ..self }
    }

    /// What was being done, to what.
    #[must_use]
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// The kernel's number, if it was the kernel that refused.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// What kind of failure the source was.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether somebody asked for what can't be: no error of the kernel's, who says `EINVAL` for much.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.raw_os_error().is_none() && self.kind() == io::ErrorKind::InvalidInput
    }

    /// The same failure, told as part of a larger undertaking: `doing: message`.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self {
            doing: format!("{doing}: {}", self.doing),
            ..self
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.doing, reason(&self.source))?;
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What an error says; if it is the kernel's, in the lower case that kubelet, critest and people's scripts
/// match: "no such file or directory", "permission denied".
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    let words = Errno::from_raw(number).desc();
    let mut letters = words.chars();
    match (letters.next(), letters.next()) {
        // "I/O error" keeps its capitals; "No such file" does not.
        (Some(first), Some(second)) if second.is_lowercase() => {
            let rest = words.get(first.len_utf8()..).unwrap_or_default();
            format!("{}{rest}", first.to_lowercase())
        }
        _ => words.to_owned(),
    }
}

/// Says what was being done when the kernel refused.
pub trait Context<T> {
    /// Turns a failure into an [`Error`] that begins with `doing`.
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|why| Error::new(doing().to_string(), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_sentence_and_keeps_the_number() {
        for error in [
            Err::<(), _>(Errno::ENOENT).context(|| "open /a"),
            Err(rustix::io::Errno::NOENT).context(|| "open /a"),
            Err(io::Error::from_raw_os_error(libc::ENOENT)).context(|| "open /a"),
        ] {
            let error = error.expect_err("it was one").context("make a copy");
            assert_eq!(
                error.to_string(),
                "make a copy: open /a: no such file or directory"
            );
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            assert!(!error.is_invalid());
        }
    }

    #[test]
    fn what_cannot_be_right_is_told_from_what_the_kernel_refuses() {
        let error = Error::invalid("take the layers apart", "one has no name");
        assert_eq!(error.to_string(), "take the layers apart: one has no name");
        assert!(error.is_invalid());
        let refused = Error::new("set it", Errno::EINVAL).noting(Some("unknown".to_owned()));
        assert!(!refused.is_invalid());
        assert_eq!(refused.to_string(), "set it: invalid argument (unknown)");
    }

    #[test]
    fn reasons_are_the_phrases_others_match() {
        for (number, phrase) in [
            (libc::ENOENT, "no such file or directory"),
            (libc::EACCES, "permission denied"),
            (libc::EPERM, "operation not permitted"),
            (libc::ENOEXEC, "exec format error"),
            (libc::EISDIR, "is a directory"),
            (libc::ENOTDIR, "not a directory"),
            (libc::EIO, "I/O error"),
        ] {
            assert_eq!(reason(&io::Error::from_raw_os_error(number)), phrase);
        }
        assert_eq!(reason(&io::Error::other("No luck")), "No luck");
    }
}
