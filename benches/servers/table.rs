//! Rows of all rounds, printed as medians with their spread and as ratios.

use std::collections::BTreeMap;
use std::fmt;

use super::cluster::Kind;

/// One run of one kind of server.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) who: &'static str,
    pub(crate) ops_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of all servers for one operation.
    pub(crate) cpu_us: f64,
    /// fdatasync just before the run.
    pub(crate) sync_us: f64,
}

/// All rows.
#[derive(Default)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.0.push(row);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// `median [least..most]`.
fn spread(rows: &[&Row], of: impl Fn(&Row) -> f64) -> String {
    let mut values: Vec<f64> = rows.iter().map(|row| of(row)).collect();
    let median = median(&mut values);
    let (least, most) = (values.first().unwrap_or(&0.0), values.last().unwrap_or(&0.0));
    format!("{median:.0} [{least:.0}..{most:.0}]")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
        let mut order = Vec::new();
        for row in &self.0 {
            let key = (row.what.as_str(), row.who);
            if !runs.contains_key(&key) {
                order.push(key);
            }
            runs.entry(key).or_default().push(row);
        }
        writeln!(f, "median [least..most] of the rounds")?;
        writeln!(
            f,
            "{:<10} {:<8} {:>24} {:>22} {:>24} {:>18} {:>18}",
            "run", "server", "ops/s", "p50 us", "p99 us", "cpu us/op", "fdatasync us"
        )?;
        for key in &order {
            let (what, who) = key;
            let rows = &runs[key];
            writeln!(
                f,
                "{what:<10} {who:<8} {:>24} {:>22} {:>24} {:>18} {:>18}",
                spread(rows, |row| row.ops_s),
                spread(rows, |row| row.p50_us),
                spread(rows, |row| row.p99_us),
                spread(rows, |row| row.cpu_us),
                spread(rows, |row| row.sync_us),
            )?;
        }
        let ours = Kind::Muster.name();
        for (what, who) in order.iter().filter(|(_, who)| *who != ours) {
            let Some(own) = runs.get(&(*what, ours)) else { continue };
            let ratio = |of: fn(&Row) -> f64| {
                let middle =
                    |rows: &[&Row]| median(&mut rows.iter().map(|row| of(row)).collect::<Vec<_>>());
                middle(own) / middle(&runs[&(*what, *who)])
            };
            writeln!(
                f,
                "{what}: {:.2} x the operations of {who}, {:.2} x its p99, {:.2} x its cpu",
                ratio(|row| row.ops_s),
                ratio(|row| row.p99_us),
                ratio(|row| row.cpu_us),
            )?;
        }
        Ok(())
    }
}

/// RFC 4648 §4, for etcd's JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
