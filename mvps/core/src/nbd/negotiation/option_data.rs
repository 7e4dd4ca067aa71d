//! What options carry, parsed. Nothing in here allocates more than the option's data is long.

use bytes::Buf;

use crate::nbd::context::ContextQuery;
use crate::nbd::export::ExportName;
use crate::nbd::limits::{CONTEXT_QUERIES_MAX, EXPORT_NAME_MAX_BYTES};
use crate::nbd::wire::info;

/// The data of GO and INFO.
pub(super) struct GoData {
    pub(super) name: ExportName,
    pub(super) wants_name: bool,
    pub(super) wants_description: bool,
}

impl GoData {
    pub(super) fn plain(name: ExportName) -> Self {
        Self {
            name,
            wants_name: false,
            wants_description: false,
        }
    }

    /// `name length | name | count | count × information type`, nothing after it.
    pub(super) fn parse(mut data: &[u8]) -> Option<Self> {
        let name = take_name(&mut data)?;
        let count = data.try_get_u16().ok()?;
        if data.len() != usize::from(count) * 2 {
            return None;
        }
        let mut go = Self::plain(name);
        while let Ok(wanted) = data.try_get_u16() {
            match wanted {
                info::NAME => go.wants_name = true,
                info::DESCRIPTION => go.wants_description = true,
                // EXPORT and BLOCK_SIZE are sent in any case; unknown ones are ignored.
                _ => {}
            }
        }
        Some(go)
    }
}

/// Why [`ContextsData::parse`] fails.
pub(super) enum Malformed {
    Invalid,
    TooMany,
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(super) struct ContextsData {
    pub(super) name: ExportName,
    /// Each once, in the order in which they were first asked.
    pub(super) queries: Vec<ContextQuery>,
}

impl ContextsData {
    /// `name length | name | count | count × (query length | query)`, nothing after it.
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, Malformed> {
        let name = take_name(&mut data).ok_or(Malformed::Invalid)?;
        let count = data.try_get_u32().map_err(|_| Malformed::Invalid)?;
        if count as usize > CONTEXT_QUERIES_MAX {
            return Err(Malformed::TooMany);
        }
        let mut queries = Vec::new();
        for _ in 0..count {
            let query = take_string(&mut data).ok_or(Malformed::Invalid)?;
            let query = ContextQuery::parse(query).ok_or(Malformed::Invalid)?;
            if !queries.contains(&query) {
                queries.push(query);
            }
        }
        if data.is_empty() {
            Ok(Self { name, queries })
        } else {
            Err(Malformed::Invalid)
        }
    }
}

fn take_name(data: &mut &[u8]) -> Option<ExportName> {
    ExportName::from_bytes(take_string(data)?)
}

/// A length and as many bytes, at most the longest string of the protocol.
fn take_string<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let bytes = data.try_get_u32().ok()? as usize;
    if bytes > EXPORT_NAME_MAX_BYTES {
        return None;
    }
    let (string, rest) = data.split_at_checked(bytes)?;
    *data = rest;
    Some(string)
}
