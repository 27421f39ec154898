use serde_json::json;

use super::*;

fn service_error(body: &str) -> String {
    parse_api_service(body.as_bytes()).expect_err(body).to_string()
}

fn check_error(body: &str) -> String {
    parse_api_check(body.as_bytes()).expect_err(body).to_string()
}

fn check(body: &serde_json::Value) -> CheckDefinition {
    parse_api_check(body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

fn service(body: &serde_json::Value) -> ServiceDefinition {
    parse_api_service(body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

#[test]
fn bodies_that_are_no_object_are_refused_in_gos_words() {
    for (body, text) in [
        ("", "EOF"),
        ("  ", "EOF"),
        ("{", "unexpected EOF"),
        (r#"{"Name":"#, "unexpected EOF"),
        ("{]", "invalid character ']' looking for beginning of value"),
        ("[]", "json: cannot unmarshal array into Go value of type structs.ServiceDefinition"),
        (r#"{"Nam":"x"}"#, "json: unknown field \"Nam\""),
        (r#"{"Name":"x","socket_path":"/s"}"#, "json: unknown field \"socket_path\""),
        (r#"{"Name":"x","Namespace":"y"}"#, "json: unknown field \"Namespace\""),
        (r#"{"Name":"x","Check":{"ID":"y","TTL":"1s"}}"#, "json: unknown field \"ID\""),
        (
            r#"{"Name":"x","Check":{"success_before_passing":1,"TTL":"1s"}}"#,
            "json: unknown field \"success_before_passing\"",
        ),
        (
            r#"{"Name":"x","Port":"80"}"#,
            "json: cannot unmarshal string into Go struct field ServiceDefinition.Port of type int",
        ),
        (
            r#"{"Name":"x","Port":1.5}"#,
            "json: cannot unmarshal number into Go struct field ServiceDefinition.Port of type int",
        ),
        (
            r#"{"Name":"x","Port":70000}"#,
            "json: cannot unmarshal number 70000 into Go struct field ServiceDefinition.Port of \
             type uint16",
        ),
        (
            r#"{"Name":"x","Tags":"a"}"#,
            "json: cannot unmarshal string into Go struct field ServiceDefinition.Tags of type \
             []string",
        ),
        (r#"{"Name":"x","Check":{"TTL":"abc"}}"#, "time: invalid duration \"abc\""),
        (r#"{"Name":"x","Check":{"TTL":"10"}}"#, "time: missing unit in duration \"10\""),
        (r#"{"Name":"x","Proxy":{"Nope":1}}"#, "json: unknown field \"Nope\""),
    ] {
        assert_eq!(service_error(body), format!("Request decode failed: {text}"), "{body}");
    }
    assert_eq!(
        check_error(r#"{"CheckID":"x","TTL":"1s"}"#),
        "Request decode failed: json: unknown field \"CheckID\""
    );
}

#[test]
fn rules_of_services_speak_in_consuls_order() {
    let pairs: Vec<String> = (0..65).map(|i| format!("\"k{i}\":\"\"")).collect();
    let many = format!(r#"{{"Name":"x","Meta":{{{}}}}}"#, pairs.join(","));
    let long = format!(r#"{{"Name":"x","Meta":{{"{}":"v"}}}}"#, "k".repeat(129));
    let wide = format!(r#"{{"Name":"x","Meta":{{"k":"{}"}}}}"#, "v".repeat(513));
    for (body, text) in [
        ("null", "Missing service name".to_owned()),
        (r#"{"ID":"x","Address":"::"}"#, "Missing service name".into()),
        (r#"{"Name":"x","Address":"0.0.0.0","Weights":{}}"#, "Invalid service address".into()),
        (r#"{"Name":"x","Address":"[::]"}"#, "Invalid service address".into()),
        (
            r#"{"Name":"x","Weights":{"Passing":0,"Warning":1}}"#,
            "Invalid Weights: Passing must be greater than 0".into(),
        ),
        (
            r#"{"Name":"x","Weights":{"Passing":1,"Warning":-1}}"#,
            "Invalid Weights: Warning must be greater or equal than 0".into(),
        ),
        (
            r#"{"Name":"x","Weights":{"Passing":65536,"Warning":1}}"#,
            "Invalid Weights: DNS Weight must be between 0 and 65535".into(),
        ),
        (
            r#"{"Name":"x","Meta":{"":"v"},"Kind":"connect-proxy"}"#,
            "Invalid Service Meta: Couldn't load metadata pair ('', 'v'): Key cannot be blank"
                .into(),
        ),
        (
            r#"{"Name":"x","Meta":{"a b":"v"}}"#,
            "Invalid Service Meta: Couldn't load metadata pair ('a b', 'v'): Key contains invalid \
             characters"
                .into(),
        ),
        (
            r#"{"Name":"x","Meta":{"consul-x":"v"}}"#,
            "Invalid Service Meta: Couldn't load metadata pair ('consul-x', 'v'): Key prefix \
             'consul-' is reserved for internal use"
                .into(),
        ),
        (
            &long,
            format!(
                "Invalid Service Meta: Couldn't load metadata pair ('{}', 'v'): Key is too long \
                 (limit: 128 characters)",
                "k".repeat(129)
            ),
        ),
        (
            &wide,
            format!(
                "Invalid Service Meta: Couldn't load metadata pair ('k', '{}'): Value is too long \
                 (limit: 512 characters)",
                "v".repeat(513)
            ),
        ),
        (
            &many,
            "Invalid Service Meta: Node metadata cannot contain more than 64 key/value pairs"
                .into(),
        ),
        (
            r#"{"Name":"x","Kind":"connect-proxy","Check":{"HTTP":"y"}}"#,
            "Validation failed: 2 errors occurred:\n\t* Proxy.DestinationServiceName must be \
             non-empty for Connect proxy services\n\t* Port or SocketPath must be set for a \
             connect-proxy\n\n"
                .into(),
        ),
        (
            r#"{"Name":"x","Locality":{"Zone":"a"}}"#,
            "Validation failed: 1 error occurred:\n\t* zone cannot be set without region\n\n"
                .into(),
        ),
        (
            r#"{"Name":"x","Connect":{"Native":true,"other":1}}"#,
            "Validation failed: 1 error occurred:\n\t* Port or SocketPath must be set for a \
             Connect native service.\n\n"
                .into(),
        ),
        (
            r#"{"Name":"x","Check":{"HTTP":"y","Status":"bad"}}"#,
            "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService \
             checks"
                .into(),
        ),
        (
            r#"{"Name":"x","Check":{"TTL":"1s","Status":"bad"}}"#,
            "Status for checks must 'passing', 'warning', 'critical'".into(),
        ),
        (r#"{"Name":"x","Checks":[{}]}"#, "Invalid check: TTL must be > 0 for TTL checks".into()),
        (
            r#"{"Name":"x","Connect":{"sidecar_service":{}}}"#,
            "Invalid SidecarService: sidecar services are not built yet in this release".into(),
        ),
        (
            r#"{"Name":"x","TaggedAddresses":{"wan_ipv6":{"Address":"10.0.0.1"}}}"#,
            "Service tagged address \"wan_ipv6\" must be a valid ipv6 address".into(),
        ),
    ] {
        assert_eq!(service_error(body), text, "{body}");
    }
}

#[test]
fn rules_of_checks_speak_in_consuls_order() {
    for (fields, text) in [
        (r#""Interval":"1s","TTL":"1s""#, "Interval and TTL cannot both be specified"),
        (
            r#""TCP":"h:1""#,
            "Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
        ),
        (
            r#""TCP":"h:1","Interval":"1s","AliasNode":"n""#,
            "Interval cannot be set for Alias checks",
        ),
        (r#""AliasNode":"n","TTL":"1s""#, "TTL must be not be set for Alias checks"),
        (r#""Notes":"n""#, "TTL must be > 0 for TTL checks"),
        (r#""TTL":"1s","OutputMaxSize":-1"#, "MaxOutputMaxSize must be positive"),
        (
            r#""TTL":"1s","FailuresBeforeWarning":2,"FailuresBeforeCritical":1"#,
            "FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
        ),
        (r#""UDP":"h:1","Interval":"1s""#, "UDP checks are not built yet in this release"),
        (r#""GRPC":"h:1","Interval":"1s""#, "gRPC checks are not built yet in this release"),
        (r#""H2PING":"h:1","Interval":"1s""#, "H2PING checks are not built yet in this release"),
        (
            r#""OSService":"s","Interval":"1s""#,
            "OSService checks are not built yet in this release",
        ),
        (r#""AliasService":"s""#, "Alias checks are not built yet in this release"),
        (
            r#""args":["x"],"docker_container_id":"d","Interval":"1s""#,
            "Docker checks are not built yet in this release",
        ),
    ] {
        let text = format!("Invalid check: {text}");
        assert_eq!(check_error(&format!(r#"{{"Name":"c",{fields}}}"#)), text, "{fields}");
        let inside = format!(r#"{{"Name":"s","Checks":[{{{fields}}}]}}"#);
        assert_eq!(service_error(&inside), text, "{fields}");
    }
    assert_eq!(check_error(r#"{"Status":"bad"}"#), "Missing check name");
    assert_eq!(check_error(r#"{"Name":"c","Status":"bad"}"#), "Bad check status");
}

#[test]
fn checks_get_their_defaults() {
    let plain = check(&json!({"name": "c", "TTL": 10_000_000_000_u64, "service_id": "web"}));
    assert_eq!(plain.probe, Probe::Ttl(Duration::from_secs(10)));
    let row = &plain.check;
    assert_eq!((&*row.id, &*row.name, &*row.service_id, &*row.kind), ("c", "c", "web", "ttl"));
    assert_eq!((row.status, &*row.interval, &*row.timeout), (Status::Critical, "0s", "0s"));

    let http = check(&json!({"ID": "i", "Name": "c", "HTTP": "http://h/", "Interval": "100ms",
        "Header": {"X": ["1", "2"]}, "tls_skip_verify": true, "Method": null,
        "DeregisterCriticalServiceAfter": "10s", "OutputMaxSize": 100, "Status": "warning"}));
    assert_eq!((&*http.check.id, http.initial_status()), ("i", Status::Warning));
    assert_eq!(http.interval, Duration::from_secs(1), "raised");
    assert_eq!(&*http.check.interval, "100ms", "shown as given");
    assert_eq!(http.timeout, Duration::from_secs(10));
    assert_eq!(http.deregister_critical_after, Duration::from_secs(60), "raised");
    assert_eq!((http.output_limit(4096), http.output_limit(50)), (100, 50));
    let Probe::Http { method, headers, tls_skip_verify, .. } = http.probe else {
        panic!("an HTTP check");
    };
    assert_eq!((method.as_str(), tls_skip_verify), ("GET", true));
    assert_eq!(headers, [("X".into(), "1".into()), ("X".into(), "2".into())]);

    let script = check(&json!({"Name": "c", "Args": ["a", "b"], "ScriptArgs": ["x"],
        "Interval": "1m30s"}));
    assert_eq!(script.probe, Probe::Command(vec!["x".into()]), "CamelCase wins");
    assert_eq!((script.timeout, &*script.check.kind), (Duration::from_secs(30), "script"));
    assert_eq!(&*script.check.interval, "1m30s");
    let tcp = check(&json!({"Name": "c", "tcp": "h:1", "interval": "5s", "timeout": "2s"}));
    assert_eq!((tcp.timeout, &*tcp.check.timeout), (Duration::from_secs(2), "2s"));
}

#[test]
fn services_get_their_defaults() {
    let plain = service(&json!({"NAME": "web", "Check": {}, "Checks": null})).service;
    assert_eq!((&*plain.id, &*plain.name, plain.port), ("web", "web", 0));
    assert_eq!(plain.meta, Some(model::row::NameMap::new()));
    assert!(plain.tagged_addresses.is_empty() && plain.tags.is_empty());
    assert_eq!(plain.weights, model::row::WeightsV1::default());

    let full = service(&json!({"Name": "web", "ID": "web-1", "Address": "10.0.0.8", "Port": 80,
        "tagged_addresses": {"lan_ipv4": {"address": "10.0.0.9", "port": 81}}, "Token": "ignored",
        "enable_tag_override": true, "Weights": {"Passing": 10, "Warning": 0},
        "Check": {"TTL": "1s"}, "Checks": [{"CheckID": "own", "Name": "n", "TTL": "2s"}]}));
    assert_eq!(full.token, "");
    let tagged: Vec<_> = full
        .service
        .tagged_addresses
        .iter()
        .map(|(key, address)| (&**key, &*address.address, address.port))
        .collect();
    assert_eq!(tagged, [("lan_ipv4", "10.0.0.9", 81), ("wan_ipv4", "10.0.0.8", 80)]);
    assert!(full.service.enable_tag_override);
    let checks: Vec<_> =
        full.checks.iter().map(|check| (&*check.check.id, &*check.check.name)).collect();
    assert_eq!(checks, [("service:web-1:1", "Service 'web' check"), ("own", "n")]);
    assert_eq!((&*full.checks[0].check.interval, &*full.checks[0].check.service_id), ("", "web-1"));
}

#[test]
fn a_proxy_is_kept_normalised() {
    let body = json!({"Name": "p", "Kind": "connect-proxy", "Port": 1, "Proxy": {
        "destination_service_name": "web",
        "Upstreams": [{"destination_name": "db", "local_bind_port": 9}]}});
    let json = service(&body).service.proxy_json.expect("kept");
    let proxy: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(proxy["DestinationServiceName"], "web");
    assert_eq!(proxy["Upstreams"][0]["DestinationType"], "service");
    let mut twice = body;
    twice["Proxy"]["Upstreams"] =
        json!([{"DestinationName": "db"}, {"DestinationName": "*", "LocalBindPort": 9}]);
    assert_eq!(
        service_error(&twice.to_string()),
        "Validation failed: 2 errors occurred:\n\t* upstream local bind port or local socket path \
         must be defined and nonzero\n\t* upstream destination name cannot be a wildcard\n\n"
    );
}

#[test]
fn files_write_snake_case_in_any_case_and_durations_as_texts() {
    let service = parse_file_service(&json!({"Name": "web", "PORT": 80, "token": "t",
        "checks": [{"id": "own", "TTL": "10s"}],
        "check": {"http": "http://h", "interval": "10s", "failures_before_critical": 3,
            "DeregisterCriticalServiceAfter": "90m", "tlsskipverify": true}}))
    .expect("valid");
    assert_eq!((service.token.as_str(), service.service.port), ("t", 80));
    let ids: Vec<_> = service.checks.iter().map(|check| &*check.check.id).collect();
    assert_eq!(ids, ["own", "service:web:2"], "in files checks come before check");
    let http = &service.checks[1];
    assert_eq!((http.failures_before_warning, http.failures_before_critical), (3, 3));
    assert_eq!(http.deregister_critical_after, Duration::from_secs(90 * 60));
    let alone = parse_file_check(&json!({"name": "disk", "args": ["df"], "interval": "1m",
        "serviceid": "web", "token": "t"}))
    .expect("valid");
    assert_eq!((&*alone.check.service_id, alone.token.as_str()), ("web", "t"));
}

#[test]
fn files_with_mistakes_are_refused_by_name() {
    for (json, text) in [
        (json!({"name": "web", "prot": 1}), "service: unknown key \"prot\""),
        (json!({"port": 1}), "service \"\": Missing service name"),
        (
            json!({"name": "web", "port": "x"}),
            "service: key \"Port\" must be a whole number, is string",
        ),
        (json!({"name": "web", "port": -1}), "service: key \"Port\" must be between 0 and 65535"),
        (
            json!({"name": "web", "check": {"ttl": 10}}),
            "service: key \"TTL\" must be a duration as a text, such as \"10s\", is number",
        ),
        (
            json!({"name": "web", "check": {"check_id": "x", "ttl": "1s"}}),
            "service: unknown key \"check_id\"",
        ),
        (
            json!({"name": "web", "check": {"udp": "h:1", "interval": "1s"}}),
            "service \"web\": UDP checks are not built yet in this release",
        ),
        (json!([]), "service: must be an object, is array"),
    ] {
        assert_eq!(parse_file_service(&json).expect_err(text), text);
    }
    for (json, text) in [
        (json!({"ttl": "10s"}), "check \"\": Missing check name"),
        (
            json!({"name": "c", "ttl": "1x"}),
            "check: key \"TTL\": time: unknown unit \"x\" in duration \"1x\"",
        ),
        (
            json!({"name": "c", "grpc": "h:1", "interval": "1s"}),
            "check \"c\": gRPC checks are not built yet in this release",
        ),
        (json!({"name": "c", "script": "x"}), "check: unknown key \"script\""),
    ] {
        assert_eq!(parse_file_check(&json).expect_err(text), text);
    }
}
