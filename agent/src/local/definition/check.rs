//! Checks: fields, rules, and the probe that they ask for.

use std::time::Duration;

use model::LogIndex;
use model::Name;
use model::api::input;
use model::duration::GoDuration;
use model::row::{CheckV1, Status};
use serde_json::Value;

use super::fields::{Dialect, Field, Fields};
use super::{CheckDefinition, DefinitionError, Probe};

/// Shortest pause between two probes.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Shortest time before a critical service is deregistered.
const DEREGISTER_MIN: Duration = Duration::from_secs(60);
/// Time of one probe when none is given.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for commands.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

// Common to both forms of a check; the id is the first row of each table.
macro_rules! check_fields {
    ($id:expr) => {
        &[
            $id,
            Field("Name", &["name"], &[]),
            Field("Notes", &["notes"], &[]),
            Field("Status", &["status"], &[]),
            Field("ServiceID", &["service_id", "serviceid"], &["service_id"]),
            Field("Token", &["token"], &[]),
            Field("ScriptArgs", &["args", "scriptargs", "script_args"], &["args", "script_args"]),
            Field("HTTP", &["http"], &[]),
            Field("Header", &["header"], &[]),
            Field("Method", &["method"], &[]),
            Field("Body", &["body"], &[]),
            Field("DisableRedirects", &["disable_redirects"], &["disable_redirects"]),
            Field("TCP", &["tcp"], &[]),
            Field("TCPUseTLS", &["tcp_use_tls"], &["tcp_use_tls"]),
            Field("UDP", &["udp"], &[]),
            Field("GRPC", &["grpc"], &[]),
            Field("GRPCUseTLS", &["grpc_use_tls"], &["grpc_use_tls"]),
            Field("H2PING", &["h2ping"], &[]),
            Field("H2PingUseTLS", &["h2ping_use_tls"], &["h2ping_use_tls"]),
            Field("OSService", &["os_service"], &[]),
            Field(
                "DockerContainerID",
                &["docker_container_id", "dockercontainerid"],
                &["docker_container_id"],
            ),
            Field("Shell", &["shell"], &[]),
            Field("AliasNode", &["alias_node"], &[]),
            Field("AliasService", &["alias_service"], &[]),
            Field("TTL", &["ttl"], &[]),
            Field("Interval", &["interval"], &[]),
            Field("Timeout", &["timeout"], &[]),
            Field("TLSServerName", &["tls_server_name"], &["tls_server_name"]),
            Field("TLSSkipVerify", &["tls_skip_verify", "tlsskipverify"], &["tls_skip_verify"]),
            Field("SuccessBeforePassing", &["success_before_passing"], &[]),
            Field("FailuresBeforeWarning", &["failures_before_warning"], &[]),
            Field("FailuresBeforeCritical", &["failures_before_critical"], &[]),
            Field(
                "DeregisterCriticalServiceAfter",
                &["deregister_critical_service_after", "deregistercriticalserviceafter"],
                &["deregister_critical_service_after"],
            ),
            Field("OutputMaxSize", &["output_max_size"], &[]),
        ]
    };
}

/// A check that stands alone is named by `ID`.
const ALONE: &[Field] = check_fields!(Field("ID", &["id"], &[]));
/// One inside a service by `CheckID` over HTTP, by `id` in files.
const EMBEDDED: &[Field] = check_fields!(Field("CheckID", &["id"], &[]));

/// The words of a check, not yet judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RawCheck {
    pub(super) id: String,
    pub(super) name: String,
    notes: String,
    pub(super) status: String,
    service_id: String,
    token: String,
    args: Vec<String>,
    http: String,
    headers: Vec<(String, String)>,
    method: String,
    body: String,
    disable_redirects: bool,
    tcp: String,
    tcp_use_tls: bool,
    udp: String,
    grpc: String,
    h2ping: String,
    os_service: String,
    docker_container_id: String,
    alias_node: String,
    alias_service: String,
    ttl: GoDuration,
    interval: GoDuration,
    timeout: GoDuration,
    tls_server_name: String,
    tls_skip_verify: bool,
    success_before_passing: i64,
    failures_before_warning: i64,
    failures_before_critical: i64,
    deregister_critical_service_after: GoDuration,
    output_max_size: i64,
}

/// The service that a check is embedded in.
pub(super) struct Owner<'a> {
    pub(super) id: &'a Name,
    pub(super) name: &'a str,
    /// Position from 1 when there are several.
    pub(super) position: Option<usize>,
}

/// A check that stands alone in a configuration file; the error names what is wrong in it.
pub fn parse_file_check(value: &Value) -> Result<CheckDefinition, String> {
    let raw = RawCheck::read(value, Dialect::File, false).map_err(|e| format!("check: {e}"))?;
    let name = if raw.name.is_empty() { raw.id.clone() } else { raw.name.clone() };
    let told = |text: &str| format!("check {name:?}: {text}");
    if raw.name.is_empty() {
        return Err(told("Missing check name"));
    }
    if status_of(&raw.status).is_none() {
        return Err(told("Bad check status"));
    }
    let token = raw.token.clone();
    let mut check = raw.build(None).map_err(|text| told(&text))?;
    check.token = token;
    Ok(check)
}

