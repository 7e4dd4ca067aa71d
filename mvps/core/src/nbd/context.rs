//! Metadata contexts: what a client may ask about extents ("Metadata querying").
//!
//! | context | an extent's flags |
//! |---|---|
//! | `base:allocation` | hole and zero, or neither |
//! | `mvps:changed-since:VERSION` | 1 where content may differ from that version's |
//! | `mvps:changed-since:SNAPSHOT` | the same for a named version |
//!
//! Job: names and queries as values. The caller says which contexts an export has.

use std::fmt;

use super::wire::extent_flag;

const ALLOCATION: &str = "base:allocation";
const CHANGED_SINCE: &str = "mvps:changed-since:";

/// What content is compared with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Since {
    /// A published version, by its number.
    Version(u64),
    /// A snapshot, by its name. A name of digits alone cannot be asked for; its version can.
    Snapshot(String),
}

impl Since {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some(Self::Snapshot(text.to_owned()));
        }
        // One name for each version: without leading zeroes.
        let canonical = text == "0" || !text.starts_with('0');
        text.parse().ok().filter(|_| canonical).map(Self::Version)
    }
}

impl fmt::Display for Since {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(formatter, "{version}"),
            Self::Snapshot(name) => formatter.write_str(name),
        }
    }
}

/// A context that mvps may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContextName {
    /// `base:allocation`
    Allocation,
    /// `mvps:changed-since:`
    ChangedSince(Since),
}

impl ContextName {
    /// The context called `name`, if it is one of mvps's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name == ALLOCATION {
            return Some(Self::Allocation);
        }
        let since = Since::parse(name.strip_prefix(CHANGED_SINCE)?)?;
        Some(Self::ChangedSince(since))
    }

    /// The flags of an extent. `set` means stored, or changed.
    #[must_use]
    pub fn flags(&self, set: bool) -> u64 {
        match (self, set) {
            (Self::Allocation, false) => extent_flag::HOLE | extent_flag::ZERO,
            (Self::ChangedSince(_), true) => extent_flag::CHANGED,
            (Self::Allocation, true) | (Self::ChangedSince(_), false) => 0,
        }
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocation => formatter.write_str(ALLOCATION),
            Self::ChangedSince(since) => write!(formatter, "{CHANGED_SINCE}{since}"),
        }
    }
}

/// One query of LIST_META_CONTEXT or SET_META_CONTEXT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextQuery {
    /// Exactly this one.
    Name(ContextName),
    /// `base:`; only LIST knows it.
    AllBase,
    /// `mvps:` or `mvps:changed-since:`; only LIST knows them.
    AllChangedSince,
    /// Anything else. "The server MUST ignore" it.
    Foreign,
}

impl ContextQuery {
    /// Parses a query. `None` if it is no namespace and name with a colon between.
    #[must_use]
    pub fn parse(query: &[u8]) -> Option<Self> {
        let query = std::str::from_utf8(query).ok()?;
        let (namespace, _) = query.split_once(':')?;
        if namespace.is_empty() || query.contains('\0') {
            return None;
        }
        Some(match query {
            "base:" => Self::AllBase,
            "mvps:" | CHANGED_SINCE => Self::AllChangedSince,
            _ => ContextName::parse(query).map_or(Self::Foreign, Self::Name),
        })
    }
}

/// A context that was selected, with the number that replies carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its number in this connection.
    pub id: u32,
    /// Which one.
    pub name: ContextName,
}

/// Consecutive bytes with the same flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusExtent {
    /// How many bytes, at least 1.
    pub length_bytes: u64,
    /// What a context's document says.
    pub flags: u64,
}

/// One context's extents from the beginning of the range that was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextStatus {
    /// The context's number.
    pub context: u32,
    /// At least one; they may end before the range does.
    pub extents: Vec<StatusExtent>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_understood_exactly() {
        let since = |since| ContextQuery::Name(ContextName::ChangedSince(since));
        let check = |query: &str, expected: Option<ContextQuery>| {
            assert_eq!(ContextQuery::parse(query.as_bytes()), expected, "{query:?}");
        };
        let snapshot = |name: &str| Some(since(Since::Snapshot(name.to_owned())));
        check(
            "base:allocation",
            Some(ContextQuery::Name(ContextName::Allocation)),
        );
        check("base:", Some(ContextQuery::AllBase));
        check("base:allocation2", Some(ContextQuery::Foreign));
        check("base:Allocation", Some(ContextQuery::Foreign));
        check("mvps:", Some(ContextQuery::AllChangedSince));
        check("mvps:changed-since:", Some(ContextQuery::AllChangedSince));
        check("mvps:changed-since:17", Some(since(Since::Version(17))));
        check("mvps:changed-since:017", Some(ContextQuery::Foreign));
        check("mvps:changed-since:0", Some(since(Since::Version(0))));
        let too_large = "mvps:changed-since:99999999999999999999";
        check(too_large, Some(ContextQuery::Foreign));
        check("mvps:changed-since:monday", snapshot("monday"));
        check("mvps:changed-since:17a", snapshot("17a"));
        check("mvps:other", Some(ContextQuery::Foreign));
        check("qemu:dirty-bitmap:b", Some(ContextQuery::Foreign));
        check("x:", Some(ContextQuery::Foreign));
        check("", None);
        check("base", None);
        check(":x", None);
        check("base:\0", None);
        assert_eq!(ContextQuery::parse(b"base:\xff"), None);
    }

    #[test]
    fn names_are_their_own_queries() {
        let names = [
            "base:allocation",
            "mvps:changed-since:17",
            "mvps:changed-since:a.b",
        ];
        for name in names {
            assert_eq!(ContextName::parse(name).unwrap().to_string(), name);
        }
    }
}
