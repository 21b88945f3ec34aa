use std::fmt;

/// What kind of failure an [`Error`] is: each is one gRPC status code, which containerd acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// The request itself can't be right, whatever the state.
    InvalidArgument,
    /// No such container or process, or it has ended already.
    NotFound,
    /// A container or process of that name is there already.
    AlreadyExists,
    /// The request is right, but not in the present state.
    FailedPrecondition,
    /// Trefoil doesn't do this (yet).
    Unimplemented,
    /// Something needed is not reachable now: trying again may help.
    Unavailable,
    /// Anything else: the kernel, the machine or ourselves.
    Internal,
}

/// A failure in one sentence: what was being done, to what, and why it didn't work. The sentence
/// reaches `kubectl describe pod` and the node's log as it is, and a manifest, an image or a guest may
/// have chosen parts of it: what would end the line or steer a terminal is spelled out, as `\n`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of `kind` that `message` describes.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: one_line(message.into()),
        }
    }

    /// A failure of the machine or ourselves.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// A request that can't be right.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Something that is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// A request out of order.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FailedPrecondition, message)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same failure, told as part of a larger undertaking: `doing: message`.
    #[must_use]
    pub fn context(self, doing: impl fmt::Display) -> Self {
        Self::new(self.kind, format!("{doing}: {}", self.message))
    }
}

/// The same text with what would end a line, steer a terminal or turn the direction of writing escaped.
fn one_line(text: String) -> String {
    match text.contains(steers) {
        false => text,
        true => text.chars().fold(String::new(), |mut line, character| {
            match steers(character) {
                true => line.extend(character.escape_default()),
                false => line.push(character),
            }
            line
        }),
    }
}

/// Controls of ISO 6429, line separators, and the directions of Unicode's annex 9.
fn steers(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    );
    turns || character.is_control()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<trefoil_os::Error> for Error {
    /// The same sentence. What can't be right is an invalid argument; for the rest, whoever asked decides
    /// what the kernel's number means, and until then it is internal.
    fn from(why: trefoil_os::Error) -> Self {
        match why.is_invalid() {
            true => Self::invalid(why.to_string()),
            false => Self::internal(why.to_string()),
        }
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Turns a failure into an [`Error`] that begins with `doing`.
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: std::error::Error> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|why| Error::internal(format!("{}: {why}", doing())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind_and_reads_as_one_sentence() {
        let error = Error::not_found("no such file").context("open the log of container web");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "open the log of container web: no such file"
        );
    }

    #[test]
    fn an_error_of_the_system_keeps_its_sentence_and_what_is_known_of_its_kind() {
        let refused = std::io::Error::from_raw_os_error(22);
        let refused = Error::from(trefoil_os::Error::new("mount it", refused));
        assert_eq!(refused.to_string(), "mount it: invalid argument");
        assert_eq!(refused.kind(), ErrorKind::Internal);
        let wrong = Error::from(trefoil_os::Error::invalid("mount it", "no such layer"));
        assert_eq!(wrong.to_string(), "mount it: no such layer");
        assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn nothing_in_a_message_ends_its_line_or_steers_a_terminal() {
        let error = Error::invalid("no such path: /a\nb\r\u{1b}[2J\u{202e}\u{9b}")
            .context("mount /caf\u{e9}\t\\");
        assert_eq!(
            error.to_string(),
            r"mount /café\t\: no such path: /a\nb\r\u{1b}[2J\u{202e}\u{9b}"
        );
    }
}
