//! `snapshot inspect`: what is in an archive, as Consul shows it (spec/agent.md §37.27).

use std::collections::BTreeMap;

use serde::Serialize;
use server::raft::archive::Contents;

use super::super::flags::{Flag, Given, Kind, flag};
use super::super::version::pretty_json;
use super::super::{Done, out};

pub(super) static FLAGS: &[Flag] = &[
    flag("format", Kind::Value, "pretty or json. Default pretty."),
    flag("kvdepth", Kind::Value, "With -kvdetails: fold keys below this many parts. Default 2."),
    flag("kvdetails", Kind::Bool, "Show keys too, folded to prefixes."),
    flag("kvfilter", Kind::Value, "With -kvdetails: only keys that begin with this."),
];

/// Columns are this far apart.
const GAP: usize = 6;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    meta: Meta,
    stats: Vec<Sort>,
    #[serde(rename = "StatsKV", skip_serializing_if = "Option::is_none")]
    stats_kv: Option<Vec<Sort>>,
    total_size: u64,
    #[serde(rename = "TotalSizeKV")]
    total_size_kv: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(rename = "ID")]
    id: String,
    size: u64,
    index: u64,
    term: u64,
    version: u32,
}

/// Rows of a sort, or keys of a prefix.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sort {
    name: String,
    sum: u64,
    count: u64,
}

pub(super) fn run(given: &Given) -> Done {
    let json = match given.get("format").unwrap_or("pretty") {
        "pretty" => false,
        "json" => true,
        other => return Err(format!("-format {other}: say pretty or json").into()),
    };
    let depth = usize::try_from(given.number("kvdepth")?.unwrap_or(2)).unwrap_or(usize::MAX);
    if depth == 0 {
        return Err("-kvdepth 0 must be at least 1".into());
    }
    let path = super::file(given)?;
    let contents = super::contents(&path)?;
    let keys = given.is("kvdetails").then(|| {
        let keys = contents.keys();
        folded(
            keys.iter().map(|(key, bytes)| (&key[..], *bytes)),
            depth,
            given.get("kvfilter").unwrap_or("").as_bytes(),
        )
    });
    let report = report(&contents, keys);
    out::line(if json { pretty_json(&report) } else { text(&report) });
    Ok(())
}

fn report(contents: &Contents, keys: Option<Vec<Sort>>) -> Report {
    let rows = contents.rows.iter();
    let stats =
        rows.map(|(name, (count, sum))| Sort { name: (*name).into(), sum: *sum, count: *count });
    let stats = largest_first(stats.collect());
    let total = |sorts: &[Sort]| sorts.iter().map(|sort| sort.sum).sum();
    let meta = &contents.meta;
    Report {
        meta: Meta {
            id: meta.id.clone(),
            size: meta.size,
            index: meta.index,
            term: meta.term,
            version: meta.version,
        },
        total_size: total(&stats),
        total_size_kv: keys.as_deref().map_or(0, total),
        stats,
        stats_kv: keys,
    }
}

fn largest_first(mut sorts: Vec<Sort>) -> Vec<Sort> {
    sorts.sort_by(|one, other| other.sum.cmp(&one.sum).then_with(|| one.name.cmp(&other.name)));
    sorts
}

/// Keys that begin with `filter`, those with the same first `depth` parts taken together.
fn folded<'a>(
    keys: impl Iterator<Item = (&'a [u8], u64)>,
    depth: usize,
    filter: &[u8],
) -> Vec<Sort> {
    let mut prefixes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (key, bytes) in keys.filter(|(key, _)| key.starts_with(filter)) {
        let parts: Vec<&[u8]> = key.split(|byte| *byte == b'/').take(depth).collect();
        let prefix = String::from_utf8_lossy(&parts.join(&b'/')).into_owned();
        let (count, sum) = prefixes.entry(prefix).or_default();
        *count += 1;
        *sum += bytes;
    }
    let sorts = prefixes.into_iter().map(|(name, (count, sum))| Sort { name, sum, count });
    largest_first(sorts.collect())
}

