//! An object store whose user may pause for long between deciding on a request and sending it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use madsim::time::sleep;
use mvps_core::env::ObjectStore;

use super::request::Request;
use super::store_frontend::{Reply, RequestHandler};
use crate::journal::Journal;
use crate::random::RandomStream;

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_hours(1);

/// A request after such a pause comes late: checkpoints, takeovers and rollbacks came in between.
const LATE: Duration = Duration::from_mins(1);

/// A store whose user pauses before some requests.
pub struct PausingStore {
    /// Where it records what happens.
    pub journal: Journal,
    /// The store that requests go to.
    pub objects: Arc<dyn ObjectStore>,
    /// Decides when it pauses, and for how long.
    pub random: Arc<RandomStream>,
    /// The requests that a pause may come before.
    pub pauses_before: fn(&Request) -> bool,
    /// How likely, per thousand.
    pub chance: u64,
    /// The coverage mark for a late request that was carried out.
    pub mark: &'static str,
}

#[async_trait]
impl RequestHandler for PausingStore {
    async fn handle(&self, request: Request) -> Reply {
        let mut paused = Duration::ZERO;
        if (self.pauses_before)(&request) && self.random.chance(self.chance) {
            paused = self.random.duration(Duration::from_millis(1), PAUSE_MAX);
            sleep(paused).await;
        }
        let reply = request.carry_out(&*self.objects).await;
        if paused > LATE && reply.is_ok() {
            self.journal.mark(self.mark);
        }
        reply
    }
}
