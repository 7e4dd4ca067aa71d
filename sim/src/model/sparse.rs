//! What is true of a large image between the areas that clients use: it reads as zeroes. And what an
//! image says of its own extents: what it calls empty is.

use std::ops::Range;

use bytes::Bytes;
use mvps_core::engine::Extent;
use mvps_core::env::memory::MemoryObjectStore;
use mvps_core::format::manifest::Manifest;
use mvps_core::format::map_object::Root;

use super::content::Effect;
use super::reads::Window;
use super::state::Model;

impl Model {
    /// What `effect` does to the pages that clients use: a trim may cross all of the image.
    pub(super) fn within_areas(&self, effect: Effect) -> Vec<Effect> {
        let cut = |offset: u64, length: u64| self.areas.cut_bytes(offset..offset + length);
        let length_of = |range: &Range<u64>| range.end - range.start;
        match effect {
            Effect::Write(..) => vec![effect],
            Effect::Zero(offset, length) => cut(offset, length)
                .map(|it| Effect::Zero(it.start, length_of(&it)))
                .collect(),
            Effect::Trim(offset, length) => cut(offset, length)
                .map(|it| Effect::Trim(it.start, length_of(&it)))
                .collect(),
        }
    }

    /// `server` says what of the image from `offset` on has content, of an area or between areas.
    pub fn extents_returned(&self, server: &str, window: Window, offset: u64, extents: &[Extent]) {
        let mut state = self.state();
        let places = Self::places_of(&mut state, server, window);
        let mut next = offset;
        let mut empty = Vec::new();
        for extent in extents {
            if !extent.is_set {
                empty.push(next..next + extent.length_bytes);
            }
            next += extent.length_bytes;
        }
        let unwritten = |range: &Range<u64>| self.areas.cut_bytes(range.clone()).next().is_none();
        let set_between = extents.iter().any(|it| it.is_set) && unwritten(&(offset..next));
        let is_true = places.iter().any(|(branch, lsn)| {
            let mut used = empty.iter().flat_map(|it| self.areas.cut_bytes(it.clone()));
            used.all(|it| {
                let length = usize::try_from(it.end - it.start).expect("an area is small");
                let zeroes = Bytes::from(vec![0; length]);
                self.holds(&state, *branch, *lsn, &[], it.start, &zeroes)
            })
        });
        if !is_true || set_between {
            self.journal.fail(
                "5 (extents)",
                format_args!(
                    "{server} says of {offset}+{} that it is {extents:?}, which no LSN of \
                     {places:?} is",
                    next - offset
                ),
            );
        }
        self.journal.checked(5);
    }

    /// Counts what landed in several parts.
    pub(super) fn mark_parts(
        &self,
        before: Option<&Manifest>,
        manifest: &Manifest,
        contents: &MemoryObjectStore,
    ) {
        if leaves(manifest, contents) > 1 {
            self.journal.mark("a version of several leaves landed");
        }
        if manifest.maps.len() > 1 {
            self.journal.mark("a version of several map objects landed");
        }
        let Some(before) = before else { return };
        let same = before.tenure == manifest.tenure && before.lsn < manifest.lsn;
        let new = manifest.segments.iter();
        let new = new.filter(|it| it.id >= before.next_segment).count();
        if same && new > 1 {
            self.journal.mark("a checkpoint wrote several segments");
        }
    }
}

/// How many leaves the map of a version has.
fn leaves(manifest: &Manifest, contents: &MemoryObjectStore) -> usize {
    let Some(root) = manifest.root else { return 0 };
    let object = manifest.maps.iter().find(|it| it.id == root.map);
    let object = object.expect("a valid manifest");
    let body = contents.peek(&object.name.key());
    let body = body.expect("what is referenced was checked");
    let from = usize::try_from(root.span.offset).expect("a small object");
    let bytes = &body[from..from + root.span.bytes as usize];
    let root = Root::decode(object.name.seed(), bytes);
    root.map_or(0, |root| root.leaves.len())
}
