//! How many bytes of log lie behind an index, roughly: for limits that count bytes.

use std::collections::VecDeque;

/// Bytes that one mark covers before the next begins. The answers are wrong by at most this much.
const STEP: u64 = 64 << 10;

/// Sizes of the log in steps of about 64 KiB.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    marks: VecDeque<Mark>,
}

#[derive(Debug)]
struct Mark {
    /// Last index that it covers; it begins behind the mark before it.
    last: u64,
    bytes: u64,
}

impl Sizes {
    /// An entry was appended.
    pub(super) fn push(&mut self, index: u64, bytes: usize) {
        let bytes = bytes as u64;
        match self.marks.back_mut() {
            Some(mark) if mark.bytes < STEP => {
                mark.last = index;
                mark.bytes += bytes;
            }
            _ => self.marks.push_back(Mark { last: index, bytes }),
        }
    }

    /// The entries behind this index are gone (`None`: all).
    pub(super) fn truncate_after(&mut self, index: Option<u64>) {
        let Some(index) = index else {
            self.marks.clear();
            return;
        };
        while let Some(mark) = self.marks.pop_back() {
            if mark.last <= index {
                self.marks.push_back(mark);
                break;
            }
            let begins_before = self.marks.back().is_none_or(|before| before.last < index);
            if begins_before {
                self.marks.push_back(Mark { last: index, ..mark });
                break;
            }
        }
    }

    /// The entries up to this index are gone.
    pub(super) fn purge_upto(&mut self, index: u64) {
        while self.marks.front().is_some_and(|mark| mark.last <= index) {
            self.marks.pop_front();
        }
    }

    /// Bytes of the entries behind this index.
    pub(super) fn bytes_after(&self, index: u64) -> u64 {
        let behind = self.marks.iter().rev().take_while(|mark| mark.last > index);
        behind.map(|mark| mark.bytes).sum()
    }

    /// The lowest known index behind which at most this many bytes lie; 0: all of them do.
    pub(super) fn index_keeping(&self, bytes_max: u64) -> u64 {
        let mut kept = 0;
        for mark in self.marks.iter().rev() {
            kept += mark.bytes;
            if kept > bytes_max {
                return mark.last;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_appends_truncations_and_purges() {
        let mut sizes = Sizes::default();
        for index in 1..=100 {
            sizes.push(index, 64 << 10);
        }
        assert_eq!(sizes.bytes_after(0), 100 * STEP);
        assert_eq!(sizes.bytes_after(90), 10 * STEP);
        assert_eq!(sizes.index_keeping(10 * STEP), 90);
        assert_eq!(sizes.index_keeping(100 * STEP), 0);
        sizes.truncate_after(Some(50));
        assert_eq!(sizes.bytes_after(40), 10 * STEP);
        sizes.purge_upto(45);
        assert_eq!(sizes.bytes_after(0), 5 * STEP);
        sizes.truncate_after(None);
        assert_eq!(sizes.bytes_after(0), 0);
    }
}
