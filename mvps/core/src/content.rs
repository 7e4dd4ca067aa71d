//! Content of an image: data, and holes where nothing is stored.
//!
//! The engine reads it, a session passes it on and the NBD codec sends it. All three use this one
//! form, so nothing on the way is copied or translated. It knows none of them: it is bytes and
//! lengths, without a world.

use bytes::Bytes;

/// A part of some content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentPiece {
    /// These bytes.
    Data(Bytes),
    /// This many bytes that read as zeroes because nothing is stored there.
    Hole(usize),
}

impl ContentPiece {
    /// How many bytes it stands for.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Hole(bytes) => *bytes,
        }
    }

    /// Whether it stands for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing is stored there.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        matches!(self, Self::Hole(_))
    }
}

/// Content in order; the lengths add up to what was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The pieces.
    pub pieces: Vec<ContentPiece>,
}

impl Content {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(ContentPiece::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it in one piece, copied unless it is one piece already.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.pieces.as_slice() {
            [ContentPiece::Data(data)] => return data.clone(),
            [ContentPiece::Hole(bytes)] => return zeroes(*bytes),
            _ => {}
        }
        let mut whole = Vec::with_capacity(self.len());
        for piece in &self.pieces {
            match piece {
                ContentPiece::Data(data) => whole.extend_from_slice(data),
                ContentPiece::Hole(bytes) => whole.resize(whole.len() + bytes, 0),
            }
        }
        Bytes::from(whole)
    }
}

/// Up to 64 KiB of zeroes, the largest page.
static ZEROES: [u8; 1 << 16] = [0; 1 << 16];

/// `length` bytes of zeroes, shared and not allocated up to the largest page.
#[must_use]
pub fn zeroes(length: usize) -> Bytes {
    if length <= ZEROES.len() {
        Bytes::from_static(&ZEROES[..length])
    } else {
        Bytes::from(vec![0; length])
    }
}
