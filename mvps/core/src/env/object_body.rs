//! What a get asks for, and what it returns.
//!
//! A body stays in the pieces in which it arrived. Who copies parts of a large answer elsewhere
//! does not need it copied together first.

use std::ops::Range;

use bytes::Bytes;

/// How much of an object a get asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetRange {
    /// All of it.
    Whole,
    /// These bytes; never an empty range.
    Bytes(Range<u64>),
}

impl GetRange {
    /// The bytes that the answer must have, if they are known.
    #[must_use]
    pub fn expected_bytes(&self) -> Option<u64> {
        match self {
            Self::Whole => None,
            Self::Bytes(range) => Some(range.end.saturating_sub(range.start)),
        }
    }
}

/// The bytes of an object, or of a range of it, in the pieces in which they arrived.
#[derive(Debug, Clone, Default)]
pub struct ObjectBody {
    pieces: Vec<Bytes>,
    /// The only piece is a buffer of its own.
    is_alone: bool,
}

impl ObjectBody {
    /// A body in a buffer that holds nothing else.
    #[must_use]
    pub fn alone(bytes: Bytes) -> Self {
        Self {
            pieces: vec![bytes],
            is_alone: true,
        }
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.iter().all(Bytes::is_empty)
    }

    /// The pieces, in order.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// The pieces as one. Copies only if there are several: a single piece may still be a small
    /// part of a large buffer that a client received into.
    #[must_use]
    pub fn joined(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.swap_remove(0),
            _ => Bytes::from(self.pieces.concat()),
        }
    }

    /// The bytes for who keeps them: a copy, unless nothing else is kept in memory with them.
    #[must_use]
    pub fn kept(self) -> Bytes {
        match self.is_alone {
            true => self.joined(),
            false => Bytes::from(self.pieces.concat()),
        }
    }
}

impl From<Bytes> for ObjectBody {
    fn from(bytes: Bytes) -> Self {
        Self::from(vec![bytes])
    }
}

impl From<Vec<Bytes>> for ObjectBody {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self {
            pieces,
            is_alone: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&'static [u8]]) -> ObjectBody {
        let pieces = pieces.iter().copied().map(Bytes::from_static);
        ObjectBody::from(pieces.collect::<Vec<_>>())
    }

    #[test]
    fn pieces_are_joined_in_order() {
        for (pieces, joined) in [
            (&[][..], &b""[..]),
            (&[&b""[..]], b""),
            (&[b"one"], b"one"),
            (&[b"o", b"", b"ne"], b"one"),
        ] {
            let body = body(pieces);
            assert_eq!(body.len(), joined.len());
            assert_eq!(body.is_empty(), joined.is_empty());
            assert_eq!(body.clone().kept(), joined);
            assert_eq!(body.joined(), joined);
        }
    }

    #[test]
    fn one_piece_is_joined_without_a_copy_and_copied_when_it_is_kept() {
        let piece = Bytes::from(vec![7; 100]);
        let body = ObjectBody::from(piece.clone());
        assert_ne!(body.clone().kept().as_ptr(), piece.as_ptr());
        let alone = ObjectBody::alone(piece.clone());
        assert_eq!(alone.kept().as_ptr(), piece.as_ptr());
        assert_eq!(body.joined().as_ptr(), piece.as_ptr());
    }
}
