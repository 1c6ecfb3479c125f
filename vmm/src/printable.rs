//! Text of a message from untrusted input: arguments, paths, and names in a disk image.
//!
//! A terminal obeys control characters in what it shows. In a message they are escaped, so that each message is one line and shows
//! what it is about.

use std::fmt;

/// Shows a value with control characters and other invisible ones escaped.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: fmt::Display> fmt::Display for Printable<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        write!(Escaped { out, kept: &[] }, "{}", self.0)
    }
}

/// Shows a text of several lines with all control characters but line feeds escaped.
#[derive(Clone, Copy, Debug)]
pub struct PrintableLines<T>(pub T);

impl<T: fmt::Display> fmt::Display for PrintableLines<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        write!(Escaped { out, kept: &['\n'] }, "{}", self.0)
    }
}

/// Whether a terminal shows a character as it is. Bidirectional controls reorder the text around them.
#[must_use]
pub fn is_printable(character: char) -> bool {
    let is_bidirectional =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !is_bidirectional && !matches!(character, '\u{2028}' | '\u{2029}')
}

struct Escaped<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    kept: &'a [char],
}

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| {
            if is_printable(character) || self.kept.contains(&character) {
                self.out.write_char(character)
            } else {
                write!(self.out, "{}", character.escape_default())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_others_stay() {
        let text = Printable("a\x1b[2J\u{9b}1m\r\n\u{202e}é€").to_string();
        assert_eq!(text, "a\\u{1b}[2J\\u{9b}1m\\r\\n\\u{202e}é€");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(PrintableLines("one\n\ttwo\x07\n").to_string(), "one\n\\ttwo\\u{7}\n");
    }
}
