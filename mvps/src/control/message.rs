//! What goes over the control socket. Fields are only ever added.

use std::collections::BTreeMap;

use mvps_core::engine::SpaceStatus;
use mvps_core::env::FrameCacheUsage;
use mvps_core::ids::Version;
use mvps_core::store::StoreStatistics;
use mvps_core::token::Shown;
use serde::{Deserialize, Serialize};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// What the server does.
    Status,
    /// Checkpoint an open image now; the reply comes when it is published.
    Checkpoint {
        /// The image.
        image: String,
    },
    /// Make an open image what it was in an earlier version.
    Rollback {
        /// The image.
        image: String,
        /// Which version.
        to: RollbackTo,
        /// Give up what is not published yet instead of publishing it first.
        #[serde(default)]
        discard_unpublished: bool,
    },
    /// Grow an open image.
    Resize {
        /// The image.
        image: String,
        /// To this size.
        size_bytes: u64,
    },
    /// Wrap the data keys of an open image with the server's first root key.
    Rekey {
        /// The image.
        image: String,
        /// The id of the root key that is meant; any if it is left out.
        #[serde(default)]
        root_key: Option<String>,
    },
}

/// What to go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackTo {
    /// The version that a snapshot names.
    Snapshot(String),
    /// A version.
    Version(u64),
}

impl From<RollbackTo> for Shown {
    fn from(to: RollbackTo) -> Self {
        match to {
            RollbackTo::Snapshot(name) => Self::Snapshot(name),
            RollbackTo::Version(number) => Self::Version(Version(number)),
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<NodeReport>),
    /// To [`Request::Checkpoint`].
    Checkpointed(CheckpointDone),
    /// To [`Request::Rollback`].
    RolledBack(RollbackDone),
    /// To [`Request::Resize`].
    Resized(ResizeDone),
    /// To [`Request::Rekey`].
    Rekeyed(RekeyDone),
    /// The image is not open here, so this server has nothing to do with it.
    NotOpen {
        /// The image.
        image: String,
    },
    /// It could not be done.
    Failed {
        /// Why, and what to do.
        message: String,
    },
}

/// A checkpoint that was asked for is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointDone {
    /// The image.
    pub image: String,
    /// The published version.
    pub version: u64,
}

/// An open image is what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackDone {
    /// The image.
    pub image: String,
    /// The version whose content it has again.
    pub to_version: u64,
    /// The version that has it now.
    pub version: u64,
    /// The version before: rolling back to it undoes this, until it is collected.
    pub undo_version: u64,
    /// The new version's LSN.
    pub lsn: u64,
}

/// An open image has its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeDone {
    /// The image.
    pub image: String,
    /// The size it had.
    pub from_bytes: u64,
    /// The size it has.
    pub size_bytes: u64,
}

/// The data keys of an open image are wrapped with the server's first root key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RekeyDone {
    /// The image.
    pub image: String,
    /// The version that says so.
    pub version: u64,
    /// The id of the root key.
    pub root_key: String,
    /// Data keys that were wrapped again.
    pub data_keys: u64,
    /// Root keys that the image needs no more.
    pub replaced: Vec<String>,
}

/// What a server does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The server's version.
    pub server_version: String,
    /// Process id.
    pub pid: u32,
    /// Time since it started.
    pub uptime_ms: u64,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Where its images live.
    pub image_store: String,
    /// Where its buffer stores are.
    pub buffer_store_path: String,
    /// Resident memory now, if the system tells.
    pub rss_bytes: Option<u64>,
    /// The most resident memory so far, if the system tells.
    pub rss_peak_bytes: Option<u64>,
    /// Requests to the object store since the start, retries included.
    pub object_store: ObjectStoreReport,
    /// What is cached of the object store, and where reads found what they wanted.
    #[serde(default)]
    pub caches: CachesReport,
    /// Open images, ascending by name.
    pub images: Vec<ImageReport>,
    /// Images that are being opened or closed, ascending by name.
    #[serde(default)]
    pub images_busy: Vec<String>,
}

/// Requests to the object store. One that is retried counts each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStoreReport {
    /// All operations together.
    pub requests: u64,
    /// Of these, those that failed in a way that is retried: no answer, a server error, "slow
    /// down".
    pub failed: u64,
    /// Of these, those that have not ended.
    pub in_flight: u64,
    /// Bytes sent in bodies of requests that succeeded.
    pub sent_bytes: u64,
    /// Bytes received in bodies.
    pub received_bytes: u64,
    /// Requests by operation: `put`, `create`, `get`, …
    pub operations: BTreeMap<String, u64>,
}

impl From<StoreStatistics> for ObjectStoreReport {
    fn from(statistics: StoreStatistics) -> Self {
        Self {
            requests: statistics.tries.values().sum(),
            failed: statistics.failed_tries,
            in_flight: statistics.in_flight,
            sent_bytes: statistics.put_bytes,
            received_bytes: statistics.got_bytes,
            operations: statistics
                .tries
                .into_iter()
                .map(|(operation, requests)| (operation.to_owned(), requests))
                .collect(),
        }
    }
}

/// What is cached of the object store, and where reads found the frames that they wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachesReport {
    /// What frames and leaves of maps take in memory.
    pub memory_bytes: u64,
    /// Frames that were in memory.
    pub frames_from_memory: u64,
    /// Of the others, those that were on the local disk.
    pub frames_from_disk: u64,
    /// The rest, which the object store was asked for.
    pub frames_from_store: u64,
    /// The disk cache, if there is one.
    pub disk: Option<DiskCacheReport>,
}

