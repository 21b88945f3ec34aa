//! Requests and answers: a line of words, and a line that begins with `ok` or `failed`.

use std::fmt::Display;
use std::io;
use std::str::FromStr;

use nix::errno::Errno;

/// What came of a request.
pub(crate) type Outcome = Result<Answer, String>;

/// What a request that was done is answered with.
pub(crate) enum Answer {
    /// Words of a key and a value.
    Facts(String),
    /// Bytes, which follow the line that says how many.
    Bytes(Vec<u8>),
    /// Nothing, as whoever asked can't be answered any more: connect to the host anew.
    Again,
}

impl Answer {
    /// It was done, and there is nothing to say about it.
    pub(crate) fn done() -> Outcome {
        Ok(Self::Facts(String::new()))
    }
}

/// Facts: `facts!(size = 4096, serial = "disk")`.
macro_rules! facts {
    ($($key:ident = $value:expr),+ $(,)?) => {{
        let mut text = String::new();
        $(
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&format!("{}={}", stringify!($key), $value));
        )+
        Ok($crate::request::Answer::Facts(text))
    }};
}
pub(crate) use facts;

/// The words of a request, from the second on.
pub(crate) struct Words<'a> {
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// The name of a request, and the rest of it.
    pub(crate) fn split(line: &'a str) -> (&'a str, Self) {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        (
            name,
            Self {
                words: words.collect(),
            },
        )
    }

    /// The next word.
    pub(crate) fn word(&mut self, what: &str) -> Result<&'a str, String> {
        if self.words.is_empty() {
            return Err(format!("the request doesn't say {what}"));
        }
        Ok(self.words.remove(0))
    }

    /// The next word, as what it stands for.
    pub(crate) fn parse<T: FromStr>(&mut self, what: &str) -> Result<T, String> {
        let word = self.word(what)?;
        word.parse()
            .map_err(|_| format!("{word:?} can't be {what}"))
    }

    /// The next word if there is one, as what it stands for.
    pub(crate) fn parse_or<T: FromStr>(&mut self, what: &str, or: T) -> Result<T, String> {
        if self.words.is_empty() {
            return Ok(or);
        }
        self.parse(what)
    }

    /// Whether this word is among those that are left; it isn't any more.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let position = self.words.iter().position(|word| *word == name);
        position
            .map(|position| self.words.remove(position))
            .is_some()
    }

    /// The word after this one, if both are among those that are left; they aren't any more.
    pub(crate) fn option(&mut self, name: &str) -> Option<&'a str> {
        let position = self.words.iter().position(|word| *word == name)?;
        let value = *self.words.get(position + 1)?;
        self.words.drain(position..position + 2);
        Some(value)
    }

    /// What is left, with a space between the words.
    pub(crate) fn rest(&mut self) -> String {
        std::mem::take(&mut self.words).join(" ")
    }

    /// That nothing is left.
    pub(crate) fn end(&self) -> Result<(), String> {
        match self.words.first() {
            None => Ok(()),
            Some(word) => Err(format!("the request goes on with {word:?}")),
        }
    }
}

/// Adds to an error what was being done. The host knows an error by its name, such as `EPIPE`.
pub(crate) trait While<T> {
    /// Makes it a sentence.
    fn during(self, what: impl Display) -> Result<T, String>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, what: impl Display) -> Result<T, String> {
        self.map_err(|error| format!("{what}: {}", name(&error)))
    }
}

impl<T> While<T> for nix::Result<T> {
    fn during(self, what: impl Display) -> Result<T, String> {
        self.map_err(|errno| format!("{what}: {errno:?}"))
    }
}

/// The name of an error.
pub(crate) fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => format!("{:?}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_in_order_and_options_from_anywhere() {
        let (name, mut words) = Words::split("net-up eth0 mtu 9000 10.0.0.2/24 direct\n");
        assert_eq!(name, "net-up");
        assert_eq!(words.word("an interface"), Ok("eth0"));
        assert_eq!(words.option("mtu"), Some("9000"));
        assert_eq!(words.option("gateway"), None);
        assert!(words.flag("direct"));
        assert!(!words.flag("direct"));
        assert!(words.end().is_err());
        assert_eq!(words.word("an address"), Ok("10.0.0.2/24"));
        assert_eq!(words.end(), Ok(()));
        assert_eq!(
            words.parse::<u64>("a length"),
            Err("the request doesn't say a length".into())
        );
    }

    #[test]
    fn a_number_that_is_none_is_told() {
        let (_, mut words) = Words::split("rng many 3");
        assert_eq!(
            words.parse::<u64>("a length"),
            Err("\"many\" can't be a length".into())
        );
        assert_eq!(words.parse_or("a count", 1), Ok(3));
        assert_eq!(words.parse_or("a count", 1), Ok(1));
    }

    #[test]
    fn errors_have_their_names() {
        let error = io::Error::from_raw_os_error(libc::ECONNRESET);
        let failed: Result<(), _> = Err(error).during("reading");
        assert_eq!(failed, Err("reading: ECONNRESET".into()));
        let failed: Result<(), _> = Err(Errno::EROFS).during("opening /dev/vda");
        assert_eq!(failed, Err("opening /dev/vda: EROFS".into()));
    }
}
