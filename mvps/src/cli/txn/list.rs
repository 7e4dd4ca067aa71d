//! The list of `mvps txn` as text.
//!
//! One change a line: `OFFSET HEX`, `OFFSET @FILE`, `OFFSET zero LENGTH`, `OFFSET trim LENGTH`.
//! Offsets and lengths are bytes, or have a suffix as sizes have anywhere on the command line. `#`
//! begins a comment where a word could; empty lines are none. A path goes to the end of its line.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;

use crate::quantity::ByteSize;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Write { offset: u64, data: Bytes },
    Zero { offset: u64, length: u64 },
    Trim { offset: u64, length: u64 },
}

impl Change {
    pub(super) fn range(&self) -> (u64, u64) {
        match self {
            Self::Write { offset, data } => (*offset, data.len() as u64),
            Self::Zero { offset, length } | Self::Trim { offset, length } => (*offset, *length),
        }
    }
}

/// Changes in order, with the numbers of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List {
    pub(super) changes: Vec<(usize, Change)>,
}

impl List {
    /// Reads a list; `load` reads the files that it names.
    pub(super) fn parse(
        text: &str,
        load: impl Fn(&Path) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        let mut changes = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let change = parse_line(line, &load).with_context(|| format!("line {number}"))?;
            changes.push((number, change));
        }
        Ok(Self { changes })
    }
}

fn parse_line(
    line: &str,
    load: &impl Fn(&Path) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Change> {
    let Some((offset, rest)) = line.split_once(char::is_whitespace) else {
        bail!("an offset alone; what is to happen there?");
    };
    let offset = number(offset)?;
    let rest = rest.trim_start();
    if let Some(file) = rest.strip_prefix('@') {
        let data = Bytes::from(load(Path::new(file))?);
        if data.is_empty() {
            bail!("{file} is empty");
        }
        return Ok(Change::Write { offset, data });
    }
    let words: Vec<&str> = rest
        .split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .collect();
    match words.as_slice() {
        ["zero", length] => Ok(Change::Zero {
            offset,
            length: length_of(length)?,
        }),
        ["trim", length] => Ok(Change::Trim {
            offset,
            length: length_of(length)?,
        }),
        ["zero" | "trim"] => bail!("a length is missing"),
        [hex] => Ok(Change::Write {
            offset,
            data: bytes_of(hex)?,
        }),
        _ => bail!("write OFFSET HEX, OFFSET @FILE, OFFSET zero LENGTH or OFFSET trim LENGTH"),
    }
}

fn number(text: &str) -> anyhow::Result<u64> {
    let size: Result<ByteSize, String> = text.parse();
    size.map(|size| size.0)
        .map_err(|problem| anyhow::anyhow!("{text:?} is {problem}"))
}

fn length_of(text: &str) -> anyhow::Result<u64> {
    match number(text)? {
        0 => bail!("a length of 0 changes nothing"),
        length => Ok(length),
    }
}

fn bytes_of(hex: &str) -> anyhow::Result<Bytes> {
    let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
    let Some(digits) = digits else {
        bail!("{hex:?} is no HEX, and neither @FILE, zero LENGTH nor trim LENGTH");
    };
    if !digits.len().is_multiple_of(2) {
        bail!("{} hexadecimal digits; a byte has two", digits.len());
    }
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high << 4 | low).expect("two digits are a byte"),
        _ => unreachable!("the number of digits is even"),
    });
    Ok(bytes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<(usize, Change)>, String> {
        let load = |path: &Path| match path.to_str() {
            Some("a file") => Ok(b"content".to_vec()),
            Some("empty") => Ok(Vec::new()),
            _ => Err(anyhow::anyhow!("cannot be read")),
        };
        let list = List::parse(text, load);
        list.map(|list| list.changes)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn lists_say_what_they_mean() {
        let text = "# a comment\n\n0 00ffA0\n  4KiB @a file\n8192 zero 1GiB # all of it\n\
                    9 trim 4096\n";
        let data = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let expected = vec![
            (
                3,
                Change::Write {
                    offset: 0,
                    data: data(b"\0\xff\xa0"),
                },
            ),
            (
                4,
                Change::Write {
                    offset: 4096,
                    data: data(b"content"),
                },
            ),
            (
                5,
                Change::Zero {
                    offset: 8192,
                    length: 1 << 30,
                },
            ),
            (
                6,
                Change::Trim {
                    offset: 9,
                    length: 4096,
                },
            ),
        ];
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, said) in [
            ("0 00\n4096", "line 2"),
            ("here 00", "here"),
            ("0 0", "a byte has two"),
            ("0 xyz", "no HEX"),
            ("0 zero", "length is missing"),
            ("0 zero 0", "changes nothing"),
            ("0 trim x", "\"x\""),
            ("0 erase 4096", "OFFSET HEX"),
            ("0 @absent", "cannot be read"),
            ("0 @empty", "is empty"),
            ("-1 00", "-1"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(
                error.contains(said) && error.contains("line"),
                "{text:?}: {error}"
            );
        }
    }
}
