//! An immutable picture of an image at one LSN, and how it is read.
//!
//! The image's task makes a new view for every group of commits and for every published checkpoint;
//! readers keep the one they started with, so a page never moves under them. A view holds what it
//! reads: the handles of its generations (readable also after the generation was dropped) and its
//! map, whose guard keeps the objects of that map from leaving the retired list (protocol §4.6).
//!
//! Must never: change, or take a lock.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::frame_reader::FrameReader;
use super::map::{Map, MapRun};
use crate::content::{Content, ContentPiece, zeroes};
use crate::engine::buffer::{Buffered, Change, GenerationIndex};
use crate::engine::error::EngineError;
use crate::ids::{Lsn, PageNumber, PageSize};

/// Alive as long as a view of the map with this number is. The number counts the maps of one
/// process, so it also tells whether two views read object storage through the same map.
#[derive(Debug)]
pub struct MapGuard(pub u64);

/// The image as of one LSN. Immutable; any number of readers share it.
#[derive(Clone)]
pub struct View {
    /// Every commit up to this one is in the view, and none after it.
    pub lsn: Lsn,
    /// The image's size.
    pub size_bytes: u64,
    /// The image's page size.
    pub page_size: PageSize,
    /// What is buffered, newest generation first.
    pub generations: Vec<GenerationIndex>,
    /// Where everything else is.
    pub map: Map,
    /// See [`MapGuard`].
    pub guard: Arc<MapGuard>,
    /// Reads what the map points to.
    pub frames: Arc<FrameReader>,
}

/// Pages whose content has one place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    pages: Range<PageNumber>,
    /// The generation's place in [`View::generations`] and where it is there; `None` if the map
    /// has it.
    buffered: Option<(usize, Buffered)>,
}

/// The old content of a page that a patch needs, read through the map.
#[derive(Debug, Clone)]
pub struct OldPage {
    /// The page.
    pub page: PageNumber,
    /// Its content.
    pub content: Bytes,
    /// The number of the map it was read through: valid as long as that map is the current one
    /// and the page is not buffered.
    pub map: u64,
}

