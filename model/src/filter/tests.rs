use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::id::LogIndex;
use crate::row::{CheckV1, NodeV1, ServiceV1, Status, WeightsV1};
use crate::rpc::Instance;

fn service() -> ServiceV1 {
    ServiceV1 {
        node: "n1".into(),
        id: "web".into(),
        name: "web".into(),
        kind: "".into(),
        tags: vec!["v1".into(), "connect".into()],
        address: "127.0.0.2".into(),
        port: 443,
        socket_path: "".into(),
        tagged_addresses: [(
            "lan".into(),
            crate::row::ServiceAddressV1 { address: "10.0.0.8".into(), port: 80 },
        )]
        .into(),
        meta: Some([("version".into(), "1".into()), ("a.b".into(), "x".into())].into()),
        weights: WeightsV1 { passing: 10, warning: 1 },
        enable_tag_override: false,
        proxy_json: Some(
            r#"{"Mode":"","MeshGateway":{},"Expose":{},"DestinationServiceName":"db","Upstreams":[{"DestinationType":"","DestinationName":"x","Datacenter":"","LocalBindPort":9191,"MeshGateway":{"Mode":"local"}}]}"#
                .into(),
        ),
        connect_native: true,
        locality: None,
        create_index: LogIndex(1),
        modify_index: LogIndex(1),
    }
}

fn holds(expression: &str) -> Result<bool, FilterError> {
    let row = service();
    Filter::compile(expression, &SERVICE).map(|filter| filter.matches(&ServiceRecord(&row)))
}

#[test]
fn true_expressions() {
    for expression in [
        "Service==web",
        "Meta.version == 1",
        "Meta[`a.b`] == x",
        "Meta[\"version\"]==1",
        "connect in Tags and not v2 in Tags",
        "Tags contains \"v1\"",
        "Tags is not empty",
        "Tags not contains v2",
        "version in Meta",
        "nope not in Meta",
        "Meta.nope is empty",
        "Meta.nope != 7",
        "Meta.nope not matches x",
        "\"eb\" in Service",
        "Service contains we",
        "Service matches \"^w.b$\"",
        "Service not matches \"^x\"",
        "Port == 443",
        "Port == \"443\"",
        "Port == \"0x1bb\"",
        "Port == \"0673\"",
        "Connect.Native == true",
        "Connect.Native != 0",
        "Service == web or Service == db and Port == 1",
        "(Service == web)",
        "( Service == web and ( Port == 443 or Port == 1 ) )",
        "not (Port == 1)",
        "not not Service == web",
        "  Service  ==  web  ",
        "Service == `web`",
        "Kind == \"\"",
        "Kind == `` and SocketPath is empty",
        "Service == \"\\x77\\u0065\\142\"",
        "TaggedAddresses.lan.Port == 80",
        "TaggedAddresses.wan.Port != 80",
        "lan in TaggedAddresses",
        "Weights.Passing == 10",
        "Proxy.DestinationServiceName == db",
        "Proxy.LocalServicePort == 0",
        "Proxy.Upstreams is not empty",
        "Proxy.Upstreams.DestinationName == x",
        "Proxy.Upstreams.LocalBindPort == 9191",
        "Proxy.Upstreams.MeshGateway.Mode == local",
        "Proxy.Upstreams.DestinationPeer is empty",
        "Proxy.Expose.Checks == false",
        "Proxy.Expose.Paths is empty",
        "Proxy.TransparentProxy.DialedDirectly != true",
        "Port == 443\nor\tPort == 1",
    ] {
        assert_eq!(holds(expression), Ok(true), "{expression}");
    }
}

#[test]
fn false_expressions() {
    for expression in [
        "Meta.nope == \"\"",
        "Meta.nope is not empty",
        "Meta.nope matches \".*\"",
        "nope in Meta",
        "Port in Tags",
        "TaggedAddresses.wan.Port == 80",
        "Proxy.Expose.Paths.ListenerPort == 1",
        "Service == web and not Port == 443",
    ] {
        assert_eq!(holds(expression), Ok(false), "{expression}");
    }
}

#[test]
fn what_is_not_of_the_language_is_refused() {
    for expression in [
        "Service == my-svc",
        "Address == 127.0.0.2",
        "Port == 0x1bb",
        "Service == web AND Port == 443",
        "Service == web and",
        "not(Port == 1)",
        "Port in 4",
        "Meta.version == v1.2",
        "any Tags as t { t == v1 }",
        "Tags[\"dc\"] == invalid-bexpr-value",
        "Service ==",
        "== web",
        "Service",
        "(Service == web",
        "Service == web)",
        "Service == \"web",
        "Service == `web",
        "Service == \"\\q\"",
        "Service == 01",
        "Service is  notempty",
        "Tags contains",
        "Service = web",
        "\"a\" inTags",
    ] {
        let error = holds(expression).expect_err(expression);
        assert!(matches!(error, FilterError::Syntax { .. }), "{expression}: {error}");
    }
    let error = holds("Service == web\n and Port ==").expect_err("short");
    assert_eq!(error.to_string(), "2:13 (27): no match found");
}

