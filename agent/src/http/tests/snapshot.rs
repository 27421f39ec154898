//! `/v1/snapshot`.

use model::command::Rejection;
use model::rpc::{Answer, Body, Consistency, Op, Request, RpcError};

use super::fixture::{open, reply};

fn script(request: &Request) -> Answer {
    match (&request.op, request.consistency) {
        (Op::SnapshotRestore, Consistency::Stale) => {
            Err(RpcError::Rejected(Rejection::Other("stale not allowed for restore".to_owned())))
        }
        (Op::SnapshotSave | Op::SnapshotRestore, _) => reply(Body::Done),
        _ => Err(RpcError::NotReady),
    }
}

#[tokio::test]
async fn an_archive_streams_out_behind_its_headers() {
    let door = open(script).await;
    for (query, consistency) in [("", Consistency::Default), ("?stale", Consistency::Stale)] {
        let seen = door.get(&format!("/v1/snapshot{query}")).await;
        assert_eq!(seen.status, 200);
        for (name, value) in [
            ("content-type", "application/x-gzip"),
            ("x-consul-index", "42"),
            ("x-consul-knownleader", "true"),
            ("transfer-encoding", "chunked"),
        ] {
            assert_eq!(seen.header(name), Some(value), "{name}");
        }
        let parts: String =
            seen.text().split("\r\n").filter(|line| line.contains(['e', 'w'])).collect();
        assert_eq!(parts, "one,two", "{}", seen.text());
        assert_eq!((door.asked().op, door.asked().consistency), (Op::SnapshotSave, consistency));
    }
}

#[tokio::test]
async fn an_archive_streams_in_whole_and_larger_than_other_bodies() {
    let door = open(script).await;
    let archive: Vec<u8> = (0..20_u32 << 20).map(|n| (n % 251) as u8).collect();
    let seen = door.put("/v1/snapshot", &archive).await;
    assert_eq!((seen.status, &*seen.text()), (200, ""));
    assert_eq!(door.asked().op, Op::SnapshotRestore);
    assert!(door.uploaded() == archive, "another body than was sent");
}

#[tokio::test]
async fn refusals_have_consuls_texts() {
    let door = open(script).await;
    for (method, query, status, text) in [
        ("PUT", "?stale", 500, "stale not allowed for restore"),
        ("PUT", "?dc=nowhere", 500, "No path to datacenter"),
        ("GET", "?dc=nowhere", 500, "No path to datacenter"),
        ("DELETE", "", 405, "method DELETE not allowed"),
    ] {
        let seen = door.send(method, &format!("/v1/snapshot{query}"), "", b"x").await;
        assert_eq!((seen.status, &*seen.text()), (status, text), "{method} {query}");
    }
    assert!(door.uploaded().is_empty());
}
