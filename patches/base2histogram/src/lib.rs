//! Histograms of `u64` values for openraft, in place of the published crate of this name.
//!
//! The published crate builds tables for all of its sixteen resolutions at first use and keeps
//! them: 26 MiB resident in every server, for counters that Muster never shows (openraft's feature
//! `runtime-stats` is off). This one computes a bucket from the value's bits and has no tables. It
//! has what openraft calls and nothing else; `Cargo.toml` of the workspace puts it in place.
//!
//! A value falls into a bucket by its three highest bits, so a bucket's bounds differ by at most a
//! quarter, and all of `u64` needs 252 buckets.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value that tell its bucket, the highest one included.
const WIDTH: u32 = 3;
/// Buckets that share their highest bit.
const GROUP: usize = 1 << (WIDTH - 1);
/// Buckets for all of `u64`.
const BUCKETS: usize = GROUP + GROUP * (u64::BITS - WIDTH + 1) as usize;

/// Counts of values by their size. `T` is a label of the published interface without use here.
pub struct Histogram<T = ()> {
    counts: Box<[u64]>,
    label: PhantomData<fn() -> T>,
}

impl<T> Histogram<T> {
    /// One without values.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), label: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value `count` times. Counters stop at their maximum.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let counter = &mut self.counts[bucket(value)];
        *counter = counter.saturating_add(count);
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Lower bound of the bucket that the share `rank` (0.0 to 1.0) of all values reaches; 0
    /// without values.
    pub fn percentile(&self, rank: f64) -> u64 {
        let total = self.total();
        if total == 0 {
            return 0;
        }
        let wanted = ((total as f64 * rank.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen: u64 = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted {
                return lower_bound(bucket);
            }
        }
        u64::MAX
    }

    /// The percentiles that openraft prints.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.10),
            p50: self.percentile(0.50),
            p90: self.percentile(0.90),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket(value: u64) -> usize {
    if value < GROUP as u64 {
        return value as usize;
    }
    let group = u64::BITS - value.leading_zeros() - WIDTH;
    // The bits below the highest one, of the three.
    let within = (value >> group) as usize & (GROUP - 1);
    GROUP + group as usize * GROUP + within
}

fn lower_bound(bucket: usize) -> u64 {
    if bucket < GROUP {
        return bucket as u64;
    }
    let (group, within) = ((bucket - GROUP) / GROUP, (bucket - GROUP) % GROUP);
    ((GROUP + within) as u64) << group
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Histogram<T> {
    fn clone(&self) -> Self {
        Self { counts: self.counts.clone(), label: PhantomData }
    }
}

impl<T> PartialEq for Histogram<T> {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl<T> Eq for Histogram<T> {}

impl<T> fmt::Debug for Histogram<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.percentile_stats()).finish()
    }
}

/// Percentiles of a histogram: the value that so many percent of the values do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Number of values.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// 50 %.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p0_1, p1, p5, p10, p50, p90, p99, p99_9 } = self;
        write!(
            f,
            "[samples: {samples}, P0.1: {p0_1}, P1: {p1}, P5: {p5}, P10: {p10}, P50: {p50}, \
             P90: {p90}, P99: {p99}, P99.9: {p99_9}]"
        )
    }
}

/// Several named histograms, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsciiChart {
    series: Vec<(String, Histogram)>,
}

impl AsciiChart {
    /// One without histograms.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more.
    #[must_use]
    pub fn add(mut self, name: impl Into<String>, histogram: Histogram) -> Self {
        self.series.push((name.into(), histogram));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name} {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_gaps() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for bucket_number in 0..BUCKETS {
            let low = lower_bound(bucket_number);
            assert_eq!(bucket(low), bucket_number, "the lower bound {low} is in its bucket");
            if let Some(below) = low.checked_sub(1) {
                assert_eq!(bucket(below), bucket_number - 1, "{below} is in the bucket before");
            }
        }
    }

    #[test]
    fn percentiles_are_lower_bounds_of_buckets() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        histogram.record_n(3, 90);
        histogram.record_n(1_000, 10);
        assert_eq!(histogram.total(), 100);
        assert_eq!(histogram.percentile(0.5), 3);
        assert_eq!(histogram.percentile(0.9), 3);
        assert_eq!(histogram.percentile(0.91), 896);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p99_9), (100, 3, 896));
    }

    #[test]
    fn a_full_counter_stays_full() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(1, u64::MAX);
        histogram.record(1);
        histogram.record(2);
        assert_eq!(histogram.total(), u64::MAX);
        assert_eq!(histogram.percentile(1.0), 1);
    }
}