/// The body of `agent/check/register`.
pub fn parse_api_check(body: &[u8]) -> Result<CheckDefinition, DefinitionError> {
    let decode = DefinitionError::Decode;
    let value = input::first_value(body).map_err(|error| decode(error.to_string()))?;
    let raw = RawCheck::read(&value, Dialect::Api, false).map_err(decode)?;
    if raw.name.is_empty() {
        return Err(DefinitionError::Invalid("Missing check name".into()));
    }
    if status_of(&raw.status).is_none() {
        return Err(DefinitionError::Invalid("Bad check status".into()));
    }
    raw.build(None).map_err(|text| DefinitionError::Invalid(format!("Invalid check: {text}")))
}

/// The check of a node or service in maintenance mode.
pub(crate) fn maintenance_check(id: &str, service: Option<&str>, reason: &str) -> CheckDefinition {
    let (name, what) = match service {
        None => ("Node Maintenance Mode", "node"),
        Some(_) => ("Service Maintenance Mode", "service"),
    };
    let notes = if reason.is_empty() {
        format!(
            "Maintenance mode is enabled for this {what}, but no reason was provided. This is a \
             default message."
        )
    } else {
        reason.to_owned()
    };
    let mut definition =
        RawCheck { id: id.into(), name: name.into(), notes, ..RawCheck::default() }
            .into_definition(None, Probe::Maintenance);
    definition.check.kind = "maintenance".into();
    definition.check.interval = "".into();
    definition.check.timeout = "".into();
    definition.check.service_id = service.unwrap_or_default().into();
    definition
}

/// Critical when none is given; `None` when it is no status.
pub(super) fn status_of(text: &str) -> Option<Status> {
    if text.is_empty() { Some(Status::Critical) } else { Status::parse(text) }
}

impl RawCheck {
    pub(super) fn read(value: &Value, dialect: Dialect, embedded: bool) -> Result<Self, String> {
        let (table, object, id) = if embedded {
            (EMBEDDED, "CheckType", "CheckID")
        } else {
            (ALONE, "CheckDefinition", "ID")
        };
        let fields = Fields::read(value, table, dialect, object)?;
        let mut raw = Self {
            id: fields.text(id)?,
            name: fields.text("Name")?,
            notes: fields.text("Notes")?,
            status: fields.text("Status")?,
            service_id: fields.text("ServiceID")?,
            token: fields.text("Token")?,
            args: fields.texts("ScriptArgs")?,
            http: fields.text("HTTP")?,
            headers: fields.headers("Header")?,
            method: fields.text("Method")?,
            body: fields.text("Body")?,
            disable_redirects: fields.flag("DisableRedirects")?,
            tcp: fields.text("TCP")?,
            tcp_use_tls: fields.flag("TCPUseTLS")?,
            udp: fields.text("UDP")?,
            grpc: fields.text("GRPC")?,
            h2ping: fields.text("H2PING")?,
            os_service: fields.text("OSService")?,
            docker_container_id: fields.text("DockerContainerID")?,
            alias_node: fields.text("AliasNode")?,
            alias_service: fields.text("AliasService")?,
            ttl: fields.duration("TTL")?,
            interval: fields.duration("Interval")?,
            timeout: fields.duration("Timeout")?,
            tls_server_name: fields.text("TLSServerName")?,
            tls_skip_verify: fields.flag("TLSSkipVerify")?,
            success_before_passing: fields.int("SuccessBeforePassing")?,
            failures_before_warning: fields.int("FailuresBeforeWarning")?,
            failures_before_critical: fields.int("FailuresBeforeCritical")?,
            deregister_critical_service_after: fields.duration("DeregisterCriticalServiceAfter")?,
            output_max_size: fields.int("OutputMaxSize")?,
        };
        // Only their types matter: the kinds that would use them are refused below.
        fields.text("Shell")?;
        fields.flag("GRPCUseTLS")?;
        fields.flag("H2PingUseTLS")?;
        if dialect == Dialect::File && raw.failures_before_warning == 0 {
            raw.failures_before_warning = raw.failures_before_critical;
        }
        Ok(raw)
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first broken rule, in Consul's order and words.
    fn broken_rule(&self) -> Option<&'static str> {
        let polled = !self.args.is_empty()
            || [&self.http, &self.tcp, &self.udp, &self.grpc, &self.h2ping, &self.os_service]
                .into_iter()
                .any(|text| !text.is_empty());
        let alias = !(self.alias_node.is_empty() && self.alias_service.is_empty());
        let (interval, ttl) = (self.interval.0 > 0, self.ttl.0 > 0);
        if interval && ttl {
            Some("Interval and TTL cannot both be specified")
        } else if polled && !interval {
            Some("Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks")
        } else if polled && alias {
            Some("Interval cannot be set for Alias checks")
        } else if alias && ttl {
            Some("TTL must be not be set for Alias checks")
        } else if !polled && !alias && !ttl {
            Some("TTL must be > 0 for TTL checks")
        } else if self.output_max_size < 0 {
            Some("MaxOutputMaxSize must be positive")
        } else if self.failures_before_warning > self.failures_before_critical {
            Some("FailuresBeforeWarning can't be higher than FailuresBeforeCritical")
        } else {
            None
        }
    }

