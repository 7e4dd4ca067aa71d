//! What a store answered to a list of steps, to be compared with what another one did.

use std::fmt;

/// Steps and answers, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers(Vec<(String, String)>);

impl Answers {
    pub(super) fn add(&mut self, step: &str, answer: String) {
        self.0.push((step.to_owned(), answer));
    }

    /// The first step that was answered differently, if there is one, with both answers.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        for (number, (left, right)) in pairs {
            if left != right {
                let (step, answer) = left;
                let theirs = &right.1;
                return Some(format!("step {number}, {step}: {answer:?}, and {theirs:?}"));
            }
        }
        (self.0.len() != other.0.len()).then(|| "another number of steps".to_owned())
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, answer) in &self.0 {
            writeln!(formatter, "{step}: {answer}")?;
        }
        Ok(())
    }
}
