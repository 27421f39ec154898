//! The agent itself: who it is, what it runs on, reload, maintenance.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::api::json::{Fields, Json};

use super::super::Route;
use super::super::answer::Answer;
use super::super::call::Call;
use super::super::context::{Control, Permission};
use super::super::error::ApiError;
use super::{enable, json, members, open, with};
use crate::local::Local;

/// Consul tells when it was built; clients only want it to be a time.
const BUILD_DATE: &str = "1970-01-01T00:00:01Z";

pub(super) fn routes(local: &Arc<Local>) -> Vec<Route> {
    vec![
        Route::get("/v1/agent/self", with(local, myself)).needs(Permission::AgentRead),
        Route::get("/v1/agent/version", version).needs(Permission::Open),
        Route::get("/v1/agent/host", host).needs(Permission::OperatorRead),
        Route::put("/v1/agent/reload", reload).needs(Permission::AgentWrite),
        Route::put("/v1/agent/maintenance", with(local, maintenance)).needs(Permission::NodeWrite),
    ]
}

/// Every value at the top is an object: the Go client decodes into a map of maps.
async fn myself(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let config = &call.context.config;
    let cluster = call.context.cluster.members();
    let mut out = Json::default();
    out.object(|top| {
        top.name("Config").object(|fields| {
            fields.text("Datacenter", &config.datacenter);
            fields.text("PrimaryDatacenter", &config.datacenter);
            fields.text("NodeName", &config.node_name);
            fields.name("NodeID").plain(config.node_id);
            fields.text("Revision", "");
            fields.bool("Server", config.server);
            fields.text("Version", model::CONSUL_VERSION);
            fields.text("MusterVersion", model::MUSTER_VERSION);
            fields.text("BuildDate", BUILD_DATE);
        });
        top.name("DebugConfig").object(|fields| {
            let serf = config.serf_lan_advertise;
            fields.name("SerfAdvertiseAddrLAN").plain(format_args!("tcp://{serf}"));
            fields.number("SerfPortLAN", serf.port());
            fields.name("AdvertiseAddrLAN").plain(config.advertise);
            fields.name("BindAddr").plain(config.bind);
            fields.text("Datacenter", &config.datacenter);
            fields.text("DNSDomain", &config.domain);
            fields.text("NodeName", &config.node_name);
            fields.bool("DevMode", config.dev);
            fields.bool("ServerMode", config.server);
            fields.number("ServerPort", config.server_port);
            fields.bool("EnableScriptChecks", config.enable_script_checks);
        });
        top.name("Coord").null();
        match cluster.by_name(&config.node_name) {
            Some(me) => members::member(top.name("Member"), me),
            None => top.name("Member").null(),
        }
        top.name("Stats").object(|stats| write_stats(stats, &stats_of(&local, &call)));
        json::map(top, "Meta", local.node().meta.as_ref());
        if let Some(port) = config.grpc_port {
            top.name("xDS").object(|fields| {
                fields.name("SupportedProxies").raw("{}");
                fields.number("Port", port);
                fields.name("Ports").object(|ports| {
                    ports.number("Plaintext", port);
                    ports.number("TLS", -1);
                });
            });
        }
    });
    Ok(Answer::json(out.into_bytes()))
}

fn write_stats(stats: &mut Fields<'_>, groups: &BTreeMap<String, BTreeMap<String, String>>) {
    for (group, values) in groups {
        stats.key(group).object(|fields| {
            for (key, value) in values {
                fields.key(key).text(value);
            }
        });
    }
}

