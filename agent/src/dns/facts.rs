//! What is known while an answer is made, and what must be asked for first.

use std::sync::Arc;

use crate::view::{Answer, Question, ViewError};

/// Questions that one answer may need: its own, and those behind host names in our domain.
pub(crate) const FACTS_MAX: usize = 32;

/// Answers of the view, and the questions that turned out to be missing. Making an answer is a pure
/// function that is called again once they are known.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    known: Vec<(Question, Result<Arc<Answer>, ViewError>)>,
    missing: Vec<Question>,
}

/// What is known about a question.
pub(crate) enum Fact {
    Known(Arc<Answer>),
    Failed(ViewError),
    /// Not asked yet; or there are too many questions, and it never will be.
    Missing,
}

impl Facts {
    /// What is known; an unknown question is noted as missing.
    pub(crate) fn get(&mut self, question: &Question) -> Fact {
        if let Some((_, fact)) = self.known.iter().find(|(known, _)| known == question) {
            return match fact {
                Ok(answer) => Fact::Known(Arc::clone(answer)),
                Err(error) => Fact::Failed(error.clone()),
            };
        }
        let room = self.known.len() + self.missing.len() < FACTS_MAX;
        if room && !self.missing.contains(question) {
            self.missing.push(question.clone());
        }
        Fact::Missing
    }

    /// Adds an answer.
    pub(crate) fn learn(&mut self, question: Question, fact: Result<Arc<Answer>, ViewError>) {
        self.known.push((question, fact));
    }

    /// The questions to ask; empty: what was made is complete.
    pub(crate) fn take_missing(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.missing)
    }
}
