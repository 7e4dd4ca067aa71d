use sim::exhaustive::workload::{ALPHABET, Image, Letter, name, parse, words};

#[test]
fn there_are_as_many_words_as_there_should_be() {
    assert_eq!(words(0).len(), 1);
    assert_eq!(words(3).len(), ALPHABET.len().pow(3));
    let all: std::collections::BTreeSet<String> = words(2).iter().map(|word| name(word)).collect();
    assert_eq!(all.len(), ALPHABET.len().pow(2));
    for word in words(2) {
        assert_eq!(parse(&name(&word)), Some(word));
    }
    assert_eq!(parse("a?"), None);
}

#[test]
fn a_trim_frees_whole_pages_and_a_zero_is_exact() {
    let full = Image::default()
        .after(&Letter::WriteA.effects(1))
        .after(&Letter::WriteB.effects(2));
    let trimmed = full.after(&Letter::Trim.effects(3));
    assert!(trimmed.page(0) == full.page(0) && trimmed.page(2).is_none());
    let zeroed = full.after(&Letter::Zero.effects(3));
    let (old, new) = (full.page(2).expect("full"), zeroed.page(2).expect("partly"));
    assert_eq!(old[1100..], new[1100..]);
    assert!(new[..1100].iter().all(|byte| *byte == 0));
}
