//! The requests of a client, however it talks to the server: what they are, their names, and the
//! pauses between them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use madsim::time::sleep;
use mvps_core::engine::{Acknowledge, Durability};

use crate::environment::machine::Site;
use crate::model::content::{Effect, stamped};
use crate::model::operation::OperationId;
use crate::plan::BUSY_OPERATIONS;
use crate::random::RandomStream;

/// A pause of a client that has sent a lot.
const IDLE: Duration = Duration::from_secs(20);

/// Trims and zeroes of a large image, per thousand, that reach from one area to another.
const STRETCHED_PER_MILLE: u64 = 200;

/// Longest trim over NBD without extended headers.
const NBD_LENGTH_MAX: u64 = 0xffff_0000;

/// Generates the requests of one client.
pub struct RequestGenerator {
    pub(super) site: Arc<Site>,
    pub(super) server: String,
    pub(super) name: String,
    pub(super) random: RandomStream,
    /// Decides about what was added later, so that the rest of a client stays what it was.
    pub(super) aside: RandomStream,
    /// Every error is a failure: nothing is wrong in the environment.
    pub(super) strict: bool,
}

impl RequestGenerator {
    /// The generator of client `number` of `server`.
    #[must_use]
    pub fn new(site: &Arc<Site>, server: &str, number: u64, strict: bool) -> Self {
        let name = format!("{server}:{number}");
        Self {
            site: Arc::clone(site),
            server: server.to_owned(),
            random: RandomStream::new(site.plan.seed, &format!("client {name}")),
            aside: RandomStream::new(site.plan.seed, &format!("aside {name}")),
            name,
            strict,
        }
    }

    /// A pause between requests.
    pub(super) fn think(&self) -> Duration {
        self.pause().max(self.site.silence.left())
    }

    fn pause(&self) -> Duration {
        let longest = self.site.plan.think_max;
        if self.site.model.operations() > BUSY_OPERATIONS {
            let busy = self.random.chance(100);
            return if busy { longest } else { longest + IDLE };
        }
        self.random.duration(Duration::from_millis(1), longest)
    }

    /// A pause between the steps of a transaction.
    pub(super) async fn linger(&self) {
        let longest = self.site.plan.linger_max;
        if !longest.is_zero() && self.random.chance(100) {
            sleep(self.random.duration(Duration::from_secs(1), longest)).await;
        } else if self.random.chance(300) {
            sleep(self.think()).await;
        }
    }

    pub(super) fn note(&self, what: std::fmt::Arguments<'_>) {
        self.site.journal.note(&self.name, what);
    }

    /// Where and how long: within an area of the image, longer ones less often.
    pub(super) fn range(&self) -> (u64, u64) {
        let size = self.site.plan.used_bytes();
        let page = self.site.plan.page_size.bytes() as u64;
        let longest = self.random.within(1..self.site.plan.write_pages_max + 1) * page;
        let offset = self.random.below(size);
        let length = self.random.within(1..longest + 1).min(size - offset);
        self.place(offset, length)
    }

    fn place(&self, offset: u64, length: u64) -> (u64, u64) {
        let place = self.site.plan.areas.place(offset, length);
        (place.offset, place.length)
    }

    /// Anywhere, of any length.
    pub(super) fn place_aside(&self) -> (u64, u64) {
        let size = self.site.plan.used_bytes();
        let offset = self.aside.below(size);
        self.place(offset, self.aside.within(1..size - offset + 1))
    }

    fn aligned(&self) -> (u64, u64) {
        let plan = &self.site.plan;
        let pages = self.random.within(1..plan.write_pages_max + 1);
        let first = self.random.below(plan.pages - pages + 1);
        let bits = plan.page_size.bits();
        self.place(first << bits, pages << bits)
    }

    /// Now and then, and only of a large image, the range goes on to somewhere in a later area.
    fn stretched(&self, (offset, length): (u64, u64)) -> (u64, u64) {
        let plan = &self.site.plan;
        if !plan.areas.is_sparse() || !self.random.chance(STRETCHED_PER_MILLE) {
            return (offset, length);
        }
        let end = plan.areas.place(self.random.below(plan.used_bytes()), 1);
        let longest = match plan.over_nbd {
            true => NBD_LENGTH_MAX,
            false => u64::MAX,
        };
        // From a whole page on, so that whatever it is it changes one.
        let first = offset & !(plan.page_size.bytes() as u64 - 1);
        let stretched = end.offset.saturating_sub(first).min(longest);
        match stretched > (offset - first) + length {
            true => (first, stretched),
            false => (offset, length),
        }
    }

    fn data(&self, id: OperationId, offset: u64, length: u64) -> Bytes {
        let length = usize::try_from(length).expect("a small request");
        stamped(id.0, offset, length, self.random.chance(500))
    }

    pub(super) fn write(&self, id: OperationId) -> Effect {
        let (offset, length) = self.aligned();
        Effect::Write(offset, self.data(id, offset, length))
    }

    pub(super) fn unaligned(&self, id: OperationId) -> Effect {
        let (offset, length) = self.range();
        Effect::Write(offset, self.data(id, offset, length))
    }

    pub(super) fn trim(&self) -> Effect {
        let range = if self.random.chance(500) {
            self.aligned()
        } else {
            self.range()
        };
        let (offset, length) = self.stretched(range);
        Effect::Trim(offset, length)
    }

    pub(super) fn zero(&self) -> Effect {
        let (offset, length) = self.stretched(self.range());
        Effect::Zero(offset, length)
    }

    pub(super) fn when(&self) -> Acknowledge {
        let plan = &self.site.plan;
        if !self.random.chance(plan.durable) {
            Acknowledge::Buffered
        } else {
            Acknowledge::Durable(self.durability())
        }
    }

    pub(super) fn durability(&self) -> Durability {
        if self.random.chance(self.site.plan.object_store) {
            Durability::ObjectStore
        } else {
            Durability::Local
        }
    }
}
