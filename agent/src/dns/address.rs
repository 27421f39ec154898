//! Which of its addresses a node or an instance is answered with, and the record of it.

use std::net::IpAddr;

use super::query::kind;

/// An address of an instance or node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address<'a> {
    Ip(IpAddr),
    Host(&'a str),
}

impl<'a> Address<'a> {
    /// `None`: there is none.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if text.is_empty() {
            return None;
        }
        // An IPv4 address in IPv6 clothes counts as IPv4.
        Some(match text.parse::<IpAddr>() {
            Ok(ip) => Address::Ip(ip.to_canonical()),
            Err(_) => Address::Host(text),
        })
    }
}

/// The address for a question of this type: the one tagged with a wanted family, IPv6 first, else
/// the plain one whatever its family, which then gives no record.
pub(super) fn select<'a>(
    plain: &'a str,
    v4: Option<&'a str>,
    v6: Option<&'a str>,
    question_kind: u16,
) -> &'a str {
    let tagged = |tag: Option<&'a str>, other: u16| {
        tag.filter(|tag| question_kind != other && !tag.is_empty())
    };
    tagged(v6, kind::A).or_else(|| tagged(v4, kind::AAAA)).unwrap_or(plain)
}

/// Whether an address gives a record in answer to this type.
pub(super) fn fits(address: IpAddr, question_kind: u16) -> bool {
    let family = if address.is_ipv4() { kind::A } else { kind::AAAA };
    question_kind == family || matches!(question_kind, kind::ANY | kind::SRV | kind::TXT)
}