    /// What to do, by the first kind that applies, and Consul's word for it.
    fn probe(&self) -> Result<(Probe, &'static str), String> {
        let later = |kind: &str| Err(format!("{kind} checks are not built yet in this release"));
        if !self.grpc.is_empty() {
            return later("gRPC");
        }
        if !self.http.is_empty() {
            if !self.tls_server_name.is_empty() {
                return Err("TLSServerName of HTTP checks is not built yet in this release".into());
            }
            let method = if self.method.is_empty() { "GET" } else { &self.method };
            return Ok((
                Probe::Http {
                    url: self.http.clone(),
                    method: method.to_owned(),
                    headers: self.headers.clone(),
                    body: self.body.clone(),
                    disable_redirects: self.disable_redirects,
                    tls_skip_verify: self.tls_skip_verify,
                    tls_server_name: self.tls_server_name.clone(),
                },
                "http",
            ));
        }
        if self.ttl.0 > 0 {
            return Ok((Probe::Ttl(self.ttl.to_std()), "ttl"));
        }
        if !self.tcp.is_empty() {
            if self.tcp_use_tls {
                return later("TCP with TLS");
            }
            return Ok((Probe::Tcp { address: self.tcp.clone(), tls: false }, "tcp"));
        }
        if !self.udp.is_empty() {
            return later("UDP");
        }
        if !(self.alias_node.is_empty() && self.alias_service.is_empty()) {
            return later("Alias");
        }
        if !self.docker_container_id.is_empty() {
            return later("Docker");
        }
        if !self.args.is_empty() {
            return Ok((Probe::Command(self.args.clone()), "script"));
        }
        if !self.h2ping.is_empty() {
            return later("H2PING");
        }
        later("OSService")
    }

    /// Judges and completes the check. The status has been looked at before.
    pub(super) fn build(self, owner: Option<&Owner<'_>>) -> Result<CheckDefinition, String> {
        if let Some(text) = self.broken_rule() {
            return Err(text.into());
        }
        let (probe, kind) = self.probe()?;
        let mut definition = self.into_definition(owner, probe);
        definition.check.kind = kind.into();
        Ok(definition)
    }

    fn into_definition(self, owner: Option<&Owner<'_>>, probe: Probe) -> CheckDefinition {
        let text_of = |duration: GoDuration| -> Name {
            if owner.is_some() && duration.0 == 0 { "".into() } else { duration.to_string().into() }
        };
        let (interval_text, timeout_text) = (text_of(self.interval), text_of(self.timeout));
        let (id, name, service_id): (Name, Name, Name) = match owner {
            None => {
                let id = if self.id.is_empty() { &self.name } else { &self.id };
                (id.as_str().into(), self.name.as_str().into(), self.service_id.into())
            }
            Some(owner) => {
                let id = match (self.id.as_str(), owner.position) {
                    ("", None) => format!("service:{}", owner.id),
                    ("", Some(position)) => format!("service:{}:{position}", owner.id),
                    (id, _) => id.to_owned(),
                };
                let name = match self.name.as_str() {
                    "" => format!("Service '{}' check", owner.name),
                    name => name.to_owned(),
                };
                (id.into(), name.into(), owner.id.clone())
            }
        };
        let raised = |given: GoDuration, min: Duration, what: &str| {
            let given = given.to_std();
            if !given.is_zero() && given < min {
                tracing::warn!(check = %id, ?min, "{what} is below its minimum and was raised");
            }
            if given.is_zero() { given } else { given.max(min) }
        };
        let timeout = match (self.timeout.to_std(), &probe) {
            (Duration::ZERO, Probe::Command(_)) => COMMAND_TIMEOUT,
            (Duration::ZERO, _) => TIMEOUT,
            (given, _) => given,
        };
        let count = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        CheckDefinition {
            probe,
            interval: raised(self.interval, INTERVAL_MIN, "interval"),
            timeout,
            success_before_passing: count(self.success_before_passing),
            failures_before_warning: count(self.failures_before_warning),
            failures_before_critical: count(self.failures_before_critical),
            deregister_critical_after: raised(
                self.deregister_critical_service_after,
                DEREGISTER_MIN,
                "deregister_critical_service_after",
            ),
            output_bytes_max: usize::try_from(self.output_max_size).unwrap_or(0),
            token: String::new(),
            check: CheckV1 {
                node: "".into(),
                id,
                name,
                status: status_of(&self.status).unwrap_or(Status::Critical),
                notes: self.notes.into(),
                output: "".into(),
                service_id,
                service_name: "".into(),
                service_tags: Vec::new(),
                kind: "".into(),
                interval: interval_text,
                timeout: timeout_text,
                exposed_port: 0,
                definition_json: None,
                create_index: LogIndex::ZERO,
                modify_index: LogIndex::ZERO,
            },
        }
    }
}
