//! Segment keys: each seals the frames of one segment (AES-256-GCM).

use std::fmt;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

use crate::ids::PageNumber;

/// Bytes that sealing adds: what proves that nothing was altered.
pub const TAG_BYTES: usize = 16;

/// Seals and opens the frames of one segment. Prints nothing of itself.
#[derive(Clone)]
pub struct SegmentKey(LessSafeKey);

impl SegmentKey {
    pub(super) fn new(key: LessSafeKey) -> Self {
        Self(key)
    }

    /// Seals `content` in place, so that it opens only beside the same `header`; returns the tag.
    /// `first` is the frame's first page, which no other frame of the segment has.
    pub fn seal(&self, first: PageNumber, header: &[u8], content: &mut [u8]) -> [u8; TAG_BYTES] {
        let aad = Aad::from(bound(header));
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce(first), aad, content);
        let tag = sealed.expect("a frame is not too long to seal");
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Opens in place what [`Self::seal`] made, its tag at the end; the content, or `None` if
    /// anything is not as it was sealed.
    pub fn open<'a>(
        &self,
        first: PageNumber,
        header: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a mut [u8]> {
        let aad = Aad::from(bound(header));
        self.0.open_in_place(nonce(first), aad, sealed).ok()
    }
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SegmentKey(…)")
    }
}

fn bound(header: &[u8]) -> &[u8] {
    if crate::mutant::is("sealed frames do not bind their pages") {
        return &[];
    }
    header
}

fn nonce(first: PageNumber) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    if !crate::mutant::is("nonce reused within a segment") {
        bytes[..size_of::<u64>()].copy_from_slice(&first.0.to_le_bytes());
    }
    Nonce::assume_unique_for_key(bytes)
}
