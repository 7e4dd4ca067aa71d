//! The identities of DESIGN.md §1: a newtype for every id, number and sequence.

use std::fmt;

/// Longest image id in bytes.
pub const IMAGE_ID_MAX_BYTES: usize = 128;

/// The name of an image: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(String);

/// A text that is not an image id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an image id: use 1 to {IMAGE_ID_MAX_BYTES} of A-Z a-z 0-9 . _ -, \
     beginning with a letter or digit"
)]
pub struct InvalidImageId;

impl ImageId {
    /// Parses an image id.
    ///
    /// # Errors
    /// [`InvalidImageId`] if `text` is empty, too long or has another character.
    pub fn parse(text: &str) -> Result<Self, InvalidImageId> {
        let bytes = text.as_bytes();
        let first_ok = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let all_ok = bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if first_ok && all_ok && bytes.len() <= IMAGE_ID_MAX_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidImageId)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one. Panics on overflow, which 2^64 operations away is a bug.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter does not overflow"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}", self.0)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:032x}", self.0)
            }
        }
    };
}

number! {
    /// Log sequence number: the commit sequence number of one image. The first commit is 1.
    /// Comparable only along one history.
    Lsn
}
number! {
    /// A page's number: its byte offset divided by the image's page size.
    PageNumber
}
number! {
    /// The part of a buffer store between two checkpoints; later generations have higher numbers,
    /// and a number is never used twice in one buffer store.
    Generation
}
number! {
    /// The number of a manifest. The first manifest of a name is version 1.
    Version
}
number! {
    /// The number part of an epoch. Numbers alone prove nothing: see [`Tenure`].
    EpochNumber
}
number! {
    /// Sequence number of an object within its epoch; starts at 0.
    ObjectSequence
}
number! {
    /// Counts the bodies that one tenure publishes (protocol §3.1).
    PublicationCounter
}
random_id! {
    /// Random identity of one life of an image name.
    Incarnation
}
random_id! {
    /// Random identity of a buffer store, made with it.
    BufferStoreId
}
random_id! {
    /// Random identity of one tenure.
    TenureId
}
random_id! {
    /// Random identity of one publication by a process that does not hold the tenure.
    PublicationId
}

/// One writer's time in state: the epoch number and a random id (protocol §1). Two openers can
/// pick the same number; the id tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenure {
    /// Higher than any epoch number the image has seen before.
    pub epoch: EpochNumber,
    /// Random.
    pub id: TenureId,
}

impl fmt::Display for Tenure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.epoch, self.id)
    }
}

/// Names a piece of a segment or map object among those of all objects of all images: two objects
/// have the same suffix and sequence number with a probability of 2^-64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceKey {
    /// The random part of the object's name.
    pub suffix: u64,
    /// The object's number within its epoch.
    pub sequence: ObjectSequence,
    /// Where in the object the piece begins.
    pub offset: u64,
}

/// Smallest and largest page size as powers of two: 4 KiB to 64 KiB.
pub const PAGE_SIZE_BITS: std::ops::RangeInclusive<u8> = 12..=16;

/// An image's page size, a power of two from 4 KiB to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSize {
    bits: u8,
}

impl PageSize {
    /// A page size of `2^bits` bytes, or `None` outside [`PAGE_SIZE_BITS`].
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        PAGE_SIZE_BITS.contains(&bits).then_some(Self { bits })
    }

    /// The exponent.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        1 << self.bits
    }

    /// The page that holds the byte at `offset`.
    #[must_use]
    pub fn page_of(self, offset: u64) -> PageNumber {
        PageNumber(offset >> self.bits)
    }

    /// The offset of the first byte of `page`.
    #[must_use]
    pub fn offset_of(self, page: PageNumber) -> u64 {
        page.0 << self.bits
    }
}
