//! Many keys on one server: how fast they go in, what they weigh, how long a start takes with them.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster::{Cluster, Kind, PATIENCE};
use super::load::Client;

/// Clients that load the keys.
const LOADERS: u64 = 64;
/// Time that a server has to give memory back after the load.
const SETTLE: Duration = Duration::from_secs(5);

/// Loads, weighs, kills and starts one server of each kind.
pub(crate) async fn run(kinds: &[Kind], keys: u64, place: &Path) -> Result<(), String> {
    println!("{keys} keys of {} bytes on one server", super::load::VALUE_BYTES);
    println!(
        "{:<8} {:>10} {:>14} {:>12} {:>20} {:>14}",
        "server", "load s", "puts/s", "memory MiB", "kill to first read s", "memory MiB"
    );
    for kind in kinds {
        let mut cluster = Cluster::start(*kind, 1, &place.join(kind.name())).await?;
        let to = cluster.leader().await?;
        let began = Instant::now();
        let mut loaders = JoinSet::new();
        for loader in 0..LOADERS {
            let mut client = Client::connect(*kind, to, loader).await?;
            loaders.spawn(async move {
                for key in (loader..keys).step_by(usize::try_from(LOADERS).unwrap_or(1)) {
                    client.put(key).await?;
                }
                Ok::<_, String>(())
            });
        }
        while let Some(ended) = loaders.join_next().await {
            ended.map_err(|cause| cause.to_string())??;
        }
        let load_s = began.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLE).await;
        let full = cluster.resident_mib();

        let killed = Instant::now();
        cluster.crash()?;
        while !answers(*kind, to, keys - 1).await {
            if killed.elapsed() > PATIENCE {
                return Err(format!("{} does not answer after its start", kind.name()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start_s = killed.elapsed().as_secs_f64();
        tokio::time::sleep(SETTLE).await;
        println!(
            "{:<8} {load_s:>10.1} {:>14.0} {full:>12} {start_s:>20.2} {:>14}",
            kind.name(),
            keys as f64 / load_s,
            cluster.resident_mib(),
        );
        cluster.stop();
    }
    Ok(())
}

async fn answers(kind: Kind, to: std::net::SocketAddr, key: u64) -> bool {
    match Client::connect(kind, to, 0).await {
        Ok(mut client) => client.get(key).await.unwrap_or(false),
        Err(_) => false,
    }
}