#[test]
fn what_does_not_fit_the_type_is_refused_by_name() {
    for (expression, text) in [
        ("service == web", "Selector \"service\" is not valid"),
        ("Meta.version.x == 1", "Selector \"Meta.version.x\" is not valid"),
        ("Nope == 1", "Selector \"Nope\" is not valid"),
        ("CreateIndex == 1", "Selector \"CreateIndex\" is not valid"),
        ("Tags == v1", "Invalid match operator \"Equal\" for selector \"Tags\""),
        ("Port contains 4", "Invalid match operator \"In\" for selector \"Port\""),
        ("Port is empty", "Invalid match operator \"Is Empty\" for selector \"Port\""),
        ("Connect is empty", "Invalid match operator \"Is Empty\" for selector \"Connect\""),
        ("Tags not matches x", "Invalid match operator \"Not Matches\" for selector \"Tags\""),
        (
            "Port == abc",
            "Failed to coerce value \"abc\" for selector \"Port\": strconv.ParseInt: parsing \
             \"abc\": invalid syntax",
        ),
        (
            "Connect.Native == 7",
            "Failed to coerce value \"7\" for selector \"Connect.Native\": strconv.ParseBool: \
             parsing \"7\": invalid syntax",
        ),
    ] {
        assert_eq!(holds(expression).expect_err(expression).to_string(), text);
    }
    let error = holds("Service matches \"(\"").expect_err("bad").to_string();
    assert!(error.starts_with("Failed to compile regular expression \"(\": "), "{error}");
}

#[test]
fn limits_refuse_before_work_is_done() {
    let long = format!("Service == \"{}\"", "x".repeat(EXPRESSION_BYTES_MAX));
    assert!(matches!(holds(&long), Err(FilterError::TooLong(_))));
    let deep = format!("{}Port == 1{}", "(".repeat(40), ")".repeat(40));
    assert_eq!(holds(&deep), Err(FilterError::TooDeep));
    let nots = format!("{}Port == 1", "not ".repeat(40));
    assert_eq!(holds(&nots), Err(FilterError::TooDeep));
    let fine = format!("{}Port == 443{}", "(".repeat(DEPTH_MAX - 1), ")".repeat(DEPTH_MAX - 1));
    assert_eq!(holds(&fine), Ok(true));
    let chain = vec!["Port == 443"; 200].join(" and ");
    assert_eq!(holds(&chain), Ok(true));
    assert!(matches!(holds("Service matches \"(x{1000}){1000}\""), Err(FilterError::Regex { .. })));
}

fn instance(statuses: &[Status]) -> Instance {
    let check = |status: &Status| {
        Arc::new(CheckV1 {
            node: "n1".into(),
            id: "c".into(),
            name: "c".into(),
            status: *status,
            notes: "".into(),
            output: "".into(),
            service_id: "web".into(),
            service_name: "web".into(),
            service_tags: vec![],
            kind: "".into(),
            interval: "".into(),
            timeout: "".into(),
            exposed_port: 0,
            definition_json: None,
            create_index: LogIndex(1),
            modify_index: LogIndex(1),
        })
    };
    Instance {
        node: Arc::new(NodeV1 {
            name: "n1".into(),
            id: None,
            address: "10.0.0.1".into(),
            tagged_addresses: None,
            meta: Some([("os".into(), "linux".into())].into()),
            locality: None,
            create_index: LogIndex(1),
            modify_index: LogIndex(1),
        }),
        service: Arc::new(service()),
        checks: statuses.iter().map(check).collect(),
    }
}

#[test]
fn a_list_of_objects_matches_if_any_element_does() {
    use Status::{Critical, Passing};
    for (expression, statuses, wanted) in [
        ("Checks.Status != passing", &[Passing, Critical][..], true),
        ("Checks.Status != passing", &[Passing], false),
        ("not Checks.Status != passing", &[Passing], true),
        ("Checks.Status != passing", &[], false),
        ("Checks is empty", &[], true),
        ("Node.Meta.os == linux and Service.Port == 443", &[], true),
        ("Node.Datacenter == dc1", &[], true),
    ] {
        let row = instance(statuses);
        let filter = Filter::compile(expression, &HEALTH).expect(expression);
        assert_eq!(filter.matches(&HealthRecord(&row, "dc1")), wanted, "{expression}");
    }
    let row = instance(&[]);
    for expression in [
        "ServiceConnect.Native == true and ServicePort == 443",
        "NodeMeta.os == linux",
        "ServiceTags contains v1",
        "ServiceProxy.DestinationServiceName == db",
        "ServiceTaggedAddresses.lan.Address == `10.0.0.8`",
    ] {
        let filter = Filter::compile(expression, &SERVICE_NODE).expect(expression);
        assert!(filter.matches(&ServiceNodeRecord(&row, "dc1")), "{expression}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        let _ = holds(&text);
    }

    #[test]
    fn no_arrangement_of_words_makes_it_panic(words in proptest::collection::vec(
        prop_oneof![
            Just("Service"), Just("Meta"), Just("Tags"), Just("Port"), Just("Proxy.Upstreams"),
            Just("=="), Just("!="), Just("not"), Just("in"), Just("contains"), Just("matches"),
            Just("is"), Just("empty"), Just("and"), Just("or"), Just("("), Just(")"), Just("."),
            Just("[\"k\"]"), Just("`raw`"), Just("\"q\\n\""), Just("1"), Just("-2.5"),
        ], 0..12)) {
        let _ = holds(&words.join(" "));
    }
}
