//! An object store whose user cannot read some manifests: they come back damaged, or as those of a
//! newer mvps would, as often as they are read. Who takes such a manifest for one that retains
//! nothing deletes too much.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use mvps_core::env::{GetRange, ObjectStore};
use mvps_core::format::codec::{ENVELOPE_TRAILER_BYTES, ObjectSeed};
use mvps_core::format::object_name::parse_manifest_key;

use super::request::{Answer, Request};
use super::store_frontend::{Reply, RequestHandler};
use crate::journal::Journal;
use crate::random::RandomStream;

/// Where an envelope says its format version.
const VERSION_AT: usize = 4;

/// A store that gives one client some manifests unreadable.
pub struct UnreadableObjects {
    /// Where it records what happens.
    pub journal: Journal,
    /// The process that reads.
    pub client: String,
    /// The store that it reads from.
    pub objects: Arc<dyn ObjectStore>,
    /// Decides which manifests are unreadable.
    pub random: Arc<RandomStream>,
    /// How many manifests of a thousand.
    pub chance: u64,
    /// What was read, and what it came back as if it is unreadable.
    pub known: Mutex<BTreeMap<String, Option<Bytes>>>,
}

#[async_trait]
impl RequestHandler for UnreadableObjects {
    async fn handle(&self, request: Request) -> Reply {
        let key = request.key().to_owned();
        let is_manifest =
            matches!(request, Request::Get(_, GetRange::Whole)) && parse_manifest_key(&key).is_ok();
        let reply = request.carry_out(&*self.objects).await;
        match reply {
            Ok(Answer::Body(body)) if is_manifest => Ok(Answer::Body(self.read(key, body))),
            other => other,
        }
    }
}

impl UnreadableObjects {
    fn read(&self, key: String, body: Bytes) -> Bytes {
        let mut known = self.known.lock().expect("nothing panics under this lock");
        let unreadable = known.entry(key).or_insert_with_key(|key| {
            let is_unreadable = self.random.chance(self.chance);
            is_unreadable.then(|| self.unreadable(key, &body))
        });
        unreadable.clone().unwrap_or(body)
    }

    fn unreadable(&self, key: &str, body: &Bytes) -> Bytes {
        let mut bytes = body.to_vec();
        if self.random.chance(500) {
            self.journal.fault(&self.client, "manifest: bit flip");
            let bit = self.random.below(bytes.len() as u64 * 8);
            bytes[usize::try_from(bit / 8).expect("an index")] ^= 1 << (bit % 8);
        } else {
            self.journal
                .fault(&self.client, "manifest: of a newer format");
            bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&u16::MAX.to_le_bytes());
            let end = bytes.len() - ENVELOPE_TRAILER_BYTES;
            let checksum = ObjectSeed::of_key(key).checksum(&bytes[..end]);
            bytes[end..].copy_from_slice(&checksum.to_le_bytes());
        }
        Bytes::from(bytes)
    }
}
