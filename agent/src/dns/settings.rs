//! What answers depend on besides rows: one immutable value, read once for each question.

use std::time::Duration;

use crate::config::DnsSettings;

use super::record::{labels, wire_name};

/// Names that stay for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// First domain, without outer dots, lower case.
    pub domain: String,
    /// Second domain; empty: none.
    pub alt_domain: String,
    /// Our datacenter.
    pub datacenter: String,
}

/// Why domains cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a DNS domain: labels are 1 to 63 bytes, the whole at most 150")]
pub struct BadDomain(String);

/// Longest domain: leaves room for a node's name and `node`, `addr` and the datacenter.
const DOMAIN_MAX: usize = 150;

/// Settings in the form that answers use.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// On the wire, lower case, with their final zero; longest first.
    domains: Vec<Box<[u8]>>,
    domain: Box<[u8]>,
    alt_domain: Option<Box<[u8]>>,
    pub(crate) datacenter: Box<str>,
    pub(crate) dns: DnsSettings,
    pub(crate) node_ttl: u32,
}

impl Settings {
    pub(crate) fn new(zone: &Zone, dns: &DnsSettings) -> Result<Self, BadDomain> {
        let wire = |text: &str| {
            let text = text.trim_matches('.').to_ascii_lowercase();
            wire_name(&text)
                .filter(|wire| wire.len() > 1 && wire.len() <= DOMAIN_MAX)
                .ok_or(BadDomain(text))
        };
        let domain = wire(&zone.domain)?;
        // An empty second domain must not become the root.
        let second = !zone.alt_domain.trim_matches('.').is_empty();
        let alt_domain = if second { Some(wire(&zone.alt_domain)?) } else { None };
        let mut domains: Vec<_> = alt_domain.iter().chain([&domain]).cloned().collect();
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        Ok(Self {
            domains,
            domain,
            alt_domain,
            datacenter: zone.datacenter.to_ascii_lowercase().into(),
            node_ttl: seconds(dns.node_ttl),
            dns: dns.clone(),
        })
    }

    /// First domain on the wire.
    pub(crate) fn domain(&self) -> &[u8] {
        &self.domain
    }

    /// Our domain at the end of this name, compared without case; the longer of the two wins.
    pub(crate) fn zone(&self, name: &[u8]) -> Option<&[u8]> {
        let same = <[u8]>::eq_ignore_ascii_case;
        self.domains.iter().map(|domain| &**domain).find(|domain| is_suffix(name, domain, same))
    }

    /// The zone that SOA records speak for under this question name. The second domain only when
    /// something stands before it, compared with case: so Consul does.
    pub(crate) fn soa_zone(&self, name: &[u8]) -> &[u8] {
        match &self.alt_domain {
            Some(alt) if name.len() > alt.len() && is_suffix(name, alt, <[u8]>::eq) => alt,
            _ => &self.domain,
        }
    }

    /// The longest name that can follow a record's labels: one of our domains.
    pub(crate) fn zone_len_max(&self) -> usize {
        self.domains.first().map_or(1, |domain| domain.len())
    }

    /// TTL of a service's records: an exact name before the longest prefix.
    pub(crate) fn service_ttl(&self, service: &str) -> u32 {
        let ttls = &self.dns.service_ttl;
        let by_prefix = || {
            let prefixes = ttls.iter().filter_map(|(key, ttl)| Some((key.strip_suffix('*')?, ttl)));
            let matching = prefixes.filter(|(prefix, _)| service.starts_with(prefix));
            matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, ttl)| ttl)
        };
        let exact = ttls.get(service).filter(|_| !service.ends_with('*'));
        exact.or_else(by_prefix).map_or(0, |ttl| seconds(*ttl))
    }
}

/// Whole seconds, cut towards zero.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// Whether `name` ends in `suffix` at the border of a label.
fn is_suffix(name: &[u8], suffix: &[u8], same: fn(&[u8], &[u8]) -> bool) -> bool {
    let Some(at) = name.len().checked_sub(suffix.len()) else { return false };
    let (mut start, mut rest) = (0, labels(name));
    while start < at {
        match rest.next() {
            Some(label) => start += label.len() + 1,
            None => return false,
        }
    }
    start == at && name.get(at..).is_some_and(|end| same(end, suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(domain: &str, alt_domain: &str, dns: &DnsSettings) -> Settings {
        let zone =
            Zone { domain: domain.into(), alt_domain: alt_domain.into(), datacenter: "dc1".into() };
        Settings::new(&zone, dns).expect("good domains")
    }

    #[test]
    fn domains_match_whole_labels_in_any_case_and_the_longer_wins() {
        let settings = settings("consul.", "test.consul", &DnsSettings::default());
        for (name, length) in [
            ("web.consul", Some(8)),
            ("web.CONSUL", Some(8)),
            ("web.Test.consul", Some(13)),
            ("consul", Some(8)),
            ("myconsul", None),
            ("web.myconsul", None),
            ("example.com", None),
            ("", None),
        ] {
            let wire = wire_name(name).expect("a name");
            assert_eq!(settings.zone(&wire).map(<[u8]>::len), length, "{name}");
        }
    }

    #[test]
    fn the_soa_zone_needs_a_label_before_the_second_domain_and_its_spelling() {
        let settings = settings("consul", "other", &DnsSettings::default());
        for (name, zone) in
            [("web.other", "other"), ("web.OTHER", "consul"), ("other", "consul"), ("x", "consul")]
        {
            let wire = wire_name(name).expect("a name");
            assert_eq!(settings.soa_zone(&wire), &*wire_name(zone).expect("a name"), "{name}");
        }
    }

    #[test]
    fn an_exact_ttl_beats_prefixes_and_the_longest_prefix_wins() {
        let ttl = |ms| Duration::from_millis(ms);
        let service_ttl = [
            ("db".to_owned(), ttl(10_900)),
            ("db*".to_owned(), ttl(20_000)),
            ("d*".to_owned(), ttl(30_000)),
            ("*".to_owned(), ttl(900)),
            ("a*b".to_owned(), ttl(7_000)),
        ];
        let dns = DnsSettings { service_ttl: service_ttl.into(), ..DnsSettings::default() };
        let settings = settings("consul", "", &dns);
        for (service, seconds) in
            [("db", 10), ("dbx", 20), ("dx", 30), ("web", 0), ("a*b", 7), ("axb", 0)]
        {
            assert_eq!(settings.service_ttl(service), seconds, "{service}");
        }
        assert_eq!(self::settings("consul", "", &DnsSettings::default()).service_ttl("db"), 0);
    }

    #[test]
    fn bad_domains_are_refused() {
        for domain in ["", ".", "a..b", &"x".repeat(64), &"a.".repeat(100)] {
            let zone =
                Zone { domain: domain.into(), alt_domain: String::new(), datacenter: "dc1".into() };
            assert!(Settings::new(&zone, &DnsSettings::default()).is_err(), "{domain}");
        }
    }
}
