use serde_json::json;

use super::*;

fn refused(body: &Value) -> String {
    register(body).expect_err("refused").to_string()
}

#[test]
fn a_whole_registration_becomes_rows() {
    let body = json!({
        "Datacenter": "dc1", "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Node": "ext1",
        "Address": "10.1.0.9", "TaggedAddresses": {"lan": "10.1.0.9"},
        "NodeMeta": {"external-node": "true"}, "Locality": {"Region": "eu", "Zone": "eu-1"},
        "Service": {"ID": "db-1", "Service": "db", "Tags": ["primary"], "Address": "10.1.0.9",
            "Port": 5432, "Meta": {"v": "1"}, "TaggedAddresses": {"lan": {"Address": "a", "Port": 1}},
            "Weights": {"Passing": 10, "Warning": 1}, "EnableTagOverride": false, "Kind": "",
            "Proxy": {}, "Connect": {"Native": true}},
        "Check": {"Node": "EXT1", "CheckID": "service:db-1", "Name": "db alive",
            "Status": "passing", "ServiceID": "db-1",
            "Definition": {"TCP": "10.1.0.9:5432", "Interval": "10s"}},
        "Checks": [{"Name": "second"}], "SkipNodeUpdate": false, "Token": "t",
        "WriteRequest": {"Token": "x"}, "CreateIndex": 1, "Namespace": "", "Partition": "default",
    });
    let (dc, registration) = register(&body).expect("valid");
    assert_eq!(&*dc, "dc1");
    assert_eq!(&*registration.node.name, "ext1");
    assert!(registration.node.id.is_some() && !registration.skip_node_update);
    let service = &registration.services[0];
    assert_eq!((&*service.node, &*service.id, service.port), ("ext1", "db-1", 5432));
    assert!(service.connect_native && service.proxy_json.is_none());
    let [first, second] = &registration.checks[..] else { panic!("two checks") };
    assert_eq!((&*first.id, first.status, &*first.kind), ("service:db-1", Status::Passing, "tcp"));
    assert_eq!((&*second.id, second.status, &*second.node), ("second", Status::Critical, "ext1"));
}

#[test]
fn defaults_are_filled_in() {
    let body = json!({"node": "n", "address": "a", "service": {"service": "web",
        "weights": {"Passing": 0, "Warning": 0}}, "check": null, "checks": null});
    let (_, registration) = register(&body).expect("valid");
    let service = &registration.services[0];
    assert_eq!((&*service.id, service.weights), ("web", WeightsV1::default()));
    assert_eq!(service.meta, None);
    assert_eq!(registration.node.meta, None);
    let (_, registration) = register(&json!({"Node": "n", "SkipNodeUpdate": true})).expect("valid");
    assert!(registration.skip_node_update && registration.services.is_empty());
}

#[test]
fn refusals_have_consuls_texts() {
    for (body, text) in [
        (json!({}), "Must provide node"),
        (json!({"Node": "n9"}), "Must provide address if SkipNodeUpdate is not set"),
        (
            json!({"Node": "n", "Address": "a", "ID": "x"}),
            "Bad node ID: not a UUID (8-4-4-4-12 hexadecimal digits)",
        ),
        (
            json!({"Node": "n", "Address": "a", "Service": {"ID": "s"}}),
            "Must provide service name (Service.Service) when service ID is provided",
        ),
        (
            json!({"Node": "n", "Address": "a", "Service": {"Service": "s", "Address": "0.0.0.0"}}),
            "Invalid service address",
        ),
        (
            json!({"Node": "n", "Address": "a", "Service": {"Service": "s", "Meta": {"a b": "v"}}}),
            "failed inserting service: Invalid Service Meta for node n and serviceID s: Couldn't \
             load metadata pair ('a b', 'v'): Key contains invalid characters",
        ),
        (
            json!({"Node": "n", "Address": "a", "PeerName": "p"}),
            "cannot register requests with PeerName in them",
        ),
        (
            json!({"Node": "n", "Address": "a", "Check": {"Node": "m", "CheckID": "c"}}),
            "Node 'm' for check 'c' doesn't match register request node 'n'",
        ),
        (
            json!({"Node": "n", "Address": "a", "Check": {}}),
            "failed inserting check on node \"n\": failed inserting check: object missing primary \
             index",
        ),
        (
            json!({"Node": "n", "Address": "a", "Checks": [{"Name": "c"}, {"Status": "passing"}]}),
            "failed inserting check on node \"n\": failed inserting check: object missing primary \
             index",
        ),
        (
            json!({"Node": "n", "Address": "a", "Nope": 1}),
            "Request decode failed: json: unknown field \"Nope\"",
        ),
        (
            json!({"Node": "n", "Service": {"Datacenter": "d"}}),
            "Request decode failed: json: unknown field \"Datacenter\"",
        ),
        (
            json!({"Node": "n", "Namespace": "x"}),
            "Request decode failed: json: unknown field \"Namespace\" - Namespaces are a Consul \
             Enterprise feature",
        ),
        (
            json!({"Node": 5}),
            "Request decode failed: json: cannot unmarshal number into Go struct field \
             RegisterRequest.Node of type string",
        ),
        (
            json!({"Node": "n", "Service": {"Port": 70000}}),
            "Request decode failed: json: cannot unmarshal number 70000 into Go struct field \
             RegisterRequest.Port of type int",
        ),
        (
            json!([]),
            "Request decode failed: json: cannot unmarshal array into Go struct field \
             RegisterRequest of type struct",
        ),
    ] {
        assert_eq!(refused(&body), text, "{body}");
    }
}

#[test]
fn deregistrations_are_read() {
    let body = json!({"Datacenter": "dc1", "node": "n", "serviceid": "s", "Address": "unused"});
    let read = deregister(&body).expect("valid");
    assert_eq!(read, ("dc1".into(), "n".into(), Some("s".into()), None));
    let error = deregister(&json!({"ServiceID": "s"})).expect_err("refused");
    assert_eq!(error.to_string(), "Must provide node");
    assert!(deregister(&json!({"Node": "n", "Nope": 1})).is_err());
}
