//! Metrics: Prometheus text when asked for, else Consul's JSON made from it.

use http::header::ACCEPT;
use model::api::json::{Fields, Json};

use super::super::Route;
use super::super::answer::Answer;
use super::super::call::Call;
use super::super::context::Permission;
use super::super::error::ApiError;
use super::node::Facts;
use super::open;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/agent/metrics", metrics).needs(Permission::AgentRead)]
}

async fn metrics(call: Call) -> Result<Answer, ApiError> {
    open(&call)?;
    let facts = tokio::task::spawn_blocking(Facts::read)
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    metrics::gauge!("consul_runtime_alloc_bytes").set(lossy(facts.resident_bytes));
    let text = call.context.metrics.render();
    let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let asked = call.params.text("format") == "prometheus"
        || accept.contains("application/openmetrics-text")
        || accept.replace(' ', "").contains("text/plain;version=0.");
    if asked {
        return Ok(Answer::custom(text, PROMETHEUS));
    }
    Ok(Answer::json(to_json(&text, &facts, call.context.clock.wall_ms())))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge need not be exact past 2^53 bytes")]
fn lossy(bytes: u64) -> f64 {
    bytes as f64
}

/// One line of the text: name, labels as written, value.
fn parse_line(line: &str) -> Option<(&str, &str, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    Some((name, labels, value.parse().ok()?))
}

/// Since the start rather than for the last interval: counts only grow, gauges are as of now.
fn to_json(text: &str, facts: &Facts, wall_ms: u64) -> Vec<u8> {
    let kinds: std::collections::BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let series: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect();
    let of = |kind: &'static str| {
        let kinds = &kinds;
        series.iter().filter(move |(name, _, _)| kinds.get(name) == Some(&kind))
    };
    let mut out = Json::default();
    out.object(|top| {
        top.text("Timestamp", &timestamp(wall_ms));
        top.name("Gauges").array(of("gauge"), |out, (name, labels, value)| {
            let rest = name.strip_prefix("consul_").unwrap_or(name);
            let dotted = match rest.strip_prefix("runtime_") {
                Some(rest) => format!("runtime.{rest}"),
                None => rest.replace('_', "."),
            };
            out.object(|fields| {
                fields.text("Name", &format!("consul.{}.{dotted}", facts.hostname));
                float(fields, "Value", *value);
                write_labels(fields, labels);
            });
        });
        top.name("Points").raw("[]");
        top.name("Counters").array(of("counter"), |out, (name, labels, value)| {
            aggregate(out, name, labels, *value, *value);
        });
        let sums = series.iter().filter_map(|(name, labels, sum)| {
            let base = name.strip_suffix("_sum")?;
            matches!(kinds.get(base), Some(&"summary" | &"histogram"))
                .then_some((base, *labels, *sum))
        });
        top.name("Samples").array(sums, |out, (base, labels, sum)| {
            let count = series.iter().find(|(name, other, _)| {
                name.strip_suffix("_count") == Some(base) && *other == labels
            });
            aggregate(out, base, labels, count.map_or(0.0, |(_, _, count)| *count), sum);
        });
    });
    out.into_bytes()
}

fn aggregate(out: &mut Json, name: &str, labels: &str, count: f64, sum: f64) {
    out.object(|fields| {
        fields.text("Name", &name.replace('_', "."));
        float(fields, "Count", count);
        float(fields, "Sum", sum);
        float(fields, "Mean", if count > 0.0 { sum / count } else { 0.0 });
        for name in ["Rate", "Min", "Max", "Stddev"] {
            fields.number(name, 0);
        }
        write_labels(fields, labels);
    });
}

fn float(fields: &mut Fields<'_>, name: &str, value: f64) {
    let value = if value.is_finite() { value } else { 0.0 };
    fields.name(name).raw(&value.to_string());
}

/// `a="b",c="d"` as an object.
fn write_labels(fields: &mut Fields<'_>, labels: &str) {
    fields.name("Labels").object(|object| {
        let mut rest = labels;
        while let Some((key, after)) = rest.split_once("=\"") {
            let Some(end) = closing_quote(after) else { break };
            let (value, after) = after.split_at(end);
            object
                .key(key.trim_start_matches(','))
                .text(&value.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\"));
            rest = after.get(1..).unwrap_or_default();
        }
    });
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// `2025-02-20 10:00:10 +0000 UTC`.
fn timestamp(wall_ms: u64) -> String {
    let seconds = wall_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date by Howard Hinnant's algorithm, for days since 1970-01-01.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_part = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_part + 2) / 5 + 1;
    let month = if month_part < 10 { month_part + 3 } else { month_part - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} +0000 UTC",
        rest / 3600,
        rest % 3600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_go_does() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00 +0000 UTC");
        assert_eq!(timestamp(1_740_045_610_999), "2025-02-20 10:00:10 +0000 UTC");
        assert_eq!(timestamp(1_709_164_800_000), "2024-02-29 00:00:00 +0000 UTC");
    }

    #[test]
    fn the_text_becomes_consuls_json() {
        let text = "# TYPE consul_runtime_alloc_bytes gauge\nconsul_runtime_alloc_bytes 42\n\n\
                    # TYPE consul_rpc_request counter\nconsul_rpc_request{a=\"x,\\\"y\"} 3\n\
                    # TYPE consul_walk summary\nconsul_walk{quantile=\"0.5\"} 1\n\
                    consul_walk_sum 10\nconsul_walk_count 4\n";
        let mut facts = Facts::read();
        facts.hostname = "h1".into();
        let json: serde_json::Value =
            serde_json::from_slice(&to_json(text, &facts, 0)).expect("valid JSON");
        assert_eq!(json["Gauges"][0]["Name"], "consul.h1.runtime.alloc_bytes");
        assert_eq!(json["Gauges"][0]["Value"], 42);
        assert_eq!(json["Counters"][0]["Name"], "consul.rpc.request");
        assert_eq!(json["Counters"][0]["Labels"]["a"], "x,\"y");
        assert_eq!(json["Samples"][0]["Name"], "consul.walk");
        assert_eq!(json["Samples"][0]["Mean"], 2.5);
        assert_eq!(json["Points"], serde_json::json!([]));
    }
}
