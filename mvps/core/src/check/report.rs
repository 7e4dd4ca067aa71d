//! What a check found, for people and machines.

use crate::env::StoreError;
use crate::ids::ImageId;
use crate::object_reads::ReadError;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A retained manifest that cannot be read.
    UnreadableManifest,
    /// A retained version without a manifest.
    LostManifest,
    /// A reference to an object that is not there.
    Dangling,
    /// Bytes that do not verify, or that contradict what refers to them.
    Damaged,
    /// A number in a manifest or footer that is not what is counted.
    WrongCount,
    /// An object of another size than its references say.
    WrongSize,
    /// A key among the image's objects that is no name of mvps.
    UnknownKey,
    /// The object store did not answer: nothing is known.
    Unanswered,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The key of the object or manifest.
    pub key: String,
    /// What exactly.
    pub reason: String,
}

impl Finding {
    /// A finding about `key`.
    pub fn new(kind: FindingKind, key: impl ToString, reason: impl ToString) -> Self {
        Self {
            kind,
            key: key.to_string(),
            reason: reason.to_string(),
        }
    }

    /// What a failed read of `key` says.
    pub fn of_read(key: &str, error: &ReadError) -> Self {
        let kind = match error {
            ReadError::Store(StoreError::NotFound { .. }) => FindingKind::Dangling,
            ReadError::Store(_) => FindingKind::Unanswered,
            ReadError::Corrupt { .. } | ReadError::NewerFormat { .. } => FindingKind::Damaged,
        };
        Self::new(kind, key, error)
    }
}

/// Objects that nothing references. They cost space and are otherwise harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Leaks {
    /// Objects that a collector may delete.
    pub garbage: u64,
    /// Their bytes.
    pub garbage_bytes: u64,
    /// Objects that a publication yet to come may still reference.
    pub unsettled: u64,
    /// Their bytes.
    pub unsettled_bytes: u64,
}

/// What was found in one image.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct ImageCheck {
    /// Its name.
    pub image: String,
    /// Its newest version, if it has one that can be read.
    pub newest_version: Option<u64>,
    /// Versions that were walked.
    pub versions: u64,
    /// Objects under the image's name.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Objects that were verified, those of other images included.
    pub objects_verified: u64,
    /// Its newest version has a data key.
    pub encrypted: bool,
    /// Why the content of sealed segments was not opened, only its checksums verified, although
    /// content was to be read.
    pub unopened: Option<String>,
    /// Bytes of page content that were verified, as they are stored.
    pub data_bytes_verified: u64,
    /// Objects that nothing references; unknown if a manifest cannot be read.
    pub leaks: Option<Leaks>,
    /// Findings beyond [`FINDINGS_MAX`].
    pub findings_left_out: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// Most findings that are kept of one image: one lost object may be many dangling references.
pub const FINDINGS_MAX: usize = 1000;

impl ImageCheck {
    /// Nothing was looked at yet.
    #[must_use]
    pub fn of(image: &ImageId) -> Self {
        Self {
            image: image.to_string(),
            ..Self::default()
        }
    }

    /// Notes a finding.
    pub fn found(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_left_out += 1;
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct CheckReport {
    /// Page content was read too.
    pub read_data: bool,
    /// The images, by name.
    pub images: Vec<ImageCheck>,
}

impl CheckReport {
    /// Whether nothing is wrong. Leaks are no fault.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.images.iter().all(|image| image.findings.is_empty())
    }
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckProgress {
    /// Images to be checked.
    pub images: u64,
    /// Images that are done.
    pub images_done: u64,
    /// Versions that were walked.
    pub versions: u64,
    /// Objects that were verified.
    pub objects: u64,
    /// Bytes of page content that were verified.
    pub data_bytes: u64,
}
