use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::walls::{House, Room};
use super::{findings, report};

/// Three rooms, one above the other, and a corridor.
const HOUSE: House = House {
    name: "house",
    crate_root: "src/lib.rs",
    directory: "src",
    corridors: &["corridor"],
    rooms: &[
        Room {
            name: "low",
            may_import: &[],
        },
        Room {
            name: "middle",
            may_import: &["low"],
        },
        Room {
            name: "high",
            may_import: &["middle", "low/allowed"],
        },
        Room {
            name: "corridor/*",
            may_import: &["low"],
        },
        Room {
            name: "lib",
            may_import: &["high", "corridor/*"],
        },
    ],
};

/// A workspace of the house with these files.
fn workspace(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().expect("a scratch directory");
    for (name, text) in files {
        let path = directory.path().join("src").join(name);
        let parent = path.parent().expect("it is in src");
        fs::create_dir_all(parent).expect("a scratch directory");
        fs::write(&path, text).expect("a scratch file");
    }
    directory
}

const LIB: (&str, &str) = ("lib.rs", "mod corridor; mod high; mod low; mod middle;");

/// The files of a house in order.
const SOUND: &[(&str, &str)] = &[
    LIB,
    (
        "low/mod.rs",
        "pub mod allowed;\nmod hidden;\npub use hidden::Hidden;",
    ),
    ("low/allowed.rs", "pub struct Allowed;"),
    ("low/hidden.rs", "pub struct Hidden;"),
    ("corridor/mod.rs", "pub mod one;"),
    ("corridor/one.rs", "pub struct One;"),
    (
        "middle.rs",
        "use crate::low::Hidden;\npub struct Middle(Hidden);",
    ),
    (
        "high.rs",
        "use crate::middle::Middle;\nuse crate::low::allowed::Allowed;",
    ),
];

/// What is found in the house with `changed` in place of the files of the same names.
fn found(changed: &[(&str, &str)]) -> Vec<String> {
    let kept = SOUND
        .iter()
        .filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
    let files: Vec<(&str, &str)> = kept.chain(changed).copied().collect();
    let workspace = workspace(&files);
    findings(workspace.path(), &[HOUSE]).expect("the sources are read")
}

fn check(changed: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(found(changed), expected, "{changed:?}");
}

#[test]
fn a_house_in_order_has_no_findings() {
    check(&[], &[]);
}

#[test]
fn an_import_through_a_wall_is_found() {
    let wall = "src/middle.rs:2 imports src/high.rs: room middle may not import high";
    let high = (
        "high.rs",
        "pub struct High;\npub fn high() {}\n#[macro_export]\nmacro_rules! m { () => {} }",
    );
    for (by, text) in [
        ("a use", "\nuse crate::high::High;"),
        ("a tree", "\nuse crate::{high::{high, High}, low};"),
        ("another name", "\nuse super::high::High as Other;"),
        ("a path", "\nfn f() { crate::high::high(); }"),
        ("a path above", "\nfn f() { let _ = super::high::High; }"),
        ("a module", "use crate::high;\nfn f() { high::high(); }"),
        (
            "a macro's argument",
            "\nfn f() { println!(\"{:?}\", crate::high::high()); }",
        ),
        (
            "a module in braces",
            "\nmod inner { use super::super::high::High; }",
        ),
        (
            "a use in a function",
            "\nfn f() { use crate::high::high; high() }",
        ),
    ] {
        assert_eq!(found(&[high, ("middle.rs", text)]), [wall], "by {by}");
    }
}

#[test]
fn a_single_file_may_be_allowed() {
    check(
        &[("high.rs", "use crate::low::{allowed::Allowed, Hidden};")],
        &["src/high.rs:1 imports src/low/hidden.rs: room high may not import low"],
    );
}

#[test]
fn a_re_export_leads_to_the_file_that_defines() {
    // Through two re-exports, one with another name, and a glob.
    check(
        &[
            ("low/mod.rs", "mod deep;\nmod hidden;\npub use deep::*;"),
            (
                "low/deep/mod.rs",
                "mod deeper;\npub use deeper::Thing as Renamed;",
            ),
            ("low/deep/deeper.rs", "pub struct Thing;"),
            ("middle.rs", ""),
            ("high.rs", "use crate::low::Renamed;"),
        ],
        &["src/high.rs:1 imports src/low/deep/deeper.rs: room high may not import low"],
    );
}

#[test]
fn a_re_export_alone_is_no_import() {
    let high = ("high.rs", "pub struct High;");
    check(&[high, ("middle.rs", "pub use crate::high::High;")], &[]);
    check(
        &[
            high,
            ("middle.rs", "pub use crate::high::High;\nfn f(_: &High) {}"),
        ],
        &["src/middle.rs:2 imports src/high.rs: room middle may not import high"],
    );
    // Who imports it from there imports the file that defines it.
    check(
        &[
            ("high.rs", "pub use crate::low::Hidden;"),
            (
                "lib.rs",
                "mod corridor; mod high; mod low; mod middle;\nuse high::Hidden;",
            ),
        ],
        &["src/lib.rs:2 imports src/low/hidden.rs: room lib may not import low"],
    );
}

