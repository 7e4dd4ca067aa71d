//! Known-bad variants of the engine, by which the simulation proves that it would notice.
//!
//! Each place where a variant differs asks [`is`] by the variant's name. Only a build that is
//! [`SELECTABLE`] can select one: the simulation's, and that of this crate's own tests
//! (`cargo ci variants`). Everywhere else the answer is `false` at compile time.
//!
//! Must never: be in what users run. So a variant takes the feature `variants` and debug assertions,
//! and no profile that is shipped has those.

/// Whether this build has variants.
pub const SELECTABLE: bool = cfg!(all(feature = "variants", debug_assertions));

#[cfg(all(feature = "variants", debug_assertions))]
static SELECTED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Every variant that the simulation must notice.
pub const ALL: &[&str] = &[
    "ack before sync",
    "publish before sync",
    "generation dropped before publish",
    "no publish re-check",
    "unclean image opened without takeover",
    "buffer replayed onto another history",
    "write acknowledged when fenced",
    "trim dropped in checkpoint",
    "conflict check skipped",
    "lock not exclusive",
    "conflict check skipped for trimmed pages",
    "page LSNs forgotten with the dropped generation",
    "stale old page accepted",
    "retired objects forgotten",
    "no epoch check",
    "lost reply taken for failure",
    "name reused after restart",
    "view published before the buffer commit",
    "seal loses in-flight writes",
    "stale cache served after rewrite",
    "corrupted frame served",
    "publication counter reused for another body",
    "write accepted after an attempted clean close",
    "pending tenure forgotten",
    "revoked request committed",
    "rollback takes back before it is published",
    "merging never comes to an end",
    "cleaning resurrects overwritten pages",
    "map compaction loses holes",
    "clone published before its pin",
    "pin of a clone's clone only in the parent",
    "snapshot delete that forgets pins",
    "tombstone that drops pins",
    "collection by age",
    "collection deletes before expiry is published",
    "collection ignores epoch and watermark",
    "collection ignores unreadable manifests",
    "the active epoch is settled",
    "failed sync answered as success",
    "failed commit answered as success",
    "failed read served as zeroes",
    "commits during an upload wait for others",
    "recovered commits wait for others",
    "who waits for the store waits for the interval",
    "checkpoint answered before its commits",
    "a confirmation lasts half as long again",
    "silence lasts for ever",
    "who checks need not wait",
    "outdated buffer opened",
    "others clear the retired list",
    "a rollback retires nothing",
    "growth forgets the retired list",
    "released one view early",
    "image handed back while somebody reads",
    "size told before it is published",
    "extents miss what is buffered",
    "unchanged is judged by the place in a segment",
    "expiry keeps one state too few",
    "a version ages while it is the newest",
    "a pin taken over is left as it was",
    "reader ids without a life",
    "a copied folder's reader taken for an earlier life",
    "a pin is released while its version is served",
    "a version is pinned that was forgotten",
    "the conflict window forgets and aborts nobody",
    "the conflict window is pruned by the newest view",
    "a transaction commits without a change that failed",
    "a full buffer takes writes",
    "the rest of a range begins with its first page",
    "what begins a second segment is lost",
    "a split checkpoint publishes its first segment",
    "a leaf loses its last page",
    "all leaves are said to be where the first one is",
    "a leaf that moves is left behind",
    "a hole frees the first leaf that it covers",
    "page numbers of the map have 32 bits",
];

/// Variants of the local tier that the simulation finds, on disks of files.
pub const ON_FILES: &[&str] = &[
    "the memory of an upload is not given back",
    "the memory of dropped generations is not given back",
    "a new log's name is not synced",
    "a superblock's slot is written over",
    "only the active log is synced",
    "content is not looked at",
];

/// Variants of the content log that its own tests must fail under. The simulation does not find
/// those that need a crash within one call of the disk.
pub const CONTENT_LOG: &[&str] = &[
    "a new log's name is not synced",
    "a name that was read is on the disk",
    "a superblock's slot is written over",
    "a superblock that was read is on the disk",
    "a log is removed before it is unlisted",
    "a dropped log is not synced while it is listed",
    "only the active log is synced",
    "what was synced may be missing",
    "a later block proves no sync",
    "a torn tail stays",
    "content is not looked at",
    "what was read is on the disk",
    "half a batch stays after a full disk",
];

/// Variants of the disk cache that its own tests and those of its readers must fail under.
pub const FRAME_CACHE: &[&str] = &[
    "cache entry served under another object's name",
    "cache entry kept after damage",
    "index place trusted without the header",
    "second chance for what was removed",
    "a scan drives out what is in use",
    "slabs of another index are kept",
    "an index that fails is asked again",
];

