use proptest::prelude::*;

use super::*;
use crate::format::damage::{any_image, any_name, image, segment_name};

#[test]
fn keys_are_these() {
    let (name, _) = segment_name();
    let map = ObjectName {
        kind: ObjectKind::Map,
        ..name.clone()
    };
    let keys = [
        images_prefix().to_owned(),
        manifests_prefix(&name.image),
        manifest_key(&name.image, Version(1)),
        manifest_key(&name.image, Version(4711)),
        objects_prefix(&name.image),
        name.key(),
        map.key(),
    ];
    insta::assert_snapshot!(keys.join("\n"));
}

#[test]
fn other_object_keys_are_refused() {
    let (name, _) = segment_name();
    let key = name.key();
    assert_eq!(ObjectName::parse(&key).as_ref(), Ok(&name));
    let replaced = [
        ("images/", "image/"),
        ("images/", "/images/"),
        ("disk0", ""),
        ("disk0", ".disk"),
        ("disk0", "disk0/disk0"),
        ("objects", "manifests"),
        ("1111222233334444", "111122223333444"),
        ("1111222233334444", "+111222233334444"),
        ("feedbeef", "FEEDbeef"),
        ("0000000000000003-", "3-"),
        ("0000000000000003-", "0000000000000003--"),
        ("0000000000000003-", "0000000000000003-0000000000000003-"),
        (".segment", ".map.segment"),
        (".segment", ".segments"),
        (".segment", ".SEGMENT"),
        (".segment", ""),
        ("8888/", "8888//"),
    ];
    for (from, to) in replaced {
        assert!(key.contains(from));
        let other = key.replacen(from, to, 1);
        assert!(ObjectName::parse(&other).is_err(), "{other}");
    }
    for length in 0..key.len() {
        assert!(ObjectName::parse(&key[..length]).is_err());
    }
}

#[test]
fn other_manifest_keys_are_refused() {
    let good = "images/a/manifests/fffffffffffffffe-1";
    assert_eq!(parse_manifest_key(good), Ok((image("a"), Version(1))));
    let others = [
        "",
        "images/a/manifests/",
        "images/a/manifests/fffffffffffffffe",
        "images/a/manifests/fffffffffffffffe-",
        "images/a/manifests/fffffffffffffffe-2",
        "images/a/manifests/fffffffffffffffe-01",
        "images/a/manifests/fffffffffffffffe-1-1",
        "images/a/manifests/fffffffffffffffe-1/",
        "images/a/manifests/FFFFFFFFFFFFFFFE-1",
        "images/a/manifests/0fffffffffffffffe-1",
        "images/-/manifests/fffffffffffffffe-1",
        "images/a/b/manifests/fffffffffffffffe-1",
        "images/a/objects/fffffffffffffffe-1",
        "p/images/a/manifests/fffffffffffffffe-1",
    ];
    for other in others {
        assert!(parse_manifest_key(other).is_err(), "{other}");
    }
}

#[test]
fn folders_are_images() {
    assert_eq!(parse_image_folder("images/a.b/"), Ok(image("a.b")));
    for other in [
        "images/",
        "images//",
        "images/a",
        "a/",
        "images/a/b/",
        "images/.a/",
    ] {
        assert!(parse_image_folder(other).is_err(), "{other}");
    }
}

proptest! {
    #[test]
    fn names_come_back(
        segment in any_name(ObjectKind::Segment),
        map in any_name(ObjectKind::Map),
    ) {
        for name in [segment, map] {
            prop_assert!(name.key().starts_with(&objects_prefix(&name.image)));
            prop_assert_eq!(ObjectName::parse(&name.key()), Ok(name));
        }
    }

    #[test]
    fn the_newest_manifest_is_listed_first(image in any_image(), a: u64, b: u64) {
        let key = |version| manifest_key(&image, Version(version));
        prop_assert_eq!(parse_manifest_key(&key(a)), Ok((image.clone(), Version(a))));
        prop_assert_eq!(key(a).cmp(&key(b)), b.cmp(&a));
        prop_assert!(key(a).starts_with(&manifests_prefix(&image)));
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
        prop_assert!(ObjectName::parse(&text).is_err());
        prop_assert!(parse_manifest_key(&text).is_err());
    }
}
