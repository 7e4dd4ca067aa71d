//! Damage to files: a torn tail is cut, synced data is never lost without a word.

use super::super::files::journals;
use super::super::journal::{JournalReader, Step};
use super::super::recovery::check_journals;
use super::*;

const COMMITS: u64 = 10;
const SYNCED: u64 = 6;

/// A store of [`COMMITS`] commits, the first [`SYNCED`] of them synced, as its files were then.
struct Scene {
    files: TempDir,
    /// Offsets of each batch of the journal.
    batches: Vec<(u64, u64)>,
    /// Where the unsynced batches begin.
    unsynced: u64,
}

impl Scene {
    async fn new(bytes: usize) -> Self {
        let (live, files) = (fast_directory(), fast_directory());
        let opened = open(live.path()).await.unwrap();
        settle().await;
        for lsn in 1..=COMMITS {
            opened.store.commit(batch(lsn, bytes)).await.unwrap();
            if lsn == SYNCED {
                opened.store.sync().await.unwrap();
            }
        }
        copy_directory(live.path(), files.path());
        let mut scene = Self {
            files,
            batches: Vec::new(),
            unsynced: 0,
        };
        let journal = fs::read(scene.journal(scene.files.path())).unwrap();
        let mut reader = JournalReader::new(journal.as_slice(), 0);
        while let Step::Batch(batch) = reader.step().unwrap() {
            scene.batches.push((batch.start, batch.end));
        }
        let first_unsynced = scene.batches.len() - (COMMITS - SYNCED) as usize;
        scene.unsynced = scene.batches[first_unsynced].0;
        scene
    }

    fn database(&self, root: &Path) -> PathBuf {
        root.join("disk").join("fjall")
    }

    fn journal(&self, root: &Path) -> PathBuf {
        let found = journals(&self.database(root)).unwrap();
        assert_eq!(
            found.len(),
            1,
            "these stores are too small for two journals"
        );
        found[0].1.clone()
    }

    fn end(&self) -> u64 {
        self.batches.last().unwrap().1
    }

    /// A copy whose journal was changed by `damage`.
    fn damaged(&self, damage: impl FnOnce(&mut Vec<u8>)) -> TempDir {
        let root = fast_directory();
        copy_directory(self.files.path(), root.path());
        let journal = self.journal(root.path());
        let mut bytes = fs::read(&journal).unwrap();
        damage(&mut bytes);
        fs::write(&journal, bytes).unwrap();
        root
    }

    /// What the check alone makes of it: how many batches of the journal remain, if any do.
    fn check(&self, root: &Path) -> Result<usize, BufferError> {
        let database = self.database(root);
        let synced = SyncedFile::read(&database).unwrap();
        let cut = check_journals(&database, Seed::of(&image()), synced)?;
        let length = cut.map_or(self.end(), |cut| cut.offset);
        Ok(self.batches.iter().filter(|b| b.1 <= length).count())
    }
}

/// Asserts that `found` is a prefix with everything synced.
fn assert_prefix(found: &[u64], what: &str) {
    let expected: Vec<u64> = (1..=found.len() as u64).collect();
    assert_eq!(found, expected, "{what}: a prefix");
    assert!(
        found.len() as u64 >= SYNCED,
        "{what}: lost synced commits, found {found:?}"
    );
}

