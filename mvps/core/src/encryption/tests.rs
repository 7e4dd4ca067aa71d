//! Keys: they come back only to whom they belong, and are never shown.

use super::*;
use crate::env::memory::SeededEntropy;
use crate::ids::{ImageId, Incarnation, PageNumber};

const LIFE: Incarnation = Incarnation(7);

fn image(name: &str) -> ImageId {
    ImageId::parse(name).unwrap()
}

fn root(byte: u8) -> RootKey {
    RootKey::new([byte; ROOT_KEY_BYTES].into())
}

fn roots(bytes: &[u8]) -> RootKeys {
    RootKeys::new(bytes.iter().copied().map(root).collect())
}

fn wrapped(with: &RootKeys) -> WrappedDataKey {
    let entropy = SeededEntropy::new(1);
    WrappedDataKey::for_new_image(with, &image("disk0"), LIFE, &entropy).unwrap()
}

/// Whether both have the same data key for `disk0`.
fn same(one: &ImageKeys, other: &ImageKeys) -> bool {
    let sealed = |keys: &ImageKeys| {
        let key = keys
            .segment_key(&image("disk0"), LIFE, "a segment")
            .unwrap();
        let mut content = b"what is to be sealed".to_vec();
        let tag = key.seal(PageNumber(3), b"header", &mut content);
        (content, tag)
    };
    sealed(one) == sealed(other)
}

fn unwrap(with: &RootKeys, wrapped: &WrappedDataKey) -> Result<ImageKeys, KeyError> {
    ImageKeys::unwrap(with, &image("disk0"), std::slice::from_ref(wrapped))
}

#[test]
fn root_keys_are_parsed() {
    // 32 bytes of 0x01, and of 0x02.
    let one = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let two = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
    let ids = |text: &str| RootKeys::parse(text).map(|keys| keys.ids());
    assert_eq!(ids(one), Ok(roots(&[1]).ids()));
    assert_eq!(ids(&format!("{one}, {two}\n")), Ok(roots(&[1, 2]).ids()));
    let first = RootKeys::parse(&format!("{two},{one}")).unwrap();
    assert_eq!(first.first().unwrap().id(), root(2).id());
    for (text, number) in [
        (String::new(), 1),
        ("secret".to_owned(), 1),
        (one[..40].to_owned(), 1),
        (format!("{one}AQEB"), 1),
        (one.replace('=', ""), 1),
        (format!("{one},"), 2),
        (format!("{one},{}", &two[4..]), 2),
    ] {
        let error = RootKeys::parse(&text).unwrap_err();
        assert_eq!(error, RootKeyError::NotAKey { number }, "{text}");
        assert!(text.is_empty() || !error.to_string().contains(&text));
    }
    let many = vec![one; ROOT_KEYS_MAX + 1].join(",");
    assert_eq!(ids(&many), Err(RootKeyError::TooMany));
}

#[test]
fn nothing_shows_a_key() {
    let keys = roots(&[0xab]);
    let wrapped = wrapped(&keys);
    let opened = unwrap(&keys, &wrapped).unwrap();
    let segment = opened.segment_key(&image("disk0"), LIFE, "a segment");
    let shown = format!("{keys:?} {opened:?} {segment:?}");
    for secret in ["171", "ab, ab", "abab", "0xab"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    // The id is of one direction, and is no part of the key.
    assert!(shown.contains(&root(0xab).id().to_string()), "{shown}");
}

#[test]
fn a_data_key_comes_back_under_its_root_key_alone() {
    let wrapped = wrapped(&roots(&[1]));
    let opened = unwrap(&roots(&[1]), &wrapped).unwrap();
    assert!(same(&opened, &unwrap(&roots(&[9, 1]), &wrapped).unwrap()));
    let error = unwrap(&RootKeys::none(), &wrapped).unwrap_err();
    assert!(matches!(error, KeyError::NoRootKey { needed, .. } if needed == root(1).id()));
    let error = unwrap(&roots(&[2, 3]), &wrapped).unwrap_err();
    assert!(matches!(&error, KeyError::OtherRootKey { needed, .. } if *needed == root(1).id()));
    let text = error.to_string();
    assert!(
        text.contains(&root(1).id().to_string()),
        "which is needed: {text}"
    );
    assert!(
        text.contains(&root(3).id().to_string()),
        "which are there: {text}"
    );
}

#[test]
fn a_data_key_is_of_one_image_and_incarnation() {
    let good = wrapped(&roots(&[1]));
    let refuse = |change: &dyn Fn(&mut WrappedDataKey)| {
        let mut altered = good.clone();
        change(&mut altered);
        let refused = unwrap(&roots(&[1]), &altered);
        assert!(
            matches!(refused, Err(KeyError::Altered { .. })),
            "{refused:?}"
        );
    };
    refuse(&|key| key.image = image("disk1"));
    refuse(&|key| key.incarnation.0 += 1);
    refuse(&|key| key.nonce[0] ^= 1);
    for bit in 0..WRAPPED_KEY_BYTES * 8 {
        refuse(&|key| key.sealed[bit / 8] ^= 1 << (bit % 8));
    }
    let opened = unwrap(&roots(&[1]), &good).unwrap();
    assert!(
        opened
            .segment_key(&image("disk1"), LIFE, "a segment")
            .is_none()
    );
    assert!(
        opened
            .segment_key(&image("disk0"), Incarnation(8), "a segment")
            .is_none()
    );
}

#[test]
fn wrapping_again_changes_no_data_key() {
    let entropy = SeededEntropy::new(2);
    let old = wrapped(&roots(&[1]));
    let again = |with: &[u8]| old.wrapped_again(&roots(with), &image("disk0"), &entropy);
    let new = again(&[2, 1]).unwrap();
    assert_eq!(new.root, root(2).id());
    assert_ne!(new.sealed, old.sealed);
    let (before, after) = (unwrap(&roots(&[1]), &old), unwrap(&roots(&[2]), &new));
    assert!(same(&before.unwrap(), &after.unwrap()));
    assert!(unwrap(&roots(&[1]), &new).is_err());
    assert_eq!(again(&[1, 2]).unwrap(), old, "the first has it already");
    assert!(matches!(again(&[2]), Err(KeyError::OtherRootKey { .. })));
    assert!(matches!(again(&[]), Err(KeyError::NoRootKey { .. })));
}

#[test]
fn images_have_data_keys_of_their_own() {
    let entropy = SeededEntropy::new(3);
    let keys = roots(&[1]);
    let draw = || WrappedDataKey::for_new_image(&keys, &image("disk0"), LIFE, &entropy);
    let (one, other) = (draw().unwrap(), draw().unwrap());
    assert!(!same(
        &unwrap(&keys, &one).unwrap(),
        &unwrap(&keys, &other).unwrap()
    ));
    let none = RootKeys::none();
    assert_eq!(
        WrappedDataKey::for_new_image(&none, &image("disk0"), LIFE, &entropy),
        None
    );
}
