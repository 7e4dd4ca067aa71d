//! Which pages of an image clients use: all of a small image, or a few areas of a large one that is
//! empty everywhere else.
//!
//! A large image has leaves of the map beyond the first, offsets beyond 32 bits and requests that
//! cross all of it. It costs no more than a small one: clients draw among as many pages as a small
//! image has, and those lie where borders are.
//!
//! Invariants: areas ascend, are disjoint and not empty; nothing outside them is ever written, so it
//! reads as zeroes.

use std::ops::Range;

use mvps_core::format::map_object::LEAF_PAGES;
use mvps_core::ids::PageSize;

use crate::random::RandomStream;

/// How many seeds in a thousand have a large image.
const LARGE_PER_MILLE: u64 = 200;

/// Fewer pages than this are not divided.
const PAGES_MIN: u64 = 8;

/// Areas of a large image.
const AREAS_MAX: u64 = 5;

/// Pages of an image, in areas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Areas {
    page_size: PageSize,
    areas: Vec<Range<u64>>,
}

/// A byte range within one area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it begins in the image.
    pub offset: u64,
    /// How long it is, at least 1.
    pub length: u64,
}

impl Areas {
    /// A small image: clients use all of it.
    #[must_use]
    pub fn whole(page_size: PageSize, pages: u64) -> Self {
        Self {
            page_size,
            areas: vec![Range {
                start: 0,
                end: pages,
            }],
        }
    }

    /// What `seed` draws for what is called `name`: `pages` pages in all.
    #[must_use]
    pub fn of(seed: u64, name: &str, page_size: PageSize, pages: u64) -> Self {
        let random = RandomStream::new(seed, name);
        if pages < PAGES_MIN || !random.chance(LARGE_PER_MILLE) {
            return Self::whole(page_size, pages);
        }
        let count = random.within(2..AREAS_MAX + 1);
        let four_gib = (1 << 32) >> page_size.bits();
        // Middles of areas. Pages beyond 2^32 are 16 TiB away even where pages are small.
        let leaf = LEAF_PAGES;
        let borders = [leaf, 2 * leaf, 3 * leaf, four_gib, 7 * leaf + 9, 1 << 32];
        let mut chosen: Vec<u64> = (1..count).map(|_| random.pick(&borders)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        // The first area begins the image, the last one ends it.
        let parts = chosen.len() as u64 + 1;
        let part = pages / parts;
        let mut areas = vec![Range {
            start: 0,
            end: part + pages % parts,
        }];
        areas.extend(chosen.into_iter().map(|middle| {
            let start = middle - part / 2;
            start..start + part
        }));
        Self { page_size, areas }
    }

    /// Whether the image has pages that clients do not use.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.areas.len() > 1
    }

    /// The image's pages.
    #[must_use]
    pub fn image_pages(&self) -> u64 {
        self.areas.last().map_or(0, |area| area.end)
    }

    /// The pages that clients use, ascending.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.areas.iter().cloned().flatten()
    }

    /// The areas, in pages.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.areas.iter().cloned()
    }

    /// The areas, in bytes.
    pub fn byte_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let bits = self.page_size.bits();
        let areas = self.areas.iter();
        areas.map(move |area| area.start << bits..area.end << bits)
    }

    /// What of `pages` clients use.
    pub fn cut(&self, pages: Range<u64>) -> impl Iterator<Item = u64> {
        self.areas.iter().flat_map(move |area| {
            let start = area.start.max(pages.start);
            start..area.end.min(pages.end).max(start)
        })
    }

    /// What of the byte range `bytes` lies in areas.
    pub fn cut_bytes(&self, bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let within = self.byte_ranges().map(move |area| {
            let start = area.start.max(bytes.start);
            start..area.end.min(bytes.end)
        });
        within.filter(|range| range.start < range.end)
    }

    /// The image between the areas, in bytes, up to `end`: nobody writes there.
    #[must_use]
    pub fn gaps(&self, end: u64) -> Vec<Range<u64>> {
        let mut next = 0;
        let mut gaps = Vec::new();
        for area in self.byte_ranges() {
            gaps.push(next..area.start);
            next = area.end;
        }
        gaps.push(next..end);
        gaps.retain(|gap| gap.start < gap.end);
        gaps
    }

    /// Where the range `offset`, `length` of the used bytes, counted without gaps, is in the image.
    /// What would go on in the next area is cut off.
    #[must_use]
    pub fn place(&self, offset: u64, length: u64) -> Place {
        let mut before = 0;
        for area in self.byte_ranges() {
            let bytes = area.end - area.start;
            if offset < before + bytes {
                let offset = area.start + (offset - before);
                return Place {
                    offset,
                    length: length.min(area.end - offset),
                };
            }
            before += bytes;
        }
        panic!("{offset} is not among {before} bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn areas(list: &[Range<u64>]) -> Areas {
        Areas {
            page_size: PageSize::from_bits(12).expect("within range"),
            areas: list.to_vec(),
        }
    }

    #[test]
    fn a_place_lies_within_one_area() {
        let two = areas(&[0..2, 10..13]);
        let check = |offset, length, expected: (u64, u64)| {
            let place = two.place(offset, length);
            assert_eq!((place.offset, place.length), expected, "{offset}+{length}");
        };
        check(0, 4096, (0, 4096));
        check(4097, 9000, (4097, 4095));
        check(8192, 4096, (40960, 4096));
        check(8192 + 12287, 9, (40960 + 12287, 1));
        assert_eq!(two.image_pages(), 13);
        assert_eq!(two.cut(1..11).collect::<Vec<_>>(), [1, 10]);
        let cut: Vec<_> = two.cut_bytes(5..41000).collect();
        assert_eq!(cut, [5..8192, 40960..41000]);
        assert_eq!(two.gaps(60000), [8192..40960, 53248..60000]);
    }

    #[test]
    fn the_areas_of_every_seed_are_in_order() {
        for seed in 0..2000 {
            for bits in [12, 14, 16] {
                let page_size = PageSize::from_bits(bits).expect("within range");
                for pages in [8, 24, 400] {
                    let areas = Areas::of(seed, "areas", page_size, pages);
                    let mut end = 0;
                    for area in areas.iter() {
                        assert!(end <= area.start && area.start < area.end, "{areas:?}");
                        end = area.end;
                    }
                    assert_eq!(areas.pages().count() as u64, pages, "{areas:?}");
                }
            }
        }
    }
}