/// What the disk cache holds, and how it did since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCacheReport {
    /// Frames and leaves of maps.
    pub entries: u64,
    /// What they take.
    pub bytes: u64,
    /// Most that they may take.
    pub limit_bytes: u64,
    /// Looks that found something.
    pub hits: u64,
    /// Looks that did not.
    pub misses: u64,
    /// Entries that were wrong or could not be read. They are gone.
    pub damaged: u64,
    /// Entries that went for others.
    pub evicted: u64,
    /// Entries that were not kept because the disk was too slow, or full.
    pub dropped: u64,
}

impl From<FrameCacheUsage> for DiskCacheReport {
    fn from(usage: FrameCacheUsage) -> Self {
        Self {
            entries: usage.entries,
            bytes: usage.bytes,
            limit_bytes: usage.limit_bytes,
            hits: usage.hits,
            misses: usage.misses,
            damaged: usage.damaged,
            evicted: usage.evicted,
            dropped: usage.dropped,
        }
    }
}

/// Whether an image can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Yes.
    Healthy,
    /// No: another writer has it.
    Fenced,
    /// No: its buffer store failed. Reads go on.
    Poisoned,
}

/// One open image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReport {
    /// Its name.
    pub image: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its page size.
    pub page_size_bytes: u64,
    /// The last commit.
    pub lsn: u64,
    /// The last commit that is synced to the buffer store.
    pub flushed_lsn: u64,
    /// The newest version in the object store.
    pub published_version: u64,
    /// The last commit in it.
    pub published_lsn: u64,
    /// Bytes in the buffer store that are not yet published.
    pub buffered_bytes: u64,
    /// Bytes that the buffer store takes on the local disk.
    pub buffer_disk_bytes: u64,
    /// Sealed generations that wait for their checkpoint.
    pub generations_waiting: u64,
    /// Whether a publication is under way.
    pub publishing: bool,
    /// Open transactions.
    pub transactions: u64,
    /// Writes that wait for space in the buffer or for a lock.
    pub stalled: u64,
    /// What holds writes up for want of room.
    #[serde(default)]
    pub held_up: Option<HeldUpReport>,
    /// What is in object storage, and how cleaning goes.
    #[serde(default)]
    pub space: SpaceReport,
    /// Attached connections.
    pub connections: u64,
    /// Epoch number and tenure id.
    pub tenure: String,
    /// Whether it takes writes.
    pub health: Health,
    /// Why it does not.
    pub reason: Option<String>,
}

/// What holds writes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUpReport {
    /// The limit, in words.
    pub by: String,
    /// For how long.
    pub held_ms: u64,
}

/// What an image takes in object storage: its newest version, without what older versions,
/// snapshots and the collector's backlog take beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceReport {
    /// Bytes of the newest version's segments and map.
    pub stored_bytes: u64,
    /// Of these, bytes of pages that were alive at the last map compaction, and of the map.
    pub live_bytes: u64,
    /// The rest of them.
    pub dead_bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Of these, segments since the last map compaction.
    pub tail_segments: u64,
    /// Objects that wait for their last readers.
    pub retired_objects: u64,
    /// Segments that are being cleaned.
    pub cleaning_segments: u64,
    /// Bytes of pages that are still to be copied out of them, estimated.
    pub cleaning_left_bytes: u64,
    /// Bytes of pages that cleaning copied since the image was opened.
    pub cleaned_bytes: u64,
}

impl From<SpaceStatus> for SpaceReport {
    fn from(space: SpaceStatus) -> Self {
        Self {
            stored_bytes: space.stored_bytes,
            live_bytes: space.live_bytes,
            dead_bytes: space.stored_bytes.saturating_sub(space.live_bytes),
            segments: space.segments as u64,
            tail_segments: space.tail_segments as u64,
            retired_objects: space.retired_objects as u64,
            cleaning_segments: space.cleaning_segments as u64,
            cleaning_left_bytes: space.cleaning_left_bytes,
            cleaned_bytes: space.copied_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_like_this_on_the_wire() {
        let check = |request: Request, expected: &str| {
            assert_eq!(serde_json::to_string(&request).expect("json"), expected);
            assert_eq!(
                serde_json::from_str::<Request>(expected).expect("parses"),
                request
            );
        };
        check(Request::Status, r#"{"request":"status"}"#);
        check(
            Request::Checkpoint {
                image: "disk0".to_owned(),
            },
            r#"{"request":"checkpoint","image":"disk0"}"#,
        );
        check(
            Request::Rollback {
                image: "disk0".to_owned(),
                to: RollbackTo::Snapshot("monday".to_owned()),
                discard_unpublished: true,
            },
            r#"{"request":"rollback","image":"disk0","to":{"snapshot":"monday"},"discard_unpublished":true}"#,
        );
        check(
            Request::Resize {
                image: "disk0".to_owned(),
                size_bytes: 4096,
            },
            r#"{"request":"resize","image":"disk0","size_bytes":4096}"#,
        );
        serde_json::from_str::<Request>(r#"{"request":"explode"}"#).expect_err("unknown");
    }

    #[test]
    fn replies_look_like_this_on_the_wire() {
        let check = |reply: Reply, expected: &str| {
            assert_eq!(serde_json::to_string(&reply).expect("json"), expected);
            assert_eq!(
                serde_json::from_str::<Reply>(expected).expect("parses"),
                reply
            );
        };
        check(
            Reply::Failed {
                message: "no such image".to_owned(),
            },
            r#"{"reply":"failed","message":"no such image"}"#,
        );
        let done = CheckpointDone {
            image: "disk0".to_owned(),
            version: 7,
        };
        check(
            Reply::Checkpointed(done),
            r#"{"reply":"checkpointed","image":"disk0","version":7}"#,
        );
    }
}
