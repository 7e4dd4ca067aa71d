//! Kills and power cuts between the steps of a switch, and databases that are lost.

use super::super::active::EmptyDatabase;
use super::super::journal::{JournalReader, Step};
use super::super::meta::Retired;
use super::super::switch;
use super::super::sync::Journals;
use super::databases::{commit_and_seal, cut_journal, databases, open_of_two};
use super::*;

/// A store that is open without what runs in the background.
struct Scene {
    root: TempDir,
    layout: Layout,
    databases: super::super::databases::Databases,
    journals: Journals,
}

impl Scene {
    /// Databases of one generation each, the active one with two commits of which one is synced,
    /// and metadata.
    fn new() -> Self {
        let root = fast_directory();
        let layout = FjallBufferStores::new(root.path()).layout(&image());
        let opened = open_or_create(&layout, Seed::of(&image()), &Weak::new(), 1).unwrap();
        let mut scene = Self {
            root,
            layout,
            databases: opened.databases,
            journals: opened.journals,
        };
        scene.databases.commit(&batch(1, 4096)).unwrap();
        scene.databases.put_metadata(b"mine").unwrap();
        scene.journals.sync().unwrap();
        scene.databases.commit(&batch(2, 65536)).unwrap();
        scene
    }

    fn make_next(&mut self) -> EmptyDatabase {
        let plan = self.databases.prepare_next().unwrap();
        let plan = plan.expect("a database of one generation is full");
        plan.make(&self.layout, Seed::of(&image())).unwrap()
    }

    /// The files as they are now, in a place of their own.
    fn killed(&self) -> TempDir {
        let copy = fast_directory();
        copy_directory(self.root.path(), copy.path());
        copy
    }
}

/// Opens what is left and goes on with it, over two more switches.
async fn goes_on(root: &Path, expected: &[u64], active: u64, what: &str) {
    let opened = open_of_two(root).await;
    let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(verified_lsns(&opened), expected, "{what}");
    assert_eq!(opened.metadata.as_deref(), Some(&b"mine"[..]), "{what}");
    let numbers = databases(root);
    assert_eq!(
        numbers.iter().rfind(|it| **it <= active),
        Some(&active),
        "{what}: {numbers:?}"
    );
    let first = expected.len() as u64 + 1;
    for lsn in first..first + 3 {
        commit_and_seal(&opened.store, lsn).await;
    }
    drop(opened);
    let opened = open_of_two(root).await.unwrap();
    let all: Vec<u64> = (1..first + 3).collect();
    assert_eq!(verified_lsns(&opened), all, "{what}, and on");
    assert_eq!(opened.metadata.as_deref(), Some(&b"mine"[..]), "{what}");
}

/// What the file `synced` says is noted behind each sync, so it tells which there were.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_committed_is_synced_before_another_database_takes_over() {
    let root = fast_directory();
    let stores = FjallBufferStores::new(root.path()).of(1);
    let opened = stores.open(&image()).await.unwrap();
    let layout = stores.layout(&image());
    let synced = |number: u64| {
        let database = layout.database(DatabaseNumber(number));
        SyncedFile::read(&database).unwrap()
    };
    let before = synced(0);
    for lsn in 1..=3 {
        opened.store.commit(batch(lsn, 4096)).await.unwrap();
    }
    assert_eq!(synced(0), before, "a commit syncs nothing");
    opened.store.seal().await.unwrap();
    assert_eq!(
        synced(0),
        before + 3,
        "the commits, not the note behind them"
    );
    assert_eq!(synced(1), 1, "what the next database begins with");
    opened.store.commit(batch(4, 4096)).await.unwrap();
    opened.store.sync().await.unwrap();
    assert_eq!((synced(0), synced(1)), (before + 4, 2), "both, from now on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_any_two_steps_loses_nothing() {
    let mut killed = Vec::new();
    let mut scene = Scene::new();
    killed.push(("nothing made", 0, scene.killed()));
    let next = scene.make_next();
    killed.push(("the next database made", 0, scene.killed()));
    scene.journals.sync().unwrap();
    killed.push(("the active one synced", 0, scene.killed()));
    let begun = switch::begin(&scene.databases, next);
    let (next, journal) = begun.unwrap();
    killed.push(("the next one begun", 0, scene.killed()));
    files::complete(next.database().directory().path()).unwrap();
    killed.push(("it counts", 1, scene.killed()));
    let number = next.database().number();
    scene.databases.take_over(next).unwrap();
    killed.push(("the old one sealed", 1, scene.killed()));
    scene.journals.insert(number, journal);
    scene.journals.sync().unwrap();
    killed.push(("that synced", 1, scene.killed()));
    for (what, active, root) in killed {
        goes_on(root.path(), &[1, 2], active, what).await;
    }
    scene.databases.commit(&batch(3, 4096)).unwrap();
    goes_on(scene.killed().path(), &[1, 2, 3], 1, "a commit after it").await;
}

