//! The whole judgement of a round: the state that was found, every read that was kept, and the
//! transactions.

use anyhow::{Context, Result};

use super::explain::{Explainer, Explanation};
use super::history::{History, Instant, OperationId, Stamp};

/// What a judged round adds to the figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Rounds.
    pub rounds: usize,
    /// Operations that were issued.
    pub operations: usize,
    /// Operations that are part of the found states.
    pub included: usize,
    /// Reads that were explained.
    pub reads: usize,
    /// Units that committed transactions had read.
    pub transaction_reads: usize,
}

impl Figures {
    /// Adds another round's.
    pub fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.operations += other.operations;
        self.included += other.included;
        self.reads += other.reads;
        self.transaction_reads += other.transaction_reads;
    }
}

/// Judges `found` as what `history` left, with all of `must` and nothing issued from `end` on.
///
/// # Errors
/// The first contradiction.
pub fn judge(
    history: &History,
    found: &[(u32, Stamp)],
    must: &[OperationId],
    end: Instant,
) -> Result<Figures> {
    let explainer = Explainer::new(history);
    let Explanation { included, .. } = explainer.explain(found, must, end).context("the state")?;
    for read in history.reads() {
        let before = history.acknowledged_before(read.issued);
        let explained = explainer.explain(&read.seen, &before, read.answered);
        explained.with_context(|| format!("a read issued at {}", read.issued))?;
    }
    let transaction_reads = explainer.serializable().context("a transaction")?;
    Ok(Figures {
        rounds: 1,
        operations: history.operations().len(),
        included,
        reads: history.reads().len(),
        transaction_reads,
    })
}
