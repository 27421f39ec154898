//! `peers.json`: the servers that an operator says make up the cluster from now on.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;

use super::input::{self, Object};
use crate::NodeId;

/// One server of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Identity; the old form of the file, a list of addresses, does not give it.
    pub id: Option<NodeId>,
    /// Where its RPC listens.
    pub address: SocketAddr,
    /// It does not vote.
    pub non_voter: bool,
}

/// Reads the file: `[{"id": "…", "address": "ip:port", "non_voter": false}, …]`, or the old form
/// `["ip:port", …]`. The error says what is wrong with it.
pub fn parse(text: &[u8]) -> Result<Vec<Peer>, String> {
    let value = input::first_value(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Array(items) = value else { return Err("it is not a list of servers".to_owned()) };
    let peers = items.iter().map(peer).collect::<Result<Vec<Peer>, String>>()?;
    if peers.iter().all(|peer| peer.non_voter) {
        return Err("it names no server that votes".to_owned());
    }
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for peer in &peers {
        if !addresses.insert(peer.address) || peer.id.is_some_and(|id| !ids.insert(id)) {
            return Err(format!("it names {} twice", peer.address));
        }
    }
    Ok(peers)
}

fn peer(item: &Value) -> Result<Peer, String> {
    if let Value::String(text) = item {
        return Ok(Peer { id: None, address: address(text)?, non_voter: false });
    }
    let read = || {
        let mut fields = Object::new(item, "peer")?;
        let found =
            (fields.text(&["id"])?, fields.text(&["address"])?, fields.bool(&["non_voter"])?);
        fields.finish()?;
        Ok(found)
    };
    let (id, at, non_voter) = read().map_err(|error: input::InputError| error.to_string())?;
    let id = id.parse().map_err(|error| format!("id \"{id}\" is {error}"))?;
    Ok(Peer { id: Some(id), address: address(at)?, non_voter })
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("address \"{text}\" is not of the form ip:port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "40e4a748-2192-161a-0510-9bf59fe950b5";

    #[test]
    fn both_forms_are_read() {
        let text = format!(
            r#"[{{"id": "{ID}", "address": "10.0.0.1:8300", "non_voter": false}},
                {{"id": "50e4a748-2192-161a-0510-9bf59fe950b5", "address": "[::1]:8300",
                  "non_voter": true}}]"#
        );
        let peers = parse(text.as_bytes()).expect("the new form");
        assert_eq!(peers[0].id, ID.parse().ok());
        assert_eq!(peers[0].address, SocketAddr::from(([10, 0, 0, 1], 8300)));
        assert_eq!((peers[0].non_voter, peers[1].non_voter), (false, true));
        let peers = parse(br#"["10.0.0.1:8300", "10.0.0.2:8300"]"#).expect("the old form");
        assert_eq!((peers.len(), peers[1].id), (2, None));
    }

    #[test]
    fn mistakes_are_named() {
        let object = |fields: &str| format!(r#"[{{"id": "{ID}", {fields}}}]"#);
        for (text, said) in [
            (String::new(), "not JSON"),
            ("{".to_owned(), "not JSON"),
            ("{}".to_owned(), "not a list"),
            ("[]".to_owned(), "no server that votes"),
            (r#"["10.0.0.1"]"#.to_owned(), "address \"10.0.0.1\""),
            (r#"["10.0.0.1:1", "10.0.0.1:1"]"#.to_owned(), "10.0.0.1:1 twice"),
            (r#"[{"id": "x", "address": "10.0.0.1:1"}]"#.to_owned(), "id \"x\""),
            (object(r#""address": "10.0.0.1:1", "non_voter": true"#), "no server that votes"),
            (object(r#""address": "10.0.0.1:1", "voter": true"#), "voter"),
            (object(r#""address": 1"#), "peer.address"),
            ("[1]".to_owned(), "peer"),
        ] {
            let error = parse(text.as_bytes()).expect_err(&text);
            assert!(error.contains(said), "{error}");
        }
    }
}
