//! The plans of a run's other images: the second one that is served all the time, and clones.

use std::time::Duration;

use mvps_core::engine::EngineConfig;
use mvps_core::ids::PageSize;

use super::areas::Areas;
use super::contents::Plan;
use super::drawing::{IMAGE_BYTES_MAX, compaction, config};
use super::focus::Focus;
use super::history::HistoryPlan;
use super::limits::limit;
use crate::random::RandomStream;

impl Plan {
    /// The plan for another image of the same run, whose page size is `page_size`.
    #[must_use]
    pub fn for_second(&self, page_size: PageSize) -> Self {
        let seed = self.seed;
        let random = RandomStream::new(seed, "second image");
        let pages = random
            .pick(&[8, 24, 64])
            .min(IMAGE_BYTES_MAX >> page_size.bits());
        let config = EngineConfig {
            compaction: compaction(seed, page_size),
            ..config(&random, page_size, pages)
        };
        let mut plan = Self {
            page_size,
            pages,
            areas: Areas::of(seed, "areas of the second image", page_size, pages),
            config,
            clients: random.within(1..3),
            write_pages_max: self.write_pages_max.min(pages),
            rounds: self.rounds.min(6),
            over_nbd: random.chance(200),
            ..self.clone()
        };
        plan.history.on_server &= random.chance(500);
        limit(seed, "limits of the second image", &mut plan);
        plan
    }

    /// The plan for a clone that is served now and then.
    #[must_use]
    pub fn for_copy(&self) -> Self {
        Self {
            clients: 1,
            over_nbd: false,
            grows: false,
            abrupt: 0,
            focus: Focus::Anything,
            history: HistoryPlan {
                pause_max: self.history.pause_max,
                ..HistoryPlan::none()
            },
            think_max: self.think_max.max(Duration::from_millis(200)),
            ..self.clone()
        }
    }
}
