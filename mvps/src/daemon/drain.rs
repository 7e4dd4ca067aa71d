//! The end of a server: how it drains, and how long that waits for the object store.
//!
//! A drain may take long while it gets on: gigabytes may have to be uploaded. So what is bounded is
//! not the drain but the time in which tries fail and none is answered. One slow answer is no
//! outage: the parts of a large upload may take half a minute on a narrow line. What is left at the
//! end stays in the buffer store, and the next start on it goes on where this one stopped.

use std::process::ExitCode;
use std::time::Duration;

use mvps_core::engine::{Host, Image};
use mvps_core::env::Moment;
use mvps_core::session::{EngineImages, Server};
use mvps_core::store::StoreStatistics;

use crate::quantity::ByteSize;

/// How often a drain is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a drain may go without an answer while no try fails: longer than the store's retry
/// wrapper gives any try, so that a store that is only slow, or work that asks the store nothing,
/// is never taken for an outage. It ends a drain that hangs for a reason nobody thought of.
const UNFAILED_SILENCE: Duration = Duration::from_secs(180);

/// How long one image may take to say what it holds, once the drain has given up.
const IMAGE_PATIENCE: Duration = Duration::from_secs(1);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything is published, and every image that could be is clean.
    Whole,
    /// The object store did not answer; something is left in the buffer store.
    GaveUp,
    /// Somebody asked twice.
    Interrupted,
}

impl Drained {
    /// For the supervisor.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Whole => ExitCode::SUCCESS,
            Self::GaveUp | Self::Interrupted => ExitCode::FAILURE,
        }
    }
}

/// Drains `server`, for as long as the object store answers within `patience`.
pub async fn drain(server: &Server<EngineImages>, host: &Host, patience: Duration) -> Drained {
    let clock = &host.environment.clock;
    let begun = clock.now();
    let images = open_images(server).await;
    let mut patience = DrainPatience::begin(patience, begun, &host.store.statistics());
    let shut_down = server.shut_down();
    tokio::pin!(shut_down);
    loop {
        tokio::select! {
            biased;
            () = &mut shut_down => break,
            () = clock.sleep(LOOK_INTERVAL) => {}
        }
        if patience.look(clock.now(), &host.store.statistics()) == DrainVerdict::GiveUp {
            say_what_is_left(server, &images).await;
            return Drained::GaveUp;
        }
    }
    tracing::info!(took = ?clock.now().since(begun), "drained");
    Drained::Whole
}

/// Handles of what is open, because a server that shuts down hands out none.
async fn open_images(server: &Server<EngineImages>) -> Vec<Image> {
    let mut images = Vec::new();
    for id in server.image_ids() {
        let image = tokio::time::timeout(IMAGE_PATIENCE, server.image(&id)).await;
        let served = image.ok().flatten();
        images.extend(served.and_then(|served| served.live().cloned()));
    }
    images
}

async fn say_what_is_left(server: &Server<EngineImages>, images: &[Image]) {
    for id in server.image_ids() {
        let status = async {
            images
                .iter()
                .find(|image| *image.id() == id)?
                .status()
                .await
        };
        match tokio::time::timeout(IMAGE_PATIENCE, status)
            .await
            .ok()
            .flatten()
        {
            Some(status) => tracing::error!(
                image = %id, buffered = %ByteSize(status.buffered_bytes), lsn = %status.lsn,
                published_lsn = %status.published_lsn, "not published"
            ),
            None => tracing::error!(image = %id, "not closed"),
        }
    }
    tracing::error!(
        "requests to the object store fail; what is not published stays in the buffer store, and \
         the next start with the same --buffer-store-path goes on from there"
    );
}

/// Watches whether a drain gets on.
#[derive(Debug, Clone, Copy)]
pub struct DrainPatience {
    limit: Duration,
    answered: u64,
    /// Failed tries when the last answer came.
    failed: u64,
    since: Moment,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainVerdict {
    /// It gets on, or may yet.
    Wait,
    /// The object store has answered nothing for too long.
    GiveUp,
}

impl DrainPatience {
    /// Begins at `now`, for at most `limit` of failures without an answer.
    #[must_use]
    pub fn begin(limit: Duration, now: Moment, statistics: &StoreStatistics) -> Self {
        Self {
            limit,
            answered: answered(statistics),
            failed: statistics.failed_tries,
            since: now,
        }
    }

    /// Looks again.
    pub fn look(&mut self, now: Moment, statistics: &StoreStatistics) -> DrainVerdict {
        if answered(statistics) > self.answered {
            *self = Self::begin(self.limit, now, statistics);
        }
        let limit = if statistics.failed_tries > self.failed {
            self.limit
        } else {
            self.limit.max(UNFAILED_SILENCE)
        };
        if now.since(self.since) >= limit {
            DrainVerdict::GiveUp
        } else {
            DrainVerdict::Wait
        }
    }
}

/// Requests that ended with an answer. Bodies count too: parts of one large upload are progress.
fn answered(statistics: &StoreStatistics) -> u64 {
    let tries: u64 = statistics.tries.values().sum();
    tries
        .saturating_sub(statistics.failed_tries)
        .saturating_sub(statistics.in_flight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn statistics(tries: u64, failed_tries: u64, in_flight: u64) -> StoreStatistics {
        let tries = [("upload_part", tries)].into_iter().collect();
        StoreStatistics {
            tries,
            failed_tries,
            in_flight,
            ..StoreStatistics::default()
        }
    }

    fn check(looks: &[(u64, (u64, u64, u64), DrainVerdict)]) {
        let limit = Duration::from_secs(20);
        let mut patience = DrainPatience::begin(limit, seconds(0), &statistics(5, 0, 0));
        for &(at, (tries, failed, in_flight), expected) in looks {
            let verdict = patience.look(seconds(at), &statistics(tries, failed, in_flight));
            assert_eq!(verdict, expected, "after {at} s");
        }
    }

    use DrainVerdict::{GiveUp, Wait};

    #[test]
    fn failures_without_an_answer_end_a_drain() {
        // Failed tries and tries under way are no answers; an answer starts the time again.
        check(&[
            (10, (6, 0, 1), Wait),
            (19, (9, 4, 0), Wait),
            (20, (9, 4, 0), GiveUp),
            (21, (10, 4, 0), Wait),
            (40, (15, 8, 1), Wait),
            (41, (15, 8, 0), Wait),
            (60, (19, 12, 0), Wait),
            (61, (19, 12, 0), GiveUp),
        ]);
    }

    #[test]
    fn slow_answers_do_not_end_a_drain() {
        // Parts that take longer than the limit but do not fail.
        check(&[
            (25, (9, 0, 4), Wait),
            (42, (9, 0, 0), Wait),
            (90, (13, 0, 4), Wait),
            (221, (13, 0, 4), Wait),
            (222, (13, 0, 4), GiveUp),
        ]);
    }
}
