//! A reader's store, through which its last release goes late: the request is on its way when the
//! process ends, and lands when a later life of the reader may be reading the same.
//!
//! The store's own faults make that happen once in thousands of seeds, because whoever releases a
//! pin sends the request again until one is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use madsim::runtime::NodeHandle;
use madsim::time::{sleep, timeout};
use mvps_core::env::ObjectStore;
use mvps_core::ids::ImageId;
use tokio::sync::Notify;

use super::reader_group::ReaderGroup;
use crate::environment::request::Request;
use crate::environment::store_frontend::{Reply, RequestHandler};
use crate::journal::Journal;
use crate::model::machine_of;

/// The request waits no longer for a later life. Everything has landed when the run ends.
const NEXT_LIFE_MAX: Duration = Duration::from_mins(30);

/// Whether requests go late, and whether one did.
#[derive(Default)]
pub struct LateSwitch {
    is_on: AtomicBool,
    sent: Notify,
}

impl LateSwitch {
    /// The next manifest goes late.
    pub fn turn_on(&self) {
        self.is_on.store(true, Ordering::SeqCst);
    }

    /// Returns once a manifest is on its way.
    pub async fn sent(&self) {
        self.sent.notified().await;
    }
}

/// How a request goes late.
#[derive(Debug, Clone, Copy)]
pub struct Lateness {
    /// It waits until a later life reads, if one comes.
    pub waits: bool,
    /// After that it takes so long.
    pub delay: Duration,
}

/// The store as a reader sees it that does not live to hear the answer.
pub struct LateRelease {
    /// Where requests go in time.
    pub objects: Arc<dyn ObjectStore>,
    /// Where a late one goes: the same store, which the process does not have to be alive for.
    pub network: Arc<dyn ObjectStore>,
    /// Where a late one waits.
    pub node: NodeHandle,
    /// Whether it is late.
    pub switch: Arc<LateSwitch>,
    /// By how much.
    pub lateness: Lateness,
    /// Who reads.
    pub group: Arc<ReaderGroup>,
    /// The process.
    pub process: String,
    /// What it reads.
    pub image: ImageId,
    /// Where it is recorded.
    pub journal: Journal,
}

#[async_trait]
impl RequestHandler for LateRelease {
    async fn handle(&self, request: Request) -> Reply {
        let is_late = self.switch.is_on.load(Ordering::SeqCst);
        if !is_late || !matches!(request, Request::Create(..)) {
            return request.carry_out(&*self.objects).await;
        }
        let (group, network) = (Arc::clone(&self.group), Arc::clone(&self.network));
        let (journal, process) = (self.journal.clone(), self.process.clone());
        let (image, lateness) = (self.image.clone(), self.lateness);
        let mut begun = group.begun();
        self.node.spawn(async move {
            if lateness.waits {
                // If none comes, it is late all the same.
                let _ = timeout(NEXT_LIFE_MAX, begun.changed()).await;
            }
            sleep(lateness.delay).await;
            if group.reads(machine_of(&process), &image) {
                journal.mark("a release of an earlier life came late");
            }
            // Nobody is there to be told.
            let _ = request.carry_out(&*network).await;
        });
        self.switch.sent.notify_one();
        std::future::pending().await
    }
}