/// After the switch nothing in the old database is unsynced but notes, so a tail of these may be
/// missing, in whatever length.
#[tokio::test(flavor = "multi_thread")]
async fn the_note_of_the_old_databases_end_may_be_torn() {
    let mut scene = Scene::new();
    let next = scene.make_next();
    scene.journals.sync().unwrap();
    let synced = scene.killed();
    switch::switch(&mut scene.databases, &mut scene.journals, next, Into::into).unwrap();
    scene.databases.commit(&batch(3, 4096)).unwrap();
    let after = scene.killed();
    let used = |root: &Path| {
        let (_, path) = files::journals(&root.join("disk/fjall"))
            .unwrap()
            .pop()
            .unwrap();
        journal_bytes(&path).len() as u64
    };
    let (safe, all) = (used(synced.path()), used(after.path()));
    assert!(safe < all);
    for bytes in [safe, safe + 1, (safe + all) / 2, all - 1] {
        let root = fast_directory();
        copy_directory(after.path(), root.path());
        cut_journal(&root.path().join("disk/fjall"), bytes);
        goes_on(
            root.path(),
            &[1, 2, 3],
            1,
            &format!("{bytes} of {safe} to {all} bytes"),
        )
        .await;
    }
    // A byte less was synced, whatever the file `synced` says, or had it been lost.
    for bytes in [safe - 1, safe / 2, 0] {
        let root = fast_directory();
        copy_directory(after.path(), root.path());
        let database = root.path().join("disk/fjall");
        fs::remove_file(database.join("synced")).unwrap();
        cut_journal(&database, bytes);
        let before = fs::read_dir(&database).unwrap().count();
        assert_refused(root.path(), "").await;
        let cut = fs::read_dir(&database).unwrap().count() - before;
        assert_eq!(cut, 0, "nothing is cut off what was synced");
    }
}

async fn assert_refused(root: &Path, reason: &str) {
    let before = databases(root);
    match open_of_two(root).await.err() {
        Some(BufferError::Corrupt { reason: told }) => {
            assert!(told.contains(reason), "{told}");
        }
        other => panic!("{reason}: {other:?}"),
    }
    assert_eq!(databases(root), before, "nothing is removed");
}