fn zero(bytes: &mut [u8], block: u64) {
    let start = block as usize * 4096;
    let end = (start + 4096).min(bytes.len());
    bytes[start..end].fill(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_lost_block_of_the_unsynced_tail_is_cut() {
    for bytes in [4096, 16 * 1024, 64 * 1024] {
        let scene = Scene::new(bytes).await;
        let blocks = scene.unsynced.div_ceil(4096)..scene.end().div_ceil(4096);
        let count = blocks.end - blocks.start;
        assert!(count > 3);
        for block in blocks {
            let what = format!("{bytes} bytes a record, block {block}");
            let root = scene.damaged(|journal| zero(journal, block));
            if block % 2 == 0 {
                // Written after the sync, so perhaps not there after the power cut.
                fs::remove_file(scene.database(root.path()).join("synced")).unwrap();
            }
            let first_unsynced = scene.batches.len() - (COMMITS - SYNCED) as usize;
            let kept = scene.check(root.path());
            assert!(
                kept.as_ref().is_ok_and(|k| *k >= first_unsynced),
                "{what}: {kept:?}"
            );
            if block % 16 < 2 {
                let recovered = open(root.path())
                    .await
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_prefix(&verified_lsns(&recovered), &what);
                // It goes on from there, and nothing that was cut comes back.
                let next = recovered.last_lsn.0 + 1;
                recovered.store.commit(batch(next, bytes)).await.unwrap();
                recovered.store.sync().await.unwrap();
                drop(recovered);
                let recovered = open(root.path()).await.unwrap();
                assert_eq!(recovered.last_lsn, Lsn(next), "{what}");
                assert_prefix(&verified_lsns(&recovered), &what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_length_of_the_unsynced_tail_is_a_prefix() {
    let scene = Scene::new(4096).await;
    for length in (scene.unsynced..scene.end()).step_by(509) {
        let root = scene.damaged(|journal| journal.truncate(length as usize));
        let kept = scene.check(root.path()).unwrap();
        let whole = scene.batches.iter().filter(|b| b.1 <= length).count();
        assert_eq!(kept.min(whole), whole, "length {length}");
    }
    let root = scene.damaged(|journal| journal.truncate(scene.unsynced as usize));
    assert_prefix(&verified_lsns(&open(root.path()).await.unwrap()), "no tail");
}

/// A flipped bit anywhere in what was synced is refused, or leaves a prefix with everything
/// synced.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_never_loses_synced_data() {
    let scene = Scene::new(4096).await;
    let (mut refused, mut harmless) = (0, 0);
    for offset in (0..scene.unsynced).step_by(89) {
        for bit in [0, 6] {
            let flip = |journal: &mut Vec<u8>| journal[offset as usize] ^= 1 << bit;
            let root = scene.damaged(flip);
            let what = format!("bit {bit} of byte {offset}");
            match scene.check(root.path()) {
                Err(BufferError::Corrupt { .. }) => refused += 1,
                Err(other) => panic!("{what}: {other}"),
                Ok(_) => {
                    harmless += 1;
                    match open(root.path()).await {
                        Ok(found) => assert_prefix(&verified_lsns(&found), &what),
                        Err(BufferError::Corrupt { .. }) => {}
                        Err(other) => panic!("{what}: {other}"),
                    }
                }
            }
        }
    }
    assert!(refused > 400, "{refused} refused, {harmless} harmless");
}

/// Every bit of the batch header, whose sequence number fjall does not checksum.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_a_batch_start_never_loses_synced_data() {
    let scene = Scene::new(4096).await;
    let synced = scene.batches.len() - (COMMITS - SYNCED) as usize;
    let start = scene.batches[synced - 2].0 as usize;
    for bit in 0..13 * 8 {
        let root = scene.damaged(|journal| journal[start + bit / 8] ^= 1 << (bit % 8));
        match open(root.path()).await {
            Ok(found) => assert_prefix(&verified_lsns(&found), &format!("bit {bit}")),
            Err(BufferError::Corrupt { .. }) => {}
            Err(other) => panic!("bit {bit}: {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_batch_proves_what_was_synced() {
    let scene = Scene::new(4096).await;
    let synced = scene.batches.len() - (COMMITS - SYNCED) as usize;
    let (start, end) = scene.batches[synced - 1];
    let root = scene.damaged(|journal| journal[start as usize..end as usize].fill(0));
    fs::remove_file(scene.database(root.path()).join("synced")).unwrap();
    let found = open(root.path()).await.err();
    assert!(
        matches!(found, Some(BufferError::Corrupt { .. })),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_directory_entry_is_refused() {
    let scene = Scene::new(4096).await;
    let keyspaces = scene.database(scene.files.path()).join("keyspaces");
    for entry in fs::read_dir(keyspaces).unwrap() {
        let lost = entry.unwrap().file_name();
        let root = scene.damaged(|_| ());
        let keyspaces = scene.database(root.path()).join("keyspaces");
        fs::remove_dir_all(keyspaces.join(&lost)).unwrap();
        match open(root.path()).await {
            Err(BufferError::Corrupt { .. }) => {}
            // The keyspace that was made in advance is missed by nobody.
            Ok(found) => assert_prefix(&verified_lsns(&found), &format!("{lost:?}")),
            Err(other) => panic!("{lost:?}: {other}"),
        }
    }
    let root = scene.damaged(|_| ());
    fs::remove_file(scene.journal(root.path())).unwrap();
    let found = open(root.path()).await.err();
    assert!(
        matches!(found, Some(BufferError::Corrupt { .. })),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_images_store_is_refused() {
    let scene = Scene::new(4096).await;
    let other = scene.files.path().join("other");
    fs::rename(scene.files.path().join("disk"), other).unwrap();
    let stores = FjallBufferStores::new(scene.files.path());
    let found = stores.open(&ImageId::parse("other").unwrap()).await.err();
    assert!(
        matches!(found, Some(BufferError::Corrupt { .. })),
        "{found:?}"
    );
}
