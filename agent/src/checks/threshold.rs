//! How many results in a row count.

use model::row::Status;

use super::Finding;

/// Consecutive successes and failures of one check, against its thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Threshold {
    success_before_passing: u32,
    failures_before_warning: u32,
    failures_before_critical: u32,
    successes: u32,
    failures: u32,
}

impl Threshold {
    /// The counters start full, so that the first result counts at once.
    pub(crate) fn new(success: u32, warning: u32, critical: u32) -> Self {
        let warning = if warning == 0 { critical } else { warning };
        Self {
            success_before_passing: success,
            failures_before_warning: warning,
            failures_before_critical: critical,
            successes: success,
            failures: critical,
        }
    }

    /// The status that this finding makes public; `None`: nothing changes, the output neither.
    pub(crate) fn on_finding(&mut self, finding: &Finding) -> Option<Status> {
        if finding.final_word {
            return Some(finding.status);
        }
        match finding.status {
            Status::Passing | Status::Warning => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
                (self.successes >= self.success_before_passing).then_some(finding.status)
            }
            Status::Critical => {
                self.failures = self.failures.saturating_add(1);
                self.successes = 0;
                if self.failures >= self.failures_before_critical {
                    Some(Status::Critical)
                } else if self.failures >= self.failures_before_warning {
                    Some(Status::Warning)
                } else {
                    None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Status::{Critical, Passing, Warning};

    fn run(mut threshold: Threshold, results: &[Status]) -> Vec<Option<Status>> {
        results
            .iter()
            .map(|status| threshold.on_finding(&Finding::new(*status, String::new())))
            .collect()
    }

    #[test]
    fn without_thresholds_every_result_counts() {
        assert_eq!(
            run(Threshold::new(0, 0, 0), &[Critical, Passing, Warning, Critical]),
            [Some(Critical), Some(Passing), Some(Warning), Some(Critical)]
        );
    }

    #[test]
    fn the_first_result_counts_whatever_it_is() {
        assert_eq!(run(Threshold::new(3, 0, 3), &[Critical]), [Some(Critical)]);
        assert_eq!(run(Threshold::new(3, 0, 3), &[Passing]), [Some(Passing)]);
    }

    #[test]
    fn failures_go_from_silence_through_warning_to_critical() {
        assert_eq!(
            run(Threshold::new(0, 2, 3), &[Passing, Critical, Critical, Critical, Critical]),
            [Some(Passing), None, Some(Warning), Some(Critical), Some(Critical)]
        );
        assert_eq!(
            run(Threshold::new(0, 0, 3), &[Passing, Critical, Critical, Critical]),
            [Some(Passing), None, None, Some(Critical)]
        );
    }

    #[test]
    fn successes_must_be_in_a_row_and_a_warning_is_one() {
        assert_eq!(
            run(Threshold::new(2, 0, 0), &[Critical, Passing, Critical, Passing, Warning]),
            [Some(Critical), None, Some(Critical), None, Some(Warning)]
        );
    }

    #[test]
    fn a_final_word_needs_no_row() {
        let mut threshold = Threshold::new(0, 0, 5);
        threshold.on_finding(&Finding::new(Passing, String::new()));
        let late = Finding { status: Critical, output: String::new(), final_word: true };
        assert_eq!(threshold.on_finding(&late), Some(Critical));
    }
}