fn text(report: &Report) -> String {
    let Meta { id, size, index, term, version } = &report.meta;
    let head = [
        ("ID", id.clone()),
        ("Size", size.to_string()),
        ("Index", index.to_string()),
        ("Term", term.to_string()),
        ("Version", version.to_string()),
    ];
    let head = head.map(|(name, value)| vec![format!(" {name}"), value]);
    let mut blocks =
        vec![out::table_with_gap(&head, GAP), table("Type", &report.stats, report.total_size)];
    if let Some(keys) = &report.stats_kv {
        blocks.push(table("Key Name", keys, report.total_size_kv));
    }
    blocks.join("\n\n")
}

fn table(title: &str, sorts: &[Sort], total: u64) -> String {
    let row = |name: &str, count: &str, size: &str| {
        vec![format!(" {name}"), count.to_owned(), size.to_owned()]
    };
    let mut rows = vec![row(title, "Count", "Size"), row("----", "----", "----")];
    for Sort { name, sum, count } in sorts {
        rows.push(row(name, &count.to_string(), &size(*sum)));
    }
    rows.push(row("----", "----", "----"));
    rows.push(row("Total", "", &size(total)));
    out::table_with_gap(&rows, GAP)
}

/// `1.5KB`; a figure behind the point, unless it is 0.
fn size(bytes: u64) -> String {
    let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        None if bytes == 0 => "0".to_owned(),
        None => format!("{bytes}B"),
        Some((shift, unit)) => {
            // Tenths, rounded; in wide numbers, so that nothing overflows.
            let tenths = (u128::from(bytes) * 10 + (1_u128 << (shift - 1))) >> shift;
            match tenths % 10 {
                0 => format!("{}{unit}", tenths / 10),
                rest => format!("{}.{rest}{unit}", tenths / 10),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (bytes, said) in [
            (0, "0"),
            (1_023, "1023B"),
            (1_024, "1KB"),
            (1_536, "1.5KB"),
            (1_048_576, "1MB"),
            (u64::MAX, "16777216TB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }

    #[test]
    fn keys_fold_to_their_first_parts() {
        let keys = [(&b"a/b/c"[..], 10), (b"a/b/d", 10), (b"a", 5), (b"x/y", 7)];
        let names = |depth, filter: &str| {
            let folded = folded(keys.into_iter(), depth, filter.as_bytes());
            folded.into_iter().map(|sort| (sort.name, sort.count, sort.sum)).collect::<Vec<_>>()
        };
        let all = [("a/b".into(), 2, 20), ("x/y".into(), 1, 7), ("a".into(), 1, 5)];
        assert_eq!(names(2, ""), all);
        assert_eq!(names(1, "a"), [("a".into(), 3, 25)]);
        assert_eq!(names(9, "a/b/d"), [("a/b/d".into(), 1, 10)]);
    }

    #[test]
    fn the_text_is_consuls() {
        let sort = |name: &str, sum, count| Sort { name: name.into(), sum, count };
        let meta = Meta { id: "2-9-17".into(), size: 700, index: 9, term: 2, version: 1 };
        let report = Report {
            meta,
            stats: vec![sort("KVS", 1_536, 3), sort("Node", 200, 1)],
            stats_kv: Some(vec![sort("a/b", 1_536, 3)]),
            total_size: 1_736,
            total_size_kv: 1_536,
        };
        let said = " ID           2-9-17\n Size         700\n Index        9\n Term         2\n \
                    Version      1\n\n Type       Count      Size\n ----       ----       ----\n \
                    KVS        3          1.5KB\n Node       1          200B\n ----       ----       \
                    ----\n Total                 1.7KB\n\n Key Name      Count      Size\n ----          \
                    ----       ----\n a/b           3          1.5KB\n ----          ----       ----\n \
                    Total                    1.5KB";
        assert_eq!(text(&report), said);
    }
}