fn stats_of(local: &Local, call: &Call) -> BTreeMap<String, BTreeMap<String, String>> {
    let texts = |pairs: &[(&str, String)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let (monitors, ttls) = local.check_kinds();
    let mut groups = call.context.backend.stats();
    let agent = texts(&[
        ("check_monitors", monitors.to_string()),
        ("check_ttls", ttls.to_string()),
        ("checks", local.checks().len().to_string()),
        ("services", local.services().len().to_string()),
    ]);
    groups.insert("agent".into(), agent);
    let build = texts(&[
        ("prerelease", String::new()),
        ("revision", String::new()),
        ("version", model::CONSUL_VERSION.into()),
        ("version_metadata", String::new()),
    ]);
    groups.insert("build".into(), build);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = texts(&[
        ("arch", std::env::consts::ARCH.into()),
        ("cpu_count", cpus.to_string()),
        ("max_procs", cpus.to_string()),
        ("os", std::env::consts::OS.into()),
        ("version", format!("muster {}", model::MUSTER_VERSION)),
    ]);
    groups.insert("runtime".into(), runtime);
    groups.insert("serf_lan".into(), call.context.cluster.stats());
    groups
}

async fn version(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let mut out = Json::default();
    out.object(|fields| {
        fields.text("SHA", "");
        fields.text("BuildDate", BUILD_DATE);
        fields.text("HumanVersion", model::CONSUL_VERSION);
        fields.text("MusterVersion", model::MUSTER_VERSION);
        fields.text("FIPS", "");
    });
    Ok(Answer::json(out.into_bytes()))
}

async fn host(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let facts = tokio::task::spawn_blocking(Facts::read)
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let mut out = Json::default();
    out.object(|top| {
        top.name("Memory").object(|fields| {
            let (total, available) = (facts.memory("MemTotal"), facts.memory("MemAvailable"));
            let used = total.saturating_sub(available);
            fields.number("total", total);
            fields.number("available", available);
            fields.number("used", used);
            fields.number("usedPercent", (used * 100).checked_div(total).unwrap_or(0));
            fields.number("free", facts.memory("MemFree"));
            fields.number("buffers", facts.memory("Buffers"));
            fields.number("cached", facts.memory("Cached"));
        });
        top.name("CPU").array(facts.models.iter().enumerate(), |out, (number, name)| {
            out.object(|fields| {
                fields.number("cpu", number as u64);
                fields.text("modelName", name);
                fields.number("cores", 1);
            });
        });
        top.name("Host").object(|fields| {
            fields.text("hostname", &facts.hostname);
            fields.number("uptime", facts.uptime_s);
            fields.number(
                "bootTime",
                (call.context.clock.wall_ms() / 1000).saturating_sub(facts.uptime_s),
            );
            fields.text("os", std::env::consts::OS);
            fields.text("platform", "");
            fields.text("kernelVersion", &facts.kernel);
            fields.text("kernelArch", std::env::consts::ARCH);
        });
        top.name("Disk").null();
        let now_ns = u128::from(call.context.clock.wall_ms()) * 1_000_000;
        top.number("CollectionTime", i128::try_from(now_ns).unwrap_or(i128::MAX));
        top.name("Errors").null();
    });
    Ok(Answer::json(out.into_bytes()))
}

/// What Linux says about the machine; what cannot be read is empty.
pub(super) struct Facts {
    meminfo: String,
    models: Vec<String>,
    pub(super) hostname: String,
    uptime_s: u64,
    kernel: String,
    /// Memory of this process, in bytes.
    pub(super) resident_bytes: u64,
}

impl Facts {
    /// Reads small files of `/proc`: blocking.
    pub(super) fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |path: &str| read(path).trim().to_owned();
        let cpus = read("/proc/cpuinfo");
        let models = cpus
            .lines()
            .filter_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
            .collect();
        let uptime = read("/proc/uptime");
        let own = read("/proc/self/status");
        Self {
            meminfo: read("/proc/meminfo"),
            models,
            hostname: line("/proc/sys/kernel/hostname"),
            uptime_s: uptime.split('.').next().and_then(|text| text.parse().ok()).unwrap_or(0),
            kernel: line("/proc/sys/kernel/osrelease"),
            resident_bytes: kib(&own, "VmRSS"),
        }
    }

    fn memory(&self, name: &str) -> u64 {
        kib(&self.meminfo, name)
    }
}

/// A line `name:  123 kB`, in bytes.
fn kib(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

async fn reload(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    members::order(&call, Control::Reload).await
}

async fn maintenance(local: Arc<Local>, call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let enable = enable(&call)?;
    let reason = call.params.text("reason");
    local.set_maintenance(None, enable.then_some(&*reason)).await?;
    local.sync_now().await;
    Ok(Answer::empty())
}
