//! An object store whose user may fall asleep between deciding on a request and sending it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use madsim::time::sleep;
use mvps_core::env::ObjectStore;

use super::front::{Ask, Reply};
use super::request::Request;
use crate::journal::Journal;
use crate::random::RandomStream;

/// Longest sleep.
const NAP_MAX: Duration = Duration::from_hours(1);

/// Who slept this long comes late: checkpoints, takeovers and rollbacks came in between.
const LATE: Duration = Duration::from_mins(1);

/// See the module's text.
pub struct Sleepy {
    /// Records.
    pub journal: Journal,
    /// The store.
    pub objects: Arc<dyn ObjectStore>,
    /// Choices.
    pub random: Arc<RandomStream>,
    /// Before which requests.
    pub sleeps: fn(&Request) -> bool,
    /// How likely, per thousand.
    pub chance: u64,
    /// What a coverage mark says when one that came late was carried out.
    pub mark: &'static str,
}

#[async_trait]
impl Ask for Sleepy {
    async fn ask(&self, request: Request) -> Reply {
        let mut slept = Duration::ZERO;
        if (self.sleeps)(&request) && self.random.chance(self.chance) {
            slept = self.random.duration(Duration::from_millis(1), NAP_MAX);
            sleep(slept).await;
        }
        let reply = request.carry_out(&*self.objects).await;
        if slept > LATE && reply.is_ok() {
            self.journal.mark(self.mark);
        }
        reply
    }
}
