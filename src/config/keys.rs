//! Every setting that Consul knows, its type, and what this release does with it
//! (spec/agent.md §4).

/// Type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// Text.
    Text,
    /// `true` or `false`.
    Bool,
    /// Whole number.
    Int,
    /// Number.
    Number,
    /// Text in Go's duration syntax.
    Duration,
    /// List of texts.
    Texts,
    /// Object of texts.
    TextMap,
    /// Object whose inner keys are not looked at here.
    Object,
    /// List of objects whose inner keys are not looked at here.
    Objects,
}

/// What this release does with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Built.
    Built,
    /// Accepted in silence: it switches something off that we do not have, or we always do it.
    Moot,
    /// Known, not built yet: one warning.
    Later,
    /// Protects, and is not built yet: an error when its value would turn protection on.
    Guard,
    /// Another spelling of the setting named.
    Alias(&'static str),
}

/// A setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Dotted path, lower case.
    pub(crate) path: &'static str,
    /// Its type.
    pub(crate) kind: Type,
    /// What we do with it.
    pub(crate) support: Support,
}

const fn key(path: &'static str, kind: Type, support: Support) -> Key {
    Key { path, kind, support }
}

/// The setting of this path.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether some setting lies below this path.
pub(crate) fn is_group(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

use Support::{Alias, Built, Guard, Later, Moot};
use Type::{Bool, Duration, Int, Number, Object, Objects, Text, TextMap, Texts};

static KEYS: &[Key] = &[
    // The node and its addresses.
    key("node_name", Text, Built),
    key("node_id", Text, Built),
    key("node_meta", TextMap, Built),
    key("datacenter", Text, Built),
    key("primary_datacenter", Text, Later),
    key("data_dir", Text, Built),
    key("bind_addr", Text, Built),
    key("client_addr", Text, Built),
    key("advertise_addr", Text, Built),
    key("advertise_addr_ipv4", Text, Later),
    key("advertise_addr_ipv6", Text, Later),
    key("advertise_addr_wan", Text, Later),
    key("advertise_addr_wan_ipv4", Text, Later),
    key("advertise_addr_wan_ipv6", Text, Later),
    key("serf_lan", Text, Built),
    key("serf_wan", Text, Later),
    key("tagged_addresses", TextMap, Later),
    key("translate_wan_addrs", Bool, Later),
    key("locality", Object, Later),
    key("disable_host_node_id", Bool, Moot),
    key("pid_file", Text, Built),
    key("server", Bool, Built),
    key("server_name", Text, Moot),
    key("server_rejoin_age_max", Duration, Later),
    key("bootstrap", Bool, Built),
    key("bootstrap_expect", Int, Built),
    key("read_replica", Bool, Built),
    key("non_voting_server", Bool, Built),
    // Ports and addresses of the doors.
    key("ports.dns", Int, Built),
    key("ports.http", Int, Built),
    key("ports.https", Int, Guard),
    key("ports.grpc", Int, Built),
    key("ports.grpc_tls", Int, Later),
    key("ports.serf_lan", Int, Built),
    key("ports.serf_wan", Int, Built),
    key("ports.server", Int, Built),
    key("ports.proxy_min_port", Int, Moot),
    key("ports.proxy_max_port", Int, Moot),
    key("ports.sidecar_min_port", Int, Later),
    key("ports.sidecar_max_port", Int, Later),
    key("ports.expose_min_port", Int, Later),
    key("ports.expose_max_port", Int, Later),
    key("addresses.dns", Text, Built),
    key("addresses.http", Text, Built),
    key("addresses.https", Text, Later),
    key("addresses.grpc", Text, Later),
    key("addresses.grpc_tls", Text, Later),
    key("unix_sockets.user", Text, Later),
    key("unix_sockets.group", Text, Later),
    key("unix_sockets.mode", Text, Later),
    // Joining and leaving.
    key("retry_join", Texts, Built),
    key("retry_interval", Duration, Built),
    key("retry_max", Int, Built),
    key("start_join", Texts, Built),
    key("start_join_wan", Texts, Later),
    key("retry_join_wan", Texts, Later),
    key("retry_interval_wan", Duration, Later),
    key("retry_max_wan", Int, Later),
    key("rejoin_after_leave", Bool, Built),
    key("leave_on_terminate", Bool, Built),
    key("skip_leave_on_interrupt", Bool, Built),
    key("reconnect_timeout", Duration, Built),
    key("reconnect_timeout_wan", Duration, Later),
    key("advertise_reconnect_timeout", Duration, Later),
    // Protection that is not built yet.
    key("encrypt", Text, Guard),
    key("encrypt_verify_incoming", Bool, Guard),
    key("encrypt_verify_outgoing", Bool, Guard),
    key("disable_keyring_file", Bool, Moot),
    key("serf_lan_allowed_cidrs", Texts, Guard),
    key("serf_wan_allowed_cidrs", Texts, Guard),
    key("tls", Object, Guard),
    key("auto_encrypt", Object, Guard),
    key("auto_config", Object, Guard),
    key("ca_file", Text, Guard),
    key("ca_path", Text, Guard),
    key("cert_file", Text, Guard),
    key("key_file", Text, Guard),
    key("tls_cipher_suites", Text, Guard),
    key("tls_min_version", Text, Guard),
    key("tls_prefer_server_cipher_suites", Bool, Moot),
    key("verify_incoming", Bool, Guard),
    key("verify_incoming_https", Bool, Guard),
    key("verify_incoming_rpc", Bool, Guard),
    key("verify_outgoing", Bool, Guard),
    key("verify_server_hostname", Bool, Guard),
    key("acl", Object, Guard),
    key("acl_token", Text, Later),
    key("acl_agent_token", Text, Later),
    key("acl_agent_master_token", Text, Later),
    key("acl_master_token", Text, Later),
    key("acl_replication_token", Text, Later),
    key("acl_enable_key_list_policy", Bool, Later),
    key("acl_enforce_version_8", Bool, Moot),
    key("enable_acl_replication", Bool, Later),
    key("acl_datacenter", Text, Guard),
    key("acl_default_policy", Text, Later),
    key("acl_down_policy", Text, Later),
    key("acl_ttl", Duration, Later),
    // Doors.
    key("domain", Text, Built),
    key("alt_domain", Text, Built),
    key("recursors", Texts, Later),
    key("dns_config.allow_stale", Bool, Built),
    key("dns_config.max_stale", Duration, Built),
    key("dns_config.node_ttl", Duration, Built),
    key("dns_config.service_ttl", TextMap, Built),
    key("dns_config.enable_truncate", Bool, Built),
    key("dns_config.only_passing", Bool, Built),
    key("dns_config.recursor_strategy", Text, Later),
    key("dns_config.recursor_timeout", Duration, Later),
    key("dns_config.disable_compression", Bool, Built),
    key("dns_config.udp_answer_limit", Int, Built),
    key("dns_config.a_record_limit", Int, Built),
    key("dns_config.enable_additional_node_meta_txt", Bool, Built),
    key("dns_config.soa.refresh", Int, Built),
    key("dns_config.soa.retry", Int, Built),
    key("dns_config.soa.expire", Int, Built),
    key("dns_config.soa.min_ttl", Int, Built),
    key("dns_config.use_cache", Bool, Moot),
    key("dns_config.cache_max_age", Duration, Moot),
    key("dns_config.prefer_namespace", Bool, Later),
    key("http_config.response_headers", TextMap, Built),
    key("http_config.block_endpoints", Texts, Guard),
    key("http_config.allow_write_http_from", Texts, Guard),
    key("http_config.use_cache", Bool, Later),
    key("http_config.max_header_bytes", Int, Built),
    key("disable_http_unprintable_char_filter", Bool, Built),
    key("default_query_time", Duration, Built),
    key("max_query_time", Duration, Built),
    key("discovery_max_stale", Duration, Built),
    key("ui_config.enabled", Bool, Built),
    key("ui_config.dir", Text, Later),
    key("ui_config.content_path", Text, Later),
    key("ui_config.metrics_provider", Text, Later),
    key("ui_config.metrics_provider_files", Texts, Later),
    key("ui_config.metrics_provider_options_json", Text, Later),
    key("ui_config.metrics_proxy", Object, Later),
    key("ui_config.dashboard_url_templates", TextMap, Later),
    key("ui", Bool, Alias("ui_config.enabled")),
    key("ui_dir", Text, Later),
    key("ui_content_path", Text, Later),
    // Services and checks.
    key("service", Object, Built),
    key("services", Objects, Built),
    key("check", Object, Built),
    key("checks", Objects, Built),
    key("watches", Objects, Later),
    key("enable_script_checks", Bool, Built),
    key("enable_local_script_checks", Bool, Built),
    key("enable_agent_tls_for_checks", Bool, Later),
    key("check_update_interval", Duration, Built),
    key("check_output_max_size", Int, Built),
    key("discard_check_output", Bool, Built),
    key("enable_central_service_config", Bool, Later),
    key("default_intention_policy", Text, Later),
    // The server.
    key("performance.leave_drain_time", Duration, Built),
    key("performance.raft_multiplier", Int, Built),
    key("performance.rpc_hold_timeout", Duration, Built),
    key("performance.grpc_keepalive_interval", Duration, Moot),
    key("performance.grpc_keepalive_timeout", Duration, Moot),
    key("performance.enable_xds_load_balancing", Bool, Moot),
    key("protocol", Int, Built),
    key("raft_protocol", Int, Built),
    key("raft_snapshot_threshold", Int, Built),
    key("raft_snapshot_interval", Duration, Later),
    key("raft_trailing_logs", Int, Later),
    key("raft_prevote_disabled", Bool, Later),
    key("raft_logstore", Object, Moot),
    key("raft_boltdb", Object, Moot),
    key("autopilot.cleanup_dead_servers", Bool, Built),
    key("autopilot.last_contact_threshold", Duration, Built),
    key("autopilot.max_trailing_logs", Int, Built),
    key("autopilot.min_quorum", Int, Built),
    key("autopilot.server_stabilization_time", Duration, Built),
    key("autopilot.redundancy_zone_tag", Text, Built),
    key("autopilot.disable_upgrade_migration", Bool, Built),
    key("autopilot.upgrade_version_tag", Text, Built),
    key("snapshot_schedule.interval", Duration, Built),
    key("snapshot_schedule.retain", Int, Built),
    key("snapshot_schedule.path", Text, Built),
    key("session_ttl_min", Duration, Built),
    key("config_entries", Object, Later),
    key("connect", Object, Later),
    key("peering", Object, Later),
    key("segment", Text, Later),
    key("segments", Objects, Later),
    // Gossip timings.
    key("gossip_lan.gossip_interval", Duration, Later),
    key("gossip_lan.gossip_nodes", Int, Later),
    key("gossip_lan.probe_interval", Duration, Later),
    key("gossip_lan.probe_timeout", Duration, Later),
    key("gossip_lan.suspicion_mult", Int, Later),
    key("gossip_lan.retransmit_mult", Int, Later),
    key("gossip_wan.gossip_interval", Duration, Later),
    key("gossip_wan.gossip_nodes", Int, Later),
    key("gossip_wan.probe_interval", Duration, Later),
    key("gossip_wan.probe_timeout", Duration, Later),
    key("gossip_wan.suspicion_mult", Int, Later),
    key("gossip_wan.retransmit_mult", Int, Later),
    key("disable_coordinates", Bool, Moot),
    key("disable_remote_exec", Bool, Moot),
    // Limits.
    key("limits.http_max_conns_per_client", Int, Built),
    key("limits.https_handshake_timeout", Duration, Moot),
    key("limits.request_limits", Object, Later),
    key("limits.rpc_handshake_timeout", Duration, Built),
    key("limits.rpc_client_timeout", Duration, Later),
    key("limits.rpc_rate", Number, Later),
    key("limits.rpc_max_burst", Int, Later),
    key("limits.rpc_max_conns_per_client", Int, Built),
    key("limits.kv_max_value_size", Int, Built),
    key("limits.disk_reserve", Int, Built),
    key("limits.txn_max_req_len", Int, Later),
    key("cache", Object, Later),
    // Logs and figures.
    key("log_level", Text, Built),
    key("log_json", Bool, Built),
    key("log_file", Text, Later),
    key("log_rotate_bytes", Int, Later),
    key("log_rotate_duration", Duration, Later),
    key("log_rotate_max_files", Int, Later),
    key("enable_syslog", Bool, Later),
    key("syslog_facility", Text, Later),
    key("enable_debug", Bool, Moot),
    key("telemetry.prometheus_retention_time", Duration, Moot),
    key("telemetry.disable_hostname", Bool, Moot),
    key("telemetry.metrics_prefix", Text, Later),
    key("telemetry.statsd_address", Text, Later),
    key("telemetry.statsite_address", Text, Later),
    key("telemetry.dogstatsd_addr", Text, Later),
    key("telemetry.dogstatsd_tags", Texts, Later),
    key("telemetry.filter_default", Bool, Later),
    key("telemetry.prefix_filter", Texts, Later),
    key("telemetry.enable_host_metrics", Bool, Later),
    key("telemetry.retry_failed_connection", Bool, Moot),
    key("telemetry.disable_per_tenancy_usage_metrics", Bool, Moot),
    key("telemetry.circonus_api_app", Text, Later),
    key("telemetry.circonus_api_token", Text, Later),
    key("telemetry.circonus_api_url", Text, Later),
    key("telemetry.circonus_broker_id", Text, Later),
    key("telemetry.circonus_broker_select_tag", Text, Later),
    key("telemetry.circonus_check_display_name", Text, Later),
    key("telemetry.circonus_check_force_metric_activation", Text, Later),
    key("telemetry.circonus_check_id", Text, Later),
    key("telemetry.circonus_check_instance_id", Text, Later),
    key("telemetry.circonus_check_search_tag", Text, Later),
    key("telemetry.circonus_check_tags", Text, Later),
    key("telemetry.circonus_submission_interval", Text, Later),
    key("telemetry.circonus_submission_url", Text, Later),
    // Accepted for files written for other editions.
    key("auto_reload_config", Bool, Later),
    key("disable_anonymous_signature", Bool, Moot),
    key("disable_update_check", Bool, Moot),
    key("experiments", Texts, Moot),
    key("license_path", Text, Later),
    key("partition", Text, Later),
    key("audit", Object, Later),
    key("reporting", Object, Moot),
    key("snapshot_agent", Object, Later),
    key("primary_gateways", Texts, Later),
    key("primary_gateways_interval", Duration, Later),
    key("use_streaming_backend", Bool, Moot),
    key("rpc.enable_streaming", Bool, Moot),
    key("xds", Object, Later),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_unique_and_aliases_lead_somewhere() {
        let mut seen = std::collections::BTreeSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path), "{} stands twice", key.path);
            if let Alias(target) = key.support {
                assert!(find(target).is_some_and(|key| key.support == Built), "{target}");
            }
            assert!(!is_group(key.path), "{} is both a setting and a group", key.path);
        }
    }
}
