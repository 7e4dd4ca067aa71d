//! What a small world's client does: words over an alphabet of operations, and what they mean.

use bytes::Bytes;
use mvps_core::format::map_object::LEAF_PAGES;
use mvps_core::ids::PageSize;

use crate::model::content::{Content, Effect, Pages, apply, stamped};

/// Pages that operations use: enough for requests that meet, overlap, and miss each other.
pub const PAGES: u64 = 4;

/// Page size, as a power of two.
pub const PAGE_BITS: u8 = 12;

const PAGE: u64 = 1 << PAGE_BITS;

/// The image that operations work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Of [`PAGES`] pages.
    Small,
    /// Of three leaves of the map, whose boundary is in the middle of the pages that are used, with
    /// limits so small that segments split and the map is compacted all the time.
    Large,
}

impl Shape {
    /// The first page that operations use, and how many the image has.
    const fn pages(self) -> (u64, u64) {
        match self {
            Self::Small => (0, PAGES),
            Self::Large => (LEAF_PAGES - PAGES / 2, 3 * LEAF_PAGES),
        }
    }

    /// Where in the image the first byte is that operations use.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.pages().0 << PAGE_BITS
    }

    /// The image's size in bytes.
    #[must_use]
    pub const fn image_size_bytes(self) -> u64 {
        self.pages().1 << PAGE_BITS
    }

    /// What the name of a world of this shape begins with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Small => "",
            Self::Large => "large/",
        }
    }

    /// The shape of the world with this name, and the rest of the name.
    #[must_use]
    pub fn of(name: &str) -> (Self, &str) {
        let rest = name.strip_prefix(Self::Large.prefix());
        rest.map_or((Self::Small, name), |rest| (Self::Large, rest))
    }
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Letter {
    /// Writes page 0.
    WriteA,
    /// Writes pages 1 and 2.
    WriteB,
    /// Writes from the middle of page 0 to the middle of page 2.
    Overlap,
    /// Trims from the middle of page 0 to the end of page 2: frees pages 1 and 2.
    Trim,
    /// Zeroes from within page 0 to within page 2, exact to the byte.
    Zero,
    /// Flushes.
    Flush,
    /// Checkpoints, and waits for it.
    Checkpoint,
    /// Begins a checkpoint and goes on.
    Background,
    /// A transaction: reads page 0, writes pages 0 and 3, trims page 1, commits.
    Transaction,
    /// Closes the image and opens it again.
    Close,
}

/// The alphabet.
pub const ALPHABET: [Letter; 10] = [
    Letter::WriteA,
    Letter::WriteB,
    Letter::Overlap,
    Letter::Trim,
    Letter::Zero,
    Letter::Flush,
    Letter::Checkpoint,
    Letter::Background,
    Letter::Transaction,
    Letter::Close,
];

impl Letter {
    /// The letter that stands for it in the name of a world, and what it does.
    #[must_use]
    pub fn describe(self) -> (char, &'static str) {
        match self {
            Self::WriteA => ('a', "write page 0"),
            Self::WriteB => ('b', "write pages 1-2"),
            Self::Overlap => ('o', "write from within page 0 to within page 2"),
            Self::Trim => ('t', "trim from within page 0 to the end of page 2"),
            Self::Zero => ('z', "zero from within page 0 to within page 2"),
            Self::Flush => ('f', "flush"),
            Self::Checkpoint => ('k', "checkpoint"),
            Self::Background => ('g', "begin a checkpoint, go on meanwhile"),
            Self::Transaction => ('x', "transaction: read 0, write 0 and 3, trim 1, commit"),
            Self::Close => ('c', "close, open again"),
        }
    }

    /// The effects of the operation, if it is the `number`th.
    #[must_use]
    pub fn effects(self, number: u64) -> Vec<Effect> {
        let write = |offset: u64, length: u64| {
            let length = usize::try_from(length).expect("a small request");
            Effect::Write(offset, stamped(number, offset, length, true))
        };
        match self {
            Self::WriteA => vec![write(0, PAGE)],
            Self::WriteB => vec![write(PAGE, 2 * PAGE)],
            Self::Overlap => vec![write(PAGE / 2, 2 * PAGE)],
            Self::Trim => vec![Effect::Trim(PAGE / 2, 2 * PAGE + PAGE / 2)],
            Self::Zero => vec![Effect::Zero(100, 2 * PAGE + 1000)],
            Self::Transaction => vec![
                write(0, PAGE),
                write(3 * PAGE, PAGE),
                Effect::Trim(PAGE, PAGE),
            ],
            Self::Flush | Self::Checkpoint | Self::Background | Self::Close => Vec::new(),
        }
    }
}

/// A workload.
pub type Word = Vec<Letter>;

/// All workloads of exactly `length` operations.
#[must_use]
pub fn words(length: usize) -> Vec<Word> {
    let mut all = vec![Word::new()];
    for _ in 0..length {
        let longer = |word: &Word| {
            let word = word.clone();
            ALPHABET.map(move |letter| [&word[..], &[letter]].concat())
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// A workload's name.
#[must_use]
pub fn name(word: &[Letter]) -> String {
    word.iter().map(|letter| letter.describe().0).collect()
}

/// Reads [`name`].
#[must_use]
pub fn parse(text: &str) -> Option<Word> {
    let letter = |wanted: char| {
        ALPHABET
            .into_iter()
            .find(|letter| letter.describe().0 == wanted)
    };
    text.chars().map(letter).collect()
}

/// The content of the pages that operations use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image(Pages);

impl Image {
    /// What it is after `effects`.
    #[must_use]
    pub fn after(&self, effects: &[Effect]) -> Self {
        let changed = apply(effects, page_size(), |page| self.page(page));
        let mut pages = self.0.clone();
        pages.extend(changed);
        pages.retain(|_, content| content.is_some());
        Self(pages)
    }

    /// The content of one page.
    #[must_use]
    pub fn page(&self, page: u64) -> Content {
        self.0.get(&page).cloned().flatten()
    }

    /// Whether `bytes` are this image.
    #[must_use]
    pub fn is(&self, bytes: &Bytes) -> bool {
        let size = page_size().bytes();
        let pages = (0..PAGES).zip(bytes.chunks(size));
        bytes.len() as u64 == PAGES * PAGE
            && pages
                .into_iter()
                .all(|(page, found)| match self.page(page) {
                    Some(content) => content[..] == *found,
                    None => found.iter().all(|byte| *byte == 0),
                })
    }
}

/// The page size.
#[must_use]
pub fn page_size() -> PageSize {
    PageSize::from_bits(PAGE_BITS).expect("within range")
}
