//! The lines by which a guest's init reports: `guest> TOPIC key=value ...`.
//!
//! Only the last value, `why`, has spaces in it. Something else may stand before the mark, when a message of the
//! kernel's had no end of line yet.

use std::fmt;

use crate::error::{Error, Result};

const MARK: &str = "guest> ";

/// One report of a guest's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    topic: String,
    rest: String,
}

impl Line {
    /// Reads a line of the console; `None` if it is no report.
    pub fn parse(console: &str) -> Option<Self> {
        console.trim_end().rsplit_once(MARK).map(|(_, said)| Self::new(said))
    }

    /// Reads what stands after the mark.
    pub fn new(said: &str) -> Self {
        let (topic, rest) = said.split_once(' ').unwrap_or((said, ""));
        Self { topic: topic.to_owned(), rest: rest.trim().to_owned() }
    }

    /// What it is about.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The text after the topic.
    pub fn text(&self) -> &str {
        &self.rest
    }

    /// A value, by its name.
    ///
    /// # Errors
    /// The line has no such value.
    pub fn value(&self, key: &str) -> Result<&str> {
        self.find(key).ok_or_else(|| self.missing("value", key))
    }

    /// A value that is a whole number.
    ///
    /// # Errors
    /// The line has no such value, or it is no number.
    pub fn number(&self, key: &str) -> Result<u64> {
        self.value(key)?.parse().map_err(|_| self.missing("whole number", key))
    }

    /// A value that is a number of seconds.
    ///
    /// # Errors
    /// The line has no such value, or it is no number.
    pub fn seconds(&self, key: &str) -> Result<f64> {
        self.value(key)?.parse().map_err(|_| self.missing("number", key))
    }

    fn find(&self, key: &str) -> Option<&str> {
        let (fields, why) = match self.rest.split_once("why=") {
            Some((fields, why)) => (fields, Some(why)),
            None => (self.rest.as_str(), None),
        };
        if key == "why" {
            return why;
        }
        fields.split_whitespace().find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
    }

    fn missing(&self, what: &'static str, key: &str) -> Error {
        Error::Value { what, key: key.to_owned(), line: self.to_string() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.topic, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let line =
            Line::parse("[ 1.0] noise guest> doorbell at=0000:00:01.0 first_rung=7 rung=70\r\n").unwrap();
        assert_eq!(line.topic(), "doorbell");
        assert_eq!(line.value("at").unwrap(), "0000:00:01.0");
        assert_eq!(line.number("rung").unwrap(), 70);
        assert!(line.number("at").unwrap_err().to_string().contains("whole number `at`"));
        assert!(line.value("lost").is_err());
    }

    #[test]
    fn a_reason_keeps_its_spaces() {
        let line = Line::parse("guest> failed job=grow why=a b=c d").unwrap();
        assert_eq!((line.value("job").unwrap(), line.value("why").unwrap()), ("grow", "a b=c d"));
        assert!(line.value("b").is_err());
    }

    #[test]
    fn other_lines_are_none() {
        assert_eq!(Line::parse("Run /init as init process"), None);
        assert_eq!(Line::parse("guest> bye").unwrap().topic(), "bye");
    }
}
