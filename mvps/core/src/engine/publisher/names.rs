//! Names of the objects that a tenure writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::{Entropy, EntropyExt};
use crate::format::manifest::Manifest;
use crate::format::object_name::{ObjectKind, ObjectName};
use crate::ids::{EpochNumber, ImageId, Incarnation, ObjectSequence};

/// Makes names of objects that no process ever used: of this tenure's epoch, each with the next
/// sequence number and a random suffix.
#[derive(Clone)]
pub(super) struct ObjectNames {
    image: ImageId,
    incarnation: Incarnation,
    epoch: EpochNumber,
    next: Arc<AtomicU64>,
    entropy: Arc<dyn Entropy>,
}

impl ObjectNames {
    /// Names for the tenure that `opened` began: every epoch starts at 0.
    pub(super) fn new(opened: &Manifest, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            image: opened.image.clone(),
            incarnation: opened.incarnation,
            epoch: opened.tenure.epoch,
            next: Arc::new(AtomicU64::new(opened.watermark.0)),
            entropy,
        }
    }

    pub(super) fn name(&self, kind: ObjectKind) -> ObjectName {
        let reused = crate::mutant::is("name reused after restart");
        ObjectName {
            image: self.image.clone(),
            incarnation: self.incarnation,
            epoch: if reused { EpochNumber(1) } else { self.epoch },
            sequence: ObjectSequence(self.next.fetch_add(1, Ordering::Relaxed)),
            suffix: if reused { 0 } else { self.entropy.u64() },
            kind,
        }
    }

    /// Every name made so far is below this.
    pub(super) fn watermark(&self) -> ObjectSequence {
        ObjectSequence(self.next.load(Ordering::Relaxed))
    }
}
