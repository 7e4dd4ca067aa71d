//! What requests do to pages, computed without the engine.

use std::collections::BTreeMap;

use bytes::Bytes;
use mvps_core::ids::PageSize;

/// A page's content; `None` reads as zeroes.
pub type Content = Option<Bytes>;

/// Pages and their content after a commit.
pub type Pages = BTreeMap<u64, Content>;

/// What one request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// These bytes there.
    Write(u64, Bytes),
    /// Zeroes, exact to the byte.
    Zero(u64, u64),
    /// The whole pages within become zeroes.
    Trim(u64, u64),
}

/// The largest page.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// Whether all of `bytes`, of a page or less, are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROES.len())
        .all(|part| *part == ZEROES[..part.len()])
}

/// The pages, from the first to the last, that `effects` may change.
#[must_use]
pub fn reach(effects: &[Effect], page_size: PageSize) -> Option<(u64, u64)> {
    let size = page_size.bytes() as u64;
    let ranges = effects.iter().filter_map(|effect| {
        let (from, to) = match effect {
            Effect::Write(offset, data) => (*offset, offset + data.len() as u64),
            Effect::Zero(offset, length) | Effect::Trim(offset, length) => {
                (*offset, offset + length)
            }
        };
        (from < to).then(|| (from / size, (to - 1) / size))
    });
    ranges.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)))
}

/// `None` for a page of zeroes, so that equal content is equal.
#[must_use]
pub fn normal(content: Bytes) -> Content {
    (!is_zero(&content)).then_some(content)
}

/// The pages that `effects` change, one after the other, over what `before` says.
pub fn apply(effects: &[Effect], page_size: PageSize, before: impl Fn(u64) -> Content) -> Pages {
    let mut pages = Pages::new();
    let size = page_size.bytes() as u64;
    for effect in effects {
        let (from, to) = match effect {
            Effect::Write(offset, data) => (*offset, offset + data.len() as u64),
            Effect::Zero(offset, length) => (*offset, offset + length),
            Effect::Trim(offset, length) => {
                let end = (offset + length) / size * size;
                (offset.next_multiple_of(size).min(end), end)
            }
        };
        for page in from / size..to.div_ceil(size) {
            let (first, last) = (from.max(page * size), to.min((page + 1) * size));
            if first >= last {
                continue;
            }
            let old = pages.get(&page).cloned().unwrap_or_else(|| before(page));
            let mut bytes = old.map_or_else(|| vec![0; page_size.bytes()], |old| old.to_vec());
            let at = |offset: u64| usize::try_from(offset).expect("within the request");
            let within = at(first - page * size)..at(last - page * size);
            match effect {
                Effect::Write(offset, data) => {
                    bytes[within].copy_from_slice(&data[at(first - offset)..at(last - offset)]);
                }
                Effect::Zero(..) | Effect::Trim(..) => bytes[within].fill(0),
            }
            pages.insert(page, normal(Bytes::from(bytes)));
        }
    }
    pages
}

/// Bytes that name their writer everywhere: each 8 bytes hold the operation and where they belong.
#[must_use]
pub fn stamped(operation: u64, offset: u64, length: usize, noisy: bool) -> Bytes {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        let place = if noisy { at / 8 } else { at / 4096 };
        let word = (operation << 24)
            ^ if noisy {
                place.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            } else {
                place | 1 << 23
            };
        let skip = usize::try_from(at % 8).expect("small");
        let word = word.to_le_bytes();
        let take = (8 - skip).min(length - bytes.len());
        bytes.extend_from_slice(&word[skip..skip + take]);
    }
    Bytes::from(bytes)
}