/// Three databases of two generations each, with generations 1 to 5.
async fn three_databases() -> TempDir {
    let root = fast_directory();
    let opened = open_of_two(root.path()).await.unwrap();
    for lsn in 1..=4 {
        commit_and_seal(&opened.store, lsn).await;
    }
    opened.store.commit(batch(5, 4096)).await.unwrap();
    opened.store.sync().await.unwrap();
    settle().await;
    drop(opened);
    assert_eq!(databases(root.path()), [0, 1, 2]);
    let recovered = open_of_two(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [1, 2, 3, 4, 5]);
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_is_refused() {
    for (lost, told) in [
        ("fjall", "fjall is missing"),
        ("fjall-1", "fjall-1 is missing"),
        ("fjall-2", "the database that does is missing"),
        ("fjall-1/complete", "fjall-1 is missing"),
        ("fjall-2/complete", "the database that does is missing"),
    ] {
        let root = three_databases().await;
        let lost = root.path().join("disk").join(lost);
        if lost.is_dir() {
            fs::remove_dir_all(lost).unwrap();
        } else {
            fs::remove_file(lost).unwrap();
        }
        assert_refused(root.path(), told).await;
    }
}

/// A database that is whole in itself and not the one that belongs there.
#[tokio::test(flavor = "multi_thread")]
async fn databases_that_do_not_follow_each_other_are_refused() {
    let (one, other) = (three_databases().await, fast_directory());
    let opened = open_of_two(other.path()).await.unwrap();
    for lsn in [10, 20, 30, 40, 50] {
        commit_and_seal(&opened.store, lsn).await;
    }
    settle().await;
    drop(opened);
    for name in ["fjall", "fjall-1", "fjall-2"] {
        let root = fast_directory();
        copy_directory(one.path(), root.path());
        let place = root.path().join("disk").join(name);
        fs::remove_dir_all(&place).unwrap();
        copy_directory(&other.path().join("disk").join(name), &place);
        assert_refused(root.path(), "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_begins_elsewhere_is_refused() {
    for (start, fits) in [(0, false), (1, false), (2, true), (3, false)] {
        let mut scene = Scene::new();
        let next = scene.make_next();
        scene.journals.sync().unwrap();
        let mut beginning = scene.databases.active().succession().unwrap();
        beginning.start = Lsn(start);
        let next = next.begin(beginning).unwrap();
        files::complete(next.database().directory().path()).unwrap();
        let root = scene.killed();
        if fits {
            goes_on(root.path(), &[1, 2], 1, "it begins where it should").await;
        } else {
            assert_refused(root.path(), "begins behind LSN").await;
        }
    }
}

/// An earlier state of the store, put back in part.
#[tokio::test(flavor = "multi_thread")]
async fn a_retired_database_without_its_last_commits_is_refused() {
    let early = fast_directory();
    let root = fast_directory();
    let opened = open_of_two(root.path()).await.unwrap();
    commit_and_seal(&opened.store, 1).await;
    opened.store.commit(batch(2, 4096)).await.unwrap();
    opened.store.sync().await.unwrap();
    settle().await;
    copy_directory(root.path(), early.path());
    commit_and_seal(&opened.store, 3).await;
    opened.store.commit(batch(4, 4096)).await.unwrap();
    settle().await;
    drop(opened);
    drop(open_of_two(root.path()).await.unwrap());
    let place = root.path().join("disk/fjall");
    fs::remove_dir_all(&place).unwrap();
    copy_directory(&early.path().join("disk/fjall"), &place);
    assert_refused(root.path(), "").await;
}

/// A database that was dropped comes back in part, if its removal was interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_database_that_nobody_needs_is_removed() {
    let root = three_databases().await;
    let early = fast_directory();
    copy_directory(root.path(), early.path());
    let opened = open_of_two(root.path()).await.unwrap();
    for generation in &opened.generations[..4] {
        let dropped = opened.store.drop_generation(generation.generation);
        dropped.await.unwrap();
    }
    drop(opened);
    drop(open_of_two(root.path()).await.unwrap());
    assert_eq!(databases(root.path()), [2]);
    let disk = root.path().join("disk");
    copy_directory(&early.path().join("disk/fjall"), &disk.join("fjall"));
    fs::create_dir_all(disk.join("fjall-1/keyspaces/3")).unwrap();
    fs::create_dir_all(disk.join("fjall-9/keyspaces/3")).unwrap();
    let recovered = open_of_two(root.path()).await.unwrap();
    assert_eq!(verified_lsns(&recovered), [5]);
    assert_eq!(databases(root.path()), [2]);
}

/// A power cut after the word that a database is no more, before its directory went; and before
/// that word was synced.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_goes_or_comes_back_as_a_whole() {
    let root = three_databases().await;
    let layout = FjallBufferStores::new(root.path()).layout(&image());
    let opened = open_or_create(&layout, Seed::of(&image()), &Weak::new(), 2).unwrap();
    let Opened {
        mut databases,
        mut journals,
        found,
    } = opened;
    let first = found.generations[0].stored.generation;
    let forgotten = databases.forget(first).unwrap();
    journals.sync().unwrap();
    databases.forget(first.next()).unwrap();
    let said = fast_directory();
    copy_directory(root.path(), said.path());
    assert_eq!(
        verified_lsns(&open_of_two(said.path()).await.unwrap()),
        [3, 4, 5]
    );
    assert_eq!(super::databases::databases(said.path()), [1, 2]);
    // The word was the last batch of the active database.
    let torn = fast_directory();
    copy_directory(root.path(), torn.path());
    let active = torn.path().join("disk/fjall-2");
    let (_, journal) = files::journals(&active).unwrap().pop().unwrap();
    let bytes = fs::read(journal).unwrap();
    let mut reader = JournalReader::new(bytes.as_slice(), 0);
    let mut last = 0;
    while let Step::Batch(batch) = reader.step().unwrap() {
        last = batch.start;
    }
    cut_journal(&active, last + 5);
    assert_eq!(
        verified_lsns(&open_of_two(torn.path()).await.unwrap()),
        [2, 3, 4, 5]
    );
    drop((forgotten, databases, journals));
}

#[test]
fn what_is_known_of_a_retired_database_has_a_fixed_form() {
    let retired = Retired {
        last: mvps_core::ids::Generation(1),
        end: Lsn(2),
        ordinal: 0x0300,
    };
    let bytes = retired.encode();
    assert_eq!(bytes[..8], 1_u64.to_le_bytes());
    assert_eq!(bytes[8..16], 2_u64.to_le_bytes());
    assert_eq!(bytes[16..], 0x0300_u64.to_le_bytes());
}
