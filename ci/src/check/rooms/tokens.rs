//! Cuts Rust source into names and punctuation, without comments and literals.
//!
//! Macros are cut like everything else, so that paths in `select! { … }` are seen, too.

/// A name, `::`, or one character of punctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// As it is written, a raw name without its `r#`.
    pub text: &'a str,
    /// The line on which it begins, from 1.
    pub line: usize,
}

impl Token<'_> {
    /// Whether it is a name (or a keyword).
    pub fn is_name(&self) -> bool {
        self.text.starts_with(is_name_start)
    }
}

/// The tokens of `source`.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut cursor = Cursor {
        source,
        at: 0,
        line: 1,
    };
    while let Some(first) = cursor.peek(0) {
        let line = cursor.line;
        if let Some(text) = cursor.token(first) {
            tokens.push(Token { text, line });
        }
    }
    tokens
}

fn is_name_start(character: char) -> bool {
    character.is_alphabetic() || character == '_'
}

fn is_name_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// A place in the source; it only moves forward.
struct Cursor<'a> {
    source: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest().chars().nth(ahead)
    }

    /// Moves over `bytes` bytes and returns them.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.line += taken.matches('\n').count();
        self.at += bytes;
        taken
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|character| !belongs(character));
        self.take(end.unwrap_or(rest.len()))
    }

    /// Moves over what begins with `first`; `None` for space, comments, literals and lifetimes.
    fn token(&mut self, first: char) -> Option<&'a str> {
        let rest = self.rest();
        if rest.starts_with("//") {
            self.take_while(|character| character != '\n');
            return None;
        }
        if rest.starts_with("/*") {
            self.block_comment();
            return None;
        }
        if let Some(prefix_bytes) = string_prefix(rest) {
            self.take(prefix_bytes);
            self.string();
            return None;
        }
        if rest.starts_with("r#") && self.peek(2).is_some_and(is_name_start) {
            self.take(2);
            return Some(self.take_while(is_name_part));
        }
        if rest.starts_with("b'") {
            self.take(1);
            self.quote();
            return None;
        }
        match first {
            '\'' => self.quote(),
            _ if first.is_whitespace() => {
                self.take_while(char::is_whitespace);
            }
            _ if first.is_ascii_digit() => {
                self.take_while(is_name_part);
            }
            _ if is_name_start(first) => return Some(self.take_while(is_name_part)),
            _ if rest.starts_with("::") => return Some(self.take(2)),
            _ => return Some(self.take(first.len_utf8())),
        }
        None
    }

    /// A comment in `/*` and `*/`, which may contain others.
    fn block_comment(&mut self) {
        let mut depth = 0;
        while !self.rest().is_empty() {
            if self.rest().starts_with("/*") {
                depth += 1;
                self.take(2);
            } else if self.rest().starts_with("*/") {
                depth -= 1;
                self.take(2);
            } else {
                self.take(self.peek(0).map_or(1, char::len_utf8));
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// A string from its `"`, or from the `#` of a raw one.
    fn string(&mut self) {
        let hashes = self.take_while(|character| character == '#');
        let is_raw = !hashes.is_empty() || self.source[..self.at].ends_with('r');
        self.take(1);
        if is_raw {
            let end = format!("\"{hashes}");
            let rest = self.rest();
            let bytes = rest.find(&end).map_or(rest.len(), |at| at + end.len());
            self.take(bytes);
            return;
        }
        while let Some(character) = self.peek(0) {
            self.take(character.len_utf8());
            match character {
                '"' => return,
                '\\' => {
                    self.take(self.peek(0).map_or(0, char::len_utf8));
                }
                _ => {}
            }
        }
    }

    /// A character, or a lifetime.
    fn quote(&mut self) {
        self.take(1);
        let is_escape = self.peek(0) == Some('\\');
        if !is_escape && self.peek(1) != Some('\'') {
            self.take_while(is_name_part);
            return;
        }
        if is_escape {
            self.take(1);
            self.take(self.peek(0).map_or(0, char::len_utf8));
        }
        self.take_while(|character| character != '\'');
        self.take(self.peek(0).map_or(0, char::len_utf8));
    }
}

/// The bytes before a string's `"` or `#`, if one begins here.
fn string_prefix(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""];
    let prefix = prefix.iter().find(|prefix| {
        let Some(after) = rest.strip_prefix(**prefix) else {
            return false;
        };
        let is_raw = prefix.ends_with('r');
        let opening = match is_raw {
            true => after.trim_start_matches('#'),
            false => after,
        };
        opening.starts_with('"')
    });
    prefix.map(|prefix| prefix.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_punctuation_remain() {
        let check = |source: &str, expected: &[&str]| {
            let found: Vec<&str> = tokens(source).iter().map(|token| token.text).collect();
            assert_eq!(found, expected, "{source}");
        };
        check("use a::b;", &["use", "a", "::", "b", ";"]);
        check("a // b\n/* c /* d */ e */ f", &["a", "f"]);
        check(r#"f("a::b \" c", x)"#, &["f", "(", ",", "x", ")"]);
        check(
            "r\"\\\" a r#\"b \" c\"# d br##\"\"# e\"## f",
            &["a", "d", "f"],
        );
        check("'a' 'b: '\\'' b'\\n' '\\u{1F}' '\"' x", &[":", "x"]);
        check("&'static str", &["&", "str"]);
        check("r#type 0x1f 1.5e3 1..2", &["type", ".", ".", "."]);
        check("'é' é", &["é"]);
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let found = tokens("/*\n*/ a \"\n\n\" b\n// c\nd");
        let lines: Vec<(&str, usize)> =
            found.iter().map(|token| (token.text, token.line)).collect();
        assert_eq!(lines, [("a", 2), ("b", 4), ("d", 6)]);
    }
}