/// Variants of collection, history, fencing and connections that this crate's own tests must fail
/// under, too.
pub const TESTED: &[&str] = &[
    "what a lost connection sent follows its client",
    "clone published before its pin",
    "pin of a clone's clone only in the parent",
    "snapshot delete that forgets pins",
    "collection deletes before expiry is published",
    "collection ignores epoch and watermark",
    "collection ignores unreadable manifests",
    "the active epoch is settled",
    "nonce reused within a segment",
    "segment key does not bind the segment",
    "sealed frames do not bind their pages",
    "an epoch's number taken for its identity",
    "a merge forgets what others changed",
    "the pins of a deleted clone share nothing",
    "tombstone that drops pins",
    "an occupied name keeps its pins",
    "sharing is judged by the newest version",
    "a new life drops the pins",
    "a fenced server calls it a failure of the store",
    "a disconnect that waits is not seen",
    "a flood of connections goes first",
    "a check that slept has just ended",
    "the space that stays free is not looked at",
    "the memory for indexes is not looked at",
    "the memory of dropped generations is not given back",
];

/// Every counterexample of the protocol's models, and what went wrong with readers: its test, which
/// drives the real code through it, and the variant under which that test must fail.
pub const SCENARIOS: &[(&str, &str)] = &[
    (
        "scenarios::publication::recheck_a_create_that_succeeded_proves_nothing",
        "no publish re-check",
    ),
    (
        "scenarios::publication::adopt_an_epochs_number_is_not_its_identity",
        "an epoch's number taken for its identity",
    ),
    (
        "scenarios::publication::expiry_is_published_before_it_is_executed",
        "collection deletes before expiry is published",
    ),
    (
        "scenarios::publication::watermark_what_is_uploaded_and_unpublished_stays",
        "the active epoch is settled",
    ),
    (
        "scenarios::publication::epoch_a_fenced_server_publishes_nothing_more",
        "no epoch check",
    ),
    (
        "scenarios::publication::merge_takes_what_others_changed",
        "a merge forgets what others changed",
    ),
    (
        "scenarios::clones::chain_a_tombstones_pins_share",
        "the pins of a deleted clone share nothing",
    ),
    (
        "scenarios::clones::keep_a_tombstone_keeps_the_pins",
        "tombstone that drops pins",
    ),
    (
        "scenarios::clones::recheck_a_clone_that_was_created_may_not_be_the_newest",
        "no publish re-check",
    ),
    (
        "scenarios::clones::occupied_a_name_held_by_another_lets_go",
        "an occupied name keeps its pins",
    ),
    (
        "scenarios::clones::retained_versions_share_too",
        "sharing is judged by the newest version",
    ),
    (
        "scenarios::clones::rootpin_a_clones_clone_is_pinned_at_the_root",
        "pin of a clone's clone only in the parent",
    ),
    (
        "scenarios::clones::carry_a_new_life_keeps_the_pins",
        "a new life drops the pins",
    ),
    (
        "scenarios::clones::abrecheck_an_abandoned_name_must_be_the_newest",
        "no publish re-check",
    ),
    (
        "scenarios::readers::a_late_release_of_an_earlier_life_does_not_count",
        "a pin taken over is left as it was",
    ),
    (
        "scenarios::readers::a_copied_folders_server_has_a_pin_of_its_own",
        "reader ids without a life",
    ),
    (
        "scenarios::readers::a_life_takes_away_the_pins_that_it_has_outlived",
        "a copied folder's reader taken for an earlier life",
    ),
];

/// Which of [`TESTED`] a build of this crate's tests with selectable variants runs.
pub const TESTED_VARIABLE: &str = "MVPS_VARIANT";

/// This process runs the variant `name` from now on.
///
/// # Panics
/// If this build has no variants, or none of that name.
pub fn select(name: &str) {
    if !SELECTABLE {
        panic!("{name}: this program was built without variants");
    }
    let mut known = ALL.iter().chain(ON_FILES);
    assert!(known.any(|it| *it == name), "no such variant: {name}");
    // A second call changes nothing.
    #[cfg(all(feature = "variants", debug_assertions))]
    let _ = SELECTED.set(name.to_owned());
}

/// Whether this process runs the variant `name`.
#[inline]
#[must_use]
pub fn is(name: &str) -> bool {
    #[cfg(all(feature = "variants", debug_assertions, test))]
    SELECTED.get_or_init(|| std::env::var(TESTED_VARIABLE).unwrap_or_default());
    #[cfg(all(feature = "variants", debug_assertions))]
    return SELECTED.get().is_some_and(|selected| selected == name);
    #[cfg(not(all(feature = "variants", debug_assertions)))]
    {
        let _ = name;
        false
    }
}
