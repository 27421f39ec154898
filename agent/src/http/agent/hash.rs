//! The content hash of a service: clients wait for it to change, and tests of the official Go
//! client know its value for one service.
//!
//! 64-bit FNV-1 over Go's shape of the object, as the library `hashstructure` version 1 walks it.

use model::row::ServiceV1;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Lower-case hex without leading zeros.
pub(super) fn content_hash(service: &ServiceV1) -> String {
    let addresses = service.tagged_addresses.iter().fold(0, |sum, (key, address)| {
        let fields = [("Address", text(&address.address)), ("Port", number(address.port.into()))];
        sum ^ join(text(key), structure("ServiceAddress", &fields))
    });
    let tags = service.tags.iter().fold(0, |sum, tag| join(sum, text(tag)));
    let pairs = service.meta.iter().flatten();
    let meta = pairs.fold(0, |sum, (key, value)| sum ^ join(text(key), text(value)));
    let weights = structure(
        "AgentWeights",
        &[
            ("Passing", number(service.weights.passing.max(1).into())),
            ("Warning", number(service.weights.warning.into())),
        ],
    );
    // Of these two no client compares the value, only whether it changes.
    let proxy = service.proxy_json.as_deref().map_or(number(0), text);
    let connect = if service.connect_native {
        let fields = [("Native", fnv(&[1])), ("SidecarService", number(0))];
        structure("AgentServiceConnect", &fields)
    } else {
        number(0)
    };
    let hash = structure(
        "AgentService",
        &[
            ("Kind", text(&service.kind)),
            ("ID", text(&service.id)),
            ("Service", text(&service.name)),
            ("Tags", tags),
            ("Meta", meta),
            ("Port", number(service.port.into())),
            ("Address", text(&service.address)),
            ("SocketPath", text(&service.socket_path)),
            ("TaggedAddresses", addresses),
            ("Weights", weights),
            ("EnableTagOverride", fnv(&[u8::from(service.enable_tag_override)])),
            ("CreateIndex", number(0)),
            ("ModifyIndex", number(0)),
            ("ContentHash", text("")),
            ("Proxy", proxy),
            ("Connect", connect),
            ("PeerName", text("")),
        ],
    );
    format!("{hash:x}")
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u64::from(*byte))
}

fn text(value: &str) -> u64 {
    fnv(value.as_bytes())
}

fn number(value: u64) -> u64 {
    fnv(&value.to_le_bytes())
}

/// Order matters.
fn join(left: u64, right: u64) -> u64 {
    let mut bytes = left.to_le_bytes().to_vec();
    bytes.extend_from_slice(&right.to_le_bytes());
    fnv(&bytes)
}

fn structure(name: &str, fields: &[(&str, u64)]) -> u64 {
    fields.iter().fold(text(name), |sum, (field, hash)| sum ^ join(text(field), *hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::definition::parse_api_service;

    #[test]
    fn the_parts_have_gos_values() {
        assert_eq!(text(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(text("foo"), 0xd8cb_c718_6ba1_3533);
        assert_eq!(text("AgentService"), 0xb5a2_0782_4e72_542d);
        assert_eq!(number(8000), 0xa319_0a9c_58de_6222);
        assert_eq!(number(0), 0xa8c7_f832_281a_39c5);
        assert_eq!(fnv(&[0]), 0xaf63_bd4c_8601_b7df);
        assert_eq!(join(join(0, text("bar")), text("baz")), 0xc3fd_596b_57d2_7eb5);
        let weights = [("Passing", number(1)), ("Warning", number(1))];
        assert_eq!(structure("AgentWeights", &weights), 0xa5d2_d153_cd81_640d);
    }

    #[test]
    fn the_service_of_the_go_clients_test_has_its_hash() {
        let body = br#"{"Name":"foo","Tags":["bar","baz"],"Port":8000}"#;
        let service = parse_api_service(body).expect("valid").service;
        assert_eq!(content_hash(&service), "3e352f348d44f7eb");
        let other = ServiceV1 { port: 8001, ..service };
        assert_ne!(content_hash(&other), "3e352f348d44f7eb");
    }
}
