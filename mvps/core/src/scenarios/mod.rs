//! The counterexamples of the protocol's models, played against the real code.
//!
//! docs/protocol.md is checked by two small models, which know each rule by a name and can leave it
//! out. What goes wrong then is an interleaving of requests; here it is driven step by step, with
//! the engine, the operators' commands and the collector as they are, and nothing may go wrong.
//!
//! Read [`stage`] first (who acts, and how a request is held), then [`publication`] (§3 and §4 of the
//! protocol) and [`clones`] (§5): one test for each rule, named after it. [`SCENARIOS`] says which
//! known-bad variant of the code breaks which rule; `cargo ci variants` shows that the scenario
//! then fails.
//!
//! Of the clone model's rules two are not about safety alone: without *chain* the model finds a
//! counterexample only where *rootpin* is missing too, and *occupied* is what lets pins go at all.
//! For *abrecheck* it finds none with the actors that were tried; what the rule is there for needs
//! a version of the target that was forgotten by publication, which the model leaves out.
//!
//! [`readers`] tells in the same way what the simulation found about servers of published versions;
//! no model has those.
//!
//! Must never: sleep to get an interleaving, or ask the code under test whether all is well.

mod clones;
mod publication;
mod readers;
mod stage;

use crate::mutant::SCENARIOS;

/// Every rule has a scenario, and every scenario a variant under which it fails.
#[test]
fn every_rule_of_the_models_is_here() {
    let publication = ["recheck", "adopt", "expiry", "watermark", "epoch", "merge"];
    let clones = [
        "chain",
        "keep",
        "recheck",
        "occupied",
        "retained",
        "rootpin",
        "carry",
        "abrecheck",
    ];
    let of = |module: &str| -> Vec<&'static str> {
        let paths = SCENARIOS.iter().map(|(path, _)| *path);
        paths
            .filter_map(|path| path.strip_prefix(module)?.split('_').next())
            .collect()
    };
    assert_eq!(of("scenarios::publication::"), publication);
    assert_eq!(of("scenarios::clones::"), clones);
}
