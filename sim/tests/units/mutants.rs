use mvps_core::mutant::ALL;
use sim::mutants::KNOWN;

#[test]
fn known_seeds_are_of_variants_that_there_are() {
    for (name, _) in KNOWN {
        assert!(ALL.contains(name), "{name}");
    }
}
