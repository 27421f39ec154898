//! Log lines in the form that Consul's users know:
//! `2026-01-02T15:04:05.000Z [INFO]  agent.gossip: joined: members=3`.

use std::fmt::{self, Write as _};

use rt::Clock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

/// Changes the level of a running process.
pub(crate) struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LogLevel {
    /// From now on only lines of this level and above.
    pub(crate) fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "the log level cannot be changed");
        }
    }
}

/// Starts logging to stdout.
pub(crate) fn start(level: &str, json: bool) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stdout).with_ansi(false);
    if json {
        registry.with(layer.event_format(Json)).init();
    } else {
        registry.with(layer.event_format(Lines)).init();
    }
    LogLevel(handle)
}

/// Our own rooms at the level asked for; the libraries below them only when they warn.
fn filter(level: &str) -> EnvFilter {
    let quiet = match level {
        "trace" => "debug",
        "debug" => "info",
        _ => "warn",
    };
    let mut directives = quiet.to_owned();
    for room in ["muster", "agent", "server", "state", "net", "model", "rt"] {
        let _ = write!(directives, ",{room}={level}");
    }
    // openraft reports each lost vote and unreachable peer as an error; ours say it once.
    let _ = write!(directives, ",openraft={}", if level == "trace" { "debug" } else { "off" });
    EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives)
}

fn timestamp() -> String {
    model::date::rfc3339_millis(Clock::system().wall_ms())
}

/// `agent::gossip::driver` as `agent.gossip`: the room, not the file.
fn room(target: &str) -> String {
    target.split("::").take(2).collect::<Vec<_>>().join(".")
}

/// Message first, then `key=value`.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else if value.is_empty() || value.contains([' ', '"', '=', '\n']) {
            let _ = write!(self.rest, " {}={value:?}", field.name());
        } else {
            let _ = write!(self.rest, " {}={value}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // One line stays one line, whatever a value holds.
        let text = format!("{value:?}").replace('\n', "\\n");
        self.record_str_plain(field, &text);
    }
}

impl Fields {
    fn record_str_plain(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.message.push_str(text);
        } else if text.contains(' ') && !text.starts_with(['"', '[', '{', '(']) {
            let _ = write!(self.rest, " {}=\"{}\"", field.name(), text.replace('"', "'"));
        } else {
            let _ = write!(self.rest, " {}={text}", field.name());
        }
    }
}

struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => "[ERROR]",
            Level::WARN => "[WARN] ",
            Level::INFO => "[INFO] ",
            Level::DEBUG => "[DEBUG]",
            Level::TRACE => "[TRACE]",
        };
        let colon = if fields.rest.is_empty() { "" } else { ":" };
        writeln!(
            writer,
            "{} {level} {}: {}{colon}{}",
            timestamp(),
            room(event.metadata().target()),
            fields.message,
            fields.rest
        )
    }
}

struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = serde_json::json!({
            "@level": event.metadata().level().as_str().to_lowercase(),
            "@message": fields.message,
            "@module": room(event.metadata().target()),
            "@timestamp": timestamp(),
            "fields": fields.rest.trim_start(),
        });
        writeln!(writer, "{line}")
    }
}
