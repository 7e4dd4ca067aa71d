//! A client's byte ranges as changes of pages. Pure.
//!
//! Whole pages and holes need nothing but themselves; a part of a page (a *patch*) needs the page's
//! old content, which the image's task merges in at the commit point.

use std::ops::Range;

use bytes::Bytes;

use crate::content::zeroes;
use crate::ids::{PageNumber, PageSize};

/// One change of a commit. The changes of one commit apply in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Content for whole pages from `first` on.
    Pages {
        /// The first page.
        first: PageNumber,
        /// A number of whole pages, at least one.
        data: Bytes,
    },
    /// Pages that will read as zeroes.
    Hole {
        /// The pages, at least one.
        pages: Range<PageNumber>,
    },
    /// Bytes within one page.
    Patch {
        /// The page.
        page: PageNumber,
        /// Where in the page.
        offset: usize,
        /// What, shorter than the page.
        data: Bytes,
    },
}

impl Change {
    /// The pages it touches.
    #[must_use]
    pub fn pages(&self, page_size: PageSize) -> Range<PageNumber> {
        match self {
            Self::Pages { first, data } => {
                *first..PageNumber(first.0 + (data.len() >> page_size.bits()) as u64)
            }
            Self::Hole { pages } => pages.clone(),
            Self::Patch { page, .. } => *page..page.next(),
        }
    }
}

/// A byte range cut at page boundaries.
struct Cut {
    /// A part of a page before the first whole page (or all there is).
    head: Option<Range<u64>>,
    /// Whole pages.
    body: Range<u64>,
    /// A part of a page after the last whole page.
    tail: Option<Range<u64>>,
}

fn cut(page_size: PageSize, range: Range<u64>) -> Cut {
    let size = page_size.bytes() as u64;
    let body_start = range.start.next_multiple_of(size);
    let body_end = range.end / size * size;
    if body_start > body_end {
        return Cut {
            head: Some(range),
            body: 0..0,
            tail: None,
        };
    }
    let part = |part: Range<u64>| (!part.is_empty()).then_some(part);
    Cut {
        head: part(range.start..body_start),
        body: body_start..body_end,
        tail: part(body_end..range.end),
    }
}

/// A write of `data` at `offset`; no change if it is empty.
#[must_use]
pub fn of_write(page_size: PageSize, offset: u64, data: &Bytes) -> Vec<Change> {
    let cut = cut(page_size, offset..offset + data.len() as u64);
    let slice = |range: &Range<u64>| {
        let from = usize::try_from(range.start - offset).expect("within the data");
        let to = usize::try_from(range.end - offset).expect("within the data");
        data.slice(from..to)
    };
    assemble(page_size, cut, &slice, |body| Change::Pages {
        first: page_size.page_of(body.start),
        data: slice(body),
    })
}

/// Exactly the bytes `range` become zeroes (WRITE_ZEROES): whole pages become holes.
#[must_use]
pub fn of_write_zeroes(page_size: PageSize, range: Range<u64>) -> Vec<Change> {
    let part_length =
        |part: &Range<u64>| usize::try_from(part.end - part.start).expect("less than a page");
    assemble(
        page_size,
        cut(page_size, range),
        &|part| zeroes(part_length(part)),
        |body| hole(page_size, body),
    )
}

/// The whole pages within `range` become holes; its partial edges stay as they are (TRIM).
#[must_use]
pub fn of_trim(page_size: PageSize, range: Range<u64>) -> Vec<Change> {
    let body = cut(page_size, range).body;
    if body.is_empty() {
        Vec::new()
    } else {
        vec![hole(page_size, &body)]
    }
}

fn hole(page_size: PageSize, body: &Range<u64>) -> Change {
    Change::Hole {
        pages: page_size.page_of(body.start)..page_size.page_of(body.end),
    }
}

