//! What a seed draws about history: who makes snapshots and clones, who reads them, and which other
//! images there are. Drawn apart, so that the rest of a seed's plan stays what it was without.

use std::time::Duration;

use mvps_core::ids::PageSize;

use crate::random::RandomStream;

/// The second image that is served all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// There is none.
    None,
    /// An image of its own, with another page size.
    Apart(PageSize),
}

/// Who works on history in a seed, and on which images.
#[derive(Debug, Clone, Copy)]
pub struct HistoryPlan {
    /// Operators who give commands about history at the same time.
    pub history_operators: u64,
    /// Readers of snapshots and versions.
    pub readers: u64,
    /// The first of them has a twin: a server whose folder is a copy of its folder.
    pub twins: bool,
    /// Longest pause between two lives of a reader.
    pub reader_pause_max: Duration,
    /// Names for clones.
    pub copies: u64,
    /// Clones are served now and then.
    pub clone_visitors: bool,
    /// Servers make snapshots and roll back in place.
    pub on_server: bool,
    /// Operators delete images that are served.
    pub deletes_main: bool,
    /// Longest pause between two commands.
    pub pause_max: Duration,
    /// Another image.
    pub second: Second,
}

impl HistoryPlan {
    /// Nothing about history.
    #[must_use]
    pub fn none() -> Self {
        Self {
            history_operators: 0,
            readers: 0,
            twins: false,
            reader_pause_max: Duration::from_secs(5),
            copies: 0,
            clone_visitors: false,
            on_server: false,
            deletes_main: false,
            pause_max: Duration::from_secs(5),
            second: Second::None,
        }
    }

    /// The same with as many who work on history as there can be.
    #[must_use]
    pub fn crowded(self) -> Self {
        Self {
            history_operators: 3,
            readers: 2,
            copies: 3,
            clone_visitors: true,
            on_server: true,
            pause_max: Duration::from_secs(5),
            ..self
        }
    }

    /// The history of `seed`.
    #[must_use]
    pub fn of(seed: u64, page_size: PageSize) -> Self {
        let random = RandomStream::new(seed, "history");
        let other = random.pick(&[12, 13, 14, 16]);
        let other = match other == page_size.bits() {
            true => 15,
            false => other,
        };
        let second = match random.chance(150) {
            true => Second::Apart(PageSize::from_bits(other).expect("within range")),
            false => Second::None,
        };
        if random.chance(550) {
            return Self {
                second,
                ..Self::none()
            };
        }
        // Drawn apart, too.
        let rough = RandomStream::new(seed, "rough readers");
        Self {
            history_operators: random.within(1..3),
            readers: random.below(3).max(1),
            twins: rough.chance(700),
            reader_pause_max: rough.pick(&[
                Duration::from_millis(200),
                Duration::from_secs(2),
                Duration::from_secs(20),
            ]),
            copies: random.pick(&[0, 1, 2, 3]),
            clone_visitors: random.chance(600),
            on_server: random.chance(500),
            deletes_main: random.chance(300),
            pause_max: random.pick(&[
                Duration::from_secs(1),
                Duration::from_secs(10),
                Duration::from_secs(60),
            ]),
            second,
        }
    }
}
