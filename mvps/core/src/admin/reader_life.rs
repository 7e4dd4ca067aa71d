//! Who pins a version: one life of one server (protocol §4.7).
//!
//! A reader's pin is named `STABLE.LINE.LIFE:WHAT`, for example
//! `host-9c2e71d04b6a5f38.00d1c5f3a2b4e697.7be0f1a2c3d4e5f6:snapshot:monday`:
//! - *stable*: of a folder of buffer stores, and of every copy of it;
//! - *line*: random; of servers that followed each other under one lock;
//! - *life*: random; of one server, from its start to its end;
//! - *what* it serves, so that closing one thing leaves the pins of others alone.
//!
//! A manifest holds the name as a text (docs/format.md), and any text is a name: those of earlier
//! releases have no line and no life.
//!
//! Invariants: no two lives have a name in common, so a release, however late, is of the life that
//! asked for it. At most one server of a line is alive: whoever is of that line and of another
//! life has ended. Of servers of the same stable id and other lines nothing is known.

use std::fmt;

use crate::env::{Entropy, EntropyExt as _};
use crate::token::Shown;

/// Digits of a line and of a life.
const DIGITS: usize = 16;

/// One life of a server, as it names its pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderLife {
    stable: String,
    line: u64,
    life: u64,
}

impl ReaderLife {
    /// A new life in the line `line`.
    ///
    /// Whoever begins one vouches that every other life of that line has ended: it is the only one
    /// that holds the lock that the line belongs to.
    #[must_use]
    pub fn begin(stable: &str, line: u64, entropy: &dyn Entropy) -> Self {
        Self {
            stable: stable.to_owned(),
            line,
            life: entropy.u64(),
        }
    }

    /// The line.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The life that [`fmt::Display`] shows as `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.rsplitn(3, '.');
        let (life, line) = (number(parts.next()?)?, number(parts.next()?)?);
        Some(Self {
            stable: parts.next()?.to_owned(),
            line,
            life,
        })
    }

    /// What this life's pin is called for what it serves as `shown`.
    #[must_use]
    pub(crate) fn pin_name(&self, shown: &Shown) -> String {
        let what = match shown {
            Shown::Newest => String::new(),
            Shown::Version(version) => format!("{VERSION}{version}"),
            Shown::Snapshot(name) => format!("{SNAPSHOT}{name}"),
        };
        if crate::mutant::is("reader ids without a life") {
            return format!("{}{what}", self.stable);
        }
        format!("{self}{what}")
    }

    /// Whether the pin `name` is of another life that has ended, as far as this life can know.
    pub(super) fn has_outlived(&self, name: &PinName<'_>) -> bool {
        let Some(other) = &name.life else {
            return false;
        };
        let same_line = other.line == self.line
            || crate::mutant::is("a copied folder's reader taken for an earlier life");
        other.stable == self.stable && same_line && other.life != self.life
    }
}

impl fmt::Display for ReaderLife {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stable, line, life } = self;
        write!(formatter, "{stable}.{line:0DIGITS$x}.{life:0DIGITS$x}")
    }
}

const SNAPSHOT: &str = ":snapshot:";
const VERSION: &str = ":version:";

fn number(text: &str) -> Option<u64> {
    let is_plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let plain = text.len() == DIGITS && text.bytes().all(is_plain);
    plain.then(|| u64::from_str_radix(text, 16).ok())?
}

/// The name of a reader's pin, taken apart.
pub(super) struct PinName<'a> {
    pub(super) whole: &'a str,
    /// Without what is served.
    server: &'a str,
    /// Whose it is; `None` of a name without a life.
    pub(super) life: Option<ReaderLife>,
}

impl<'a> PinName<'a> {
    pub(super) fn of(whole: &'a str) -> Self {
        // The name of a snapshot has no colon.
        let places = [SNAPSHOT, VERSION].map(|what| whole.rfind(what));
        let place = places.into_iter().flatten().max().unwrap_or(whole.len());
        let server = &whole[..place];
        Self {
            whole,
            server,
            life: ReaderLife::parse(server),
        }
    }

    /// The stable id.
    pub(super) fn stable(&self) -> &str {
        match &self.life {
            Some(life) => &life.stable,
            None => self.server,
        }
    }

    /// Whether an operator means it by `id`: the whole name, a life, or a stable id.
    pub(super) fn is_meant_by(&self, id: &str) -> bool {
        [self.whole, self.server, self.stable()].contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::SeededEntropy;
    use crate::ids::Version;

    fn monday() -> Shown {
        Shown::Snapshot("monday.1".to_owned())
    }

    #[test]
    fn a_name_tells_whose_it_is() {
        let life = ReaderLife::begin("a.b:c", 7, &SeededEntropy::new(1));
        assert_eq!(ReaderLife::parse(&life.to_string()), Some(life.clone()));
        for shown in [monday(), Shown::Version(Version(9)), Shown::Newest] {
            let whole = life.pin_name(&shown);
            let name = PinName::of(&whole);
            assert_eq!(name.life.as_ref(), Some(&life));
            assert_eq!(name.stable(), "a.b:c");
            for id in [&whole, &life.to_string(), "a.b:c"] {
                assert!(name.is_meant_by(id), "{id}");
            }
            for id in ["a.b", "a.b:c.0000000000000007", ":snapshot:monday.1", ""] {
                assert!(!name.is_meant_by(id), "{id}");
            }
        }
    }

    /// Names of earlier releases, and of whoever calls a folder what he likes.
    #[test]
    fn any_text_is_a_name() {
        let check = |whole: &str, stable: &str| {
            let name = PinName::of(whole);
            assert_eq!((name.life.is_none(), name.stable()), (true, stable));
            assert!(name.is_meant_by(whole) && name.is_meant_by(stable));
        };
        check("host-1:snapshot:monday.1", "host-1");
        check("host-1:version:7", "host-1");
        check("host-1", "host-1");
        check("", "");
        check("a.0123.4567:version:7", "a.0123.4567");
        let capitals = "a.00000000000000AA.0000000000000000";
        check(capitals, capitals);
        check(
            "ä.+000000000000001.0000000000000001",
            "ä.+000000000000001.0000000000000001",
        );
    }

    #[test]
    fn a_life_outlives_those_of_its_line_alone() {
        let entropy = SeededEntropy::new(1);
        let life = |stable: &str, line| ReaderLife::begin(stable, line, &entropy);
        let present = life("host", 1);
        let check = |name: &str, outlived: bool| {
            assert_eq!(present.has_outlived(&PinName::of(name)), outlived, "{name}");
        };
        check(&life("host", 1).pin_name(&monday()), true);
        check(&present.pin_name(&monday()), false);
        check(&life("host", 2).pin_name(&monday()), false);
        check(&life("other", 1).pin_name(&monday()), false);
        check("host:snapshot:monday", false);
    }
}