impl View {
    /// Reads `length` bytes at `offset`, which lie within the image.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`], [`EngineError::Unreadable`] or [`EngineError::Poisoned`]; an
    /// object store that is unavailable is waited for.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Content, EngineError> {
        let mut read = Vec::with_capacity(1);
        if length == 0 {
            return Ok(Content { pieces: read });
        }
        let bytes = offset..offset + length as u64;
        let last = self.page_size.page_of(bytes.end - 1);
        for piece in self.pieces(self.page_size.page_of(offset)..last.next()) {
            let from = bytes.start.max(self.page_size.offset_of(piece.pages.start));
            let to = bytes.end.min(self.page_size.offset_of(piece.pages.end));
            match piece.buffered {
                Some((level, buffered)) => {
                    self.read_buffered(level, buffered, &piece.pages, from..to, &mut read)?;
                }
                None => self.read_stored(piece.pages, from..to, &mut read).await?,
            }
        }
        Ok(Content { pieces: read })
    }

    /// The content of `page` if the buffer has it.
    ///
    /// # Errors
    /// As for [`View::read`].
    pub fn buffered_page(&self, page: PageNumber) -> Result<Option<Bytes>, EngineError> {
        buffered_page(&self.generations, page, self.page_size)
    }

    /// The old content of those pages that `changes` patch and that are only in object storage.
    ///
    /// # Errors
    /// As for [`View::read`].
    pub async fn old_pages(&self, changes: &[Change]) -> Result<Vec<OldPage>, EngineError> {
        let mut old_pages = Vec::new();
        for change in changes {
            let Change::Patch { page, .. } = change else {
                continue;
            };
            if self.find_buffered(*page).is_none() {
                let mut read = Vec::with_capacity(1);
                let from = self.page_size.offset_of(*page);
                let to = self.page_size.offset_of(page.next());
                self.read_stored(*page..page.next(), from..to, &mut read)
                    .await?;
                let content = Content { pieces: read }.into_bytes();
                old_pages.push(OldPage {
                    page: *page,
                    content,
                    map: self.guard.0,
                });
            }
        }
        Ok(old_pages)
    }

    fn find_buffered(&self, page: PageNumber) -> Option<(usize, Range<PageNumber>, Buffered)> {
        self.generations
            .iter()
            .enumerate()
            .find_map(|(level, generation)| {
                generation
                    .records
                    .get(page)
                    .map(|(pages, buffered)| (level, pages, buffered))
            })
    }

    /// `pages` in order, by where they are.
    fn pieces(&self, pages: Range<PageNumber>) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(1);
        // Most reads lie within one record of the newest generation.
        if let Some((0, found, buffered)) = self.find_buffered(pages.start)
            && found.end >= pages.end
        {
            pieces.push(Piece {
                pages,
                buffered: Some((0, buffered)),
            });
            return pieces;
        }
        self.resolve(0, pages, &mut pieces);
        pieces
    }

    fn resolve(&self, level: usize, pages: Range<PageNumber>, pieces: &mut Vec<Piece>) {
        let Some(generation) = self.generations.get(level) else {
            pieces.push(Piece {
                pages,
                buffered: None,
            });
            return;
        };
        for run in generation.records.runs(pages) {
            let pages = run.first..run.end();
            match run.value {
                Some(buffered) => pieces.push(Piece {
                    pages,
                    buffered: Some((level, buffered)),
                }),
                None => self.resolve(level + 1, pages, pieces),
            }
        }
    }

    fn read_buffered(
        &self,
        level: usize,
        buffered: Buffered,
        pages: &Range<PageNumber>,
        bytes: Range<u64>,
        read: &mut Vec<ContentPiece>,
    ) -> Result<(), EngineError> {
        match buffered {
            Buffered::Hole { .. } => push_hole(bytes.end - bytes.start, read),
            Buffered::Data { at, skip } => {
                let start = self.page_size.offset_of(pages.start);
                let within = within(start, &bytes);
                let data = self.generations[level].read(at, skip, within, self.page_size)?;
                read.push(ContentPiece::Data(data));
            }
        }
        Ok(())
    }

    async fn read_stored(
        &self,
        pages: Range<PageNumber>,
        bytes: Range<u64>,
        read: &mut Vec<ContentPiece>,
    ) -> Result<(), EngineError> {
        self.frames.note_read(&self.map, pages.clone());
        let mut runs = Vec::with_capacity(1);
        if self.map.try_lookup(pages.clone(), &mut runs).is_err() {
            runs = self.map.lookup(pages).await?;
        }
        // A read of one run, usually of a cached frame, takes no detour.
        let contents = match runs.as_slice() {
            [MapRun { location: None, .. }] => vec![None],
            [run] if let Some(content) = self.frames.try_read(&self.map, run)? => {
                vec![Some(content)]
            }
            _ => self.frames.read(&self.map, &runs).await?,
        };
        for (run, content) in runs.iter().zip(contents) {
            let start = self.page_size.offset_of(run.first);
            let end = self
                .page_size
                .offset_of(PageNumber(run.first.0 + run.pages));
            let bytes = bytes.start.max(start)..bytes.end.min(end);
            match content {
                None => push_hole(bytes.end - bytes.start, read),
                Some(content) => {
                    read.push(ContentPiece::Data(content.slice(within(start, &bytes))));
                }
            }
        }
        Ok(())
    }
}

/// The content of `page` in the newest of `generations` that has it.
///
/// # Errors
/// Those of the buffer store.
pub fn buffered_page<'a>(
    generations: impl IntoIterator<Item = &'a GenerationIndex>,
    page: PageNumber,
    page_size: PageSize,
) -> Result<Option<Bytes>, EngineError> {
    for generation in generations {
        match generation.records.get(page) {
            None => {}
            Some((_, Buffered::Hole { .. })) => return Ok(Some(zeroes(page_size.bytes()))),
            Some((_, Buffered::Data { at, skip })) => {
                let content = generation.read(at, skip, 0..page_size.bytes(), page_size)?;
                return Ok(Some(content));
            }
        }
    }
    Ok(None)
}

/// `bytes` relative to `start`.
fn within(start: u64, bytes: &Range<u64>) -> Range<usize> {
    let relative = |offset: u64| usize::try_from(offset - start).expect("a request fits memory");
    relative(bytes.start)..relative(bytes.end)
}

fn push_hole(bytes: u64, read: &mut Vec<ContentPiece>) {
    let bytes = usize::try_from(bytes).expect("a request fits memory");
    match read.last_mut() {
        Some(ContentPiece::Hole(before)) => *before += bytes,
        _ => read.push(ContentPiece::Hole(bytes)),
    }
}
