//! Measures real servers of this release, and beside them Consul and etcd where they are on the
//! PATH. What each figure means and how to read it: docs/benchmarks.md.

#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod cluster;
mod http;
mod keys;
mod load;
mod table;

use std::path::Path;
use std::time::Duration;

use cluster::{Cluster, Kind};
use table::{Row, Table};

/// What the command line says.
struct Options {
    rounds: usize,
    secs: u64,
    clients: Vec<usize>,
    keys: u64,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self { rounds: 3, secs: 3, clients: vec![1, 64, 256], keys: 0 };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            // Cargo adds this one to what it runs.
            if arg == "--bench" {
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
            let number =
                || value.parse::<u64>().map_err(|_| format!("{arg}: {value} is no number"));
            match arg.as_str() {
                "--rounds" => options.rounds = usize::try_from(number()?).unwrap_or(usize::MAX),
                "--secs" => options.secs = number()?,
                "--keys" => options.keys = number()?,
                "--clients" => {
                    let parsed: Result<_, _> = value.split(',').map(str::parse).collect();
                    options.clients = parsed.map_err(|_| format!("{arg}: {value} is no list"))?;
                }
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        Ok(options)
    }
}

fn main() -> Result<(), String> {
    let options = Options::parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| cause.to_string())?;
    let place = tempfile::tempdir().map_err(|cause| cause.to_string())?;
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.is_there()).collect();
    for absent in Kind::ALL.iter().filter(|kind| !kinds.contains(kind)) {
        println!("{}: not on the PATH, left out", absent.name());
    }
    if options.keys > 0 {
        return runtime.block_on(keys::run(&kinds, options.keys, place.path()));
    }
    let table = runtime.block_on(puts(&options, &kinds, place.path()))?;
    print!("{table}");
    Ok(())
}

/// Puts and default reads on three servers, peers in turn within each round.
async fn puts(options: &Options, kinds: &[Kind], place: &Path) -> Result<Table, String> {
    let time = Duration::from_secs(options.secs);
    let mut table = Table::default();
    for round in 0..options.rounds {
        for kind in kinds {
            let dir = place.join(format!("{}-{round}", kind.name()));
            let cluster = Cluster::start(*kind, 3, &dir).await?;
            let leader = cluster.leader().await?;
            for &clients in &options.clients {
                for work in [load::Work::Put, load::Work::Get] {
                    let sync_us = load::fdatasync_us(&dir)?;
                    let before = cluster.cpu();
                    let mut run = load::run(*kind, leader, work, clients, time).await?;
                    let cpu = cluster.cpu().saturating_sub(before);
                    let ops = run.latencies.len().max(1);
                    run.latencies.sort_unstable();
                    let at = |share: usize| {
                        let nth = (ops * share / 100).min(ops - 1);
                        run.latencies.get(nth).map_or(0.0, Duration::as_secs_f64) * 1e6
                    };
                    table.add(Row {
                        what: format!("{} c{clients}", work.name()),
                        who: kind.name(),
                        ops_s: run.latencies.len() as f64 / run.took.as_secs_f64(),
                        p50_us: at(50),
                        p99_us: at(99),
                        cpu_us: cpu.as_secs_f64() * 1e6 / ops as f64,
                        sync_us,
                    });
                }
            }
            cluster.stop();
        }
        println!("round {} of {} is done", round + 1, options.rounds);
    }
    Ok(table)
}