fn assemble(
    page_size: PageSize,
    cut: Cut,
    part: &dyn Fn(&Range<u64>) -> Bytes,
    whole: impl FnOnce(&Range<u64>) -> Change,
) -> Vec<Change> {
    let patch = |range: Range<u64>| {
        let page = page_size.page_of(range.start);
        let offset = usize::try_from(range.start - page_size.offset_of(page));
        let offset = offset.expect("an offset within a page fits");
        Change::Patch {
            page,
            offset,
            data: part(&range),
        }
    };
    let mut changes = Vec::with_capacity(3);
    changes.extend(cut.head.filter(|range| !range.is_empty()).map(patch));
    if !cut.body.is_empty() {
        changes.push(whole(&cut.body));
    }
    changes.extend(cut.tail.map(patch));
    changes
}

/// `page` with `data` at `offset`.
#[must_use]
pub fn patched(page: &[u8], offset: usize, data: &[u8]) -> Bytes {
    let mut content = page.to_vec();
    content[offset..offset + data.len()].copy_from_slice(data);
    Bytes::from(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size() -> PageSize {
        PageSize::from_bits(12).expect("12 is in range")
    }

    fn shape(changes: &[Change]) -> String {
        let shapes: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::Pages { first, data } => format!("pages {first}+{}", data.len() / 4096),
                Change::Hole { pages } => format!("hole {}..{}", pages.start, pages.end),
                Change::Patch { page, offset, data } => {
                    format!("patch {page}@{offset}+{}", data.len())
                }
            })
            .collect();
        shapes.join(", ")
    }

    #[test]
    fn writes_are_cut_at_pages() {
        let check = |offset, length, expected: &str| {
            let data = Bytes::from(vec![7; length]);
            assert_eq!(
                shape(&of_write(size(), offset, &data)),
                expected,
                "{offset}+{length}"
            );
        };
        check(0, 0, "");
        check(100, 0, "");
        check(0, 4096, "pages 0+1");
        check(4096, 8192, "pages 1+2");
        check(1, 10, "patch 0@1+10");
        check(4000, 200, "patch 0@4000+96, patch 1@0+104");
        check(4095, 4098, "patch 0@4095+1, pages 1+1, patch 2@0+1");
        check(0, 4097, "pages 0+1, patch 1@0+1");
        check(512, 3584, "patch 0@512+3584");
    }

    #[test]
    fn zeroes_are_exact_and_trims_leave_the_edges() {
        assert_eq!(
            shape(&of_write_zeroes(size(), 10..12298)),
            "patch 0@10+4086, hole 1..3, patch 3@0+10"
        );
        assert_eq!(shape(&of_trim(size(), 10..12298)), "hole 1..3");
        assert_eq!(shape(&of_trim(size(), 10..4100)), "");
        assert_eq!(shape(&of_write_zeroes(size(), 5..6)), "patch 0@5+1");
        assert_eq!(shape(&of_trim(size(), 5..6)), "");
    }

    #[test]
    fn a_write_puts_every_byte_where_it_belongs() {
        let data: Bytes = (0..20_000_u32).map(|i| (i % 251) as u8).collect();
        for offset in [0_u64, 1, 4095, 4096, 5000] {
            let mut disk = vec![0_u8; 40_960];
            for change in of_write(size(), offset, &data) {
                match change {
                    Change::Pages { first, data } => {
                        let at = first.0 as usize * 4096;
                        disk[at..at + data.len()].copy_from_slice(&data);
                    }
                    Change::Patch { page, offset, data } => {
                        let at = page.0 as usize * 4096;
                        let content = patched(&disk[at..at + 4096], offset, &data);
                        disk[at..at + 4096].copy_from_slice(&content);
                    }
                    Change::Hole { .. } => panic!("a write makes no hole"),
                }
            }
            assert_eq!(
                &disk[offset as usize..offset as usize + data.len()],
                &data[..]
            );
            assert!(disk[..offset as usize].iter().all(|byte| *byte == 0));
        }
    }
}