#[test]
fn a_cycle_is_found() {
    check(
        &[
            (
                "low/allowed.rs",
                "pub struct Allowed(super::hidden::Hidden);",
            ),
            (
                "low/hidden.rs",
                "use super::allowed::Allowed;\npub struct Hidden(Allowed);",
            ),
        ],
        &["cycle: src/low/allowed.rs -> src/low/hidden.rs -> src/low/allowed.rs"],
    );
    check(
        &[
            LIB,
            (
                "low/mod.rs",
                "pub mod a;\npub mod allowed;\nmod hidden;\npub use hidden::Hidden;",
            ),
            (
                "low/a.rs",
                "use super::Hidden;\nuse super::allowed::Allowed;\npub struct A;",
            ),
            ("low/allowed.rs", "use super::a::A;\npub struct Allowed;"),
            (
                "low/hidden.rs",
                "use super::allowed::Allowed;\npub struct Hidden;",
            ),
        ],
        &["cycle: src/low/a.rs -> src/low/allowed.rs -> src/low/a.rs \
             (and 1 more files that import each other)"],
    );
}

#[test]
fn a_child_may_extend_its_parent() {
    check(
        &[
            ("low/allowed.rs", "mod more;\npub struct Allowed;"),
            (
                "low/allowed/more.rs",
                "use super::Allowed;\nimpl Allowed { fn more(&self) {} }",
            ),
        ],
        &[],
    );
}

#[test]
fn test_code_is_left_out() {
    for text in [
        "#[cfg(test)]\nmod tests { use crate::high::High; }",
        "#[cfg(test)]\nuse crate::high::High;",
        "#[cfg(any(test, feature = \"x\"))]\npub mod conformance;",
        "#[test]\nfn f() { crate::high::high(); }",
        "struct A { #[cfg(test)] high: crate::high::High, other: u8 }",
        "#[cfg(test)]\nconst A: [u8; 1] = [crate::high::HIGH];",
        "mod tests;",
        "// use crate::high::High;\nconst A: &str = \"crate::high::High\";",
    ] {
        let high = (
            "high.rs",
            "pub struct High;\npub fn high() {}\npub const HIGH: u8 = 0;",
        );
        assert_eq!(found(&[high, ("middle.rs", text)]), [""; 0], "{text}");
    }
    // What follows test code is looked at again.
    check(
        &[
            ("high.rs", "pub struct High;"),
            (
                "middle.rs",
                "#[cfg(test)]\nmod tests { }\nuse crate::high::High;",
            ),
        ],
        &["src/middle.rs:3 imports src/high.rs: room middle may not import high"],
    );
}

#[test]
fn a_room_without_a_rule_is_found() {
    check(
        &[
            (
                "lib.rs",
                "mod attic; mod corridor; mod high; mod low; mod middle;",
            ),
            ("attic.rs", "use crate::low::Hidden;"),
        ],
        &["src: room attic has no rule"],
    );
}

#[test]
fn a_rule_without_a_room_is_found() {
    check(
        &[
            ("lib.rs", "mod corridor; mod high; mod low;"),
            ("high.rs", ""),
        ],
        &["src: no file of room middle"],
    );
    check(
        &[("lib.rs", "mod high; mod low; mod middle;")],
        &["src: no file of room corridor/*"],
    );
}

#[test]
fn rooms_of_a_corridor_do_not_import_each_other() {
    check(
        &[
            (
                "lib.rs",
                "mod corridor; mod high; mod low; mod middle;\nuse corridor::one::One;",
            ),
            ("corridor/mod.rs", "pub mod one;\npub mod two;"),
            (
                "corridor/one.rs",
                "use crate::low::Hidden;\npub struct One;",
            ),
            ("corridor/two/mod.rs", "mod part;\nfn f() { part::f() }"),
            (
                "corridor/two/part.rs",
                "pub fn f() { let _ = crate::corridor::one::One; }",
            ),
        ],
        &["src/corridor/two/part.rs:1 imports src/corridor/one.rs: \
             room corridor/two may not import corridor/one"],
    );
}

#[test]
fn a_path_that_leads_nowhere_is_found() {
    check(
        &[("middle.rs", "use super::super::high::High;")],
        &["src/middle.rs:1: super::super::high::High leads nowhere"],
    );
}

#[test]
fn a_missing_file_is_an_error() {
    let workspace = workspace(&[("lib.rs", "mod gone;")]);
    assert!(findings(workspace.path(), &[HOUSE]).is_err());
}

#[test]
fn the_report_counts_rooms_and_imports() {
    let mut files = SOUND.to_vec();
    files.retain(|(name, _)| *name != "low/hidden.rs");
    files.push(("low/hidden.rs", "pub struct Hidden(crate::middle::Middle);"));
    let workspace = workspace(&files);
    let text = report(workspace.path(), &[HOUSE]).expect("the sources are read");
    let expected = "
house              files  imports  back up  cycles  imports from (^ back up)
high                   1        2        0       0  low middle
middle                 1        1        0       1  low
low                    2        1        1       1  ^middle
corridor/one           1        0        0       0
4 rooms, 3 floors      5        4        1       1
";
    assert_eq!(text, expected);
}

#[test]
fn this_crate_has_files_in_every_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace");
    let ci = super::walls::HOUSES.iter().find(|house| house.name == "ci");
    let ci = std::slice::from_ref(ci.expect("ci has rooms"));
    assert_eq!(findings(root, ci).expect("the sources are read"), [""; 0]);
}
