//! What happens to a disk from the outside: crashes, damage, and folders that come and go.

use std::collections::{BTreeMap, BTreeSet};

use super::content::Content;
use super::disk::{Disk, Place};
use super::folder::{FileId, Folder};
use crate::env::Entropy;
use crate::env::memory::Crash;

/// The files of one folder, as a copy by a process would hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderCopy(Option<BTreeMap<String, Vec<u8>>>);

impl Disk {
    pub(super) fn crash(&mut self, crash: Crash, entropy: &dyn Entropy) {
        self.openings.clear();
        self.locks.clear();
        self.schedule.restart();
        if crash == Crash::PowerCut {
            self.power_cut(entropy);
        }
        self.forget_files();
    }

    fn power_cut(&mut self, entropy: &dyn Entropy) {
        let names = self.folders.values().flat_map(|it| it.names().values());
        let named: BTreeSet<FileId> = names.copied().collect();
        for folder in self.folders.values_mut() {
            folder.power_cut(entropy);
        }
        for (file, content) in &mut self.files {
            // The system drops what is dirty of a removed file; only its removal may be undone.
            match named.contains(file) {
                true => content.power_cut(entropy),
                false => content.revert(),
            }
        }
    }

    pub(super) fn paths(&self, folder: &str) -> Vec<String> {
        let names = self.folders.get(folder).map(|it| it.names().keys());
        let names = names.into_iter().flatten();
        names.map(|name| format!("{folder}/{name}")).collect()
    }

    /// The bytes of a file, if there is one of that name.
    pub(super) fn find(&mut self, at: Place<'_>) -> Option<&mut Content> {
        let file = self.folders.get(at.folder)?.file(at.name)?;
        self.files.get_mut(&file)
    }

    pub(super) fn delete(&mut self, at: Place<'_>) {
        if let Some(folder) = self.folders.get_mut(at.folder) {
            folder.delete(at.name);
        }
        self.forget_files();
    }

    pub(super) fn copy_folder(&self, folder: &str) -> FolderCopy {
        let bytes = |file: &FileId| self.files[file].bytes().to_vec();
        FolderCopy(self.folders.get(folder).map(|it| {
            let names = it.names().iter();
            names.map(|(name, id)| (name.clone(), bytes(id))).collect()
        }))
    }

    /// Replaces a folder and ends whoever has it open.
    pub(super) fn restore_folder(&mut self, folder: &str, copy: &FolderCopy) {
        self.take_folder(folder);
        if let Some(files) = &copy.0 {
            let mut restored = Folder::default();
            for (name, bytes) in files {
                let file = self.add_file(Content::durable(bytes.clone()));
                restored.insert_durable(name, file);
            }
            self.folders.insert(folder.to_owned(), restored);
        }
        self.forget_files();
    }

    pub(super) fn lose_folder(&mut self, folder: &str) {
        self.take_folder(folder);
        self.forget_files();
    }

    pub(super) fn swap_folders(&mut self, left: &str, right: &str) {
        let (from_left, from_right) = (self.take_folder(left), self.take_folder(right));
        let to_left = from_right.map(|it| (left.to_owned(), it));
        let to_right = from_left.map(|it| (right.to_owned(), it));
        self.folders.extend(to_left.into_iter().chain(to_right));
        self.forget_files();
    }

    pub(super) fn unsynced(&self, folder: &str) -> usize {
        let sectors = |it: &Folder| -> usize {
            let files = it.names().values();
            files.map(|file| self.files[file].unsynced()).sum()
        };
        let folder = self.folders.get(folder);
        folder.map_or(0, |it| it.unsynced() + sectors(it))
    }

    /// Takes a folder off the disk and ends whoever has it open. Its files are still there.
    fn take_folder(&mut self, folder: &str) -> Option<Folder> {
        self.openings.retain(|_, opening| opening.folder != folder);
        self.locks.remove(folder);
        self.folders.remove(folder)
    }
}
