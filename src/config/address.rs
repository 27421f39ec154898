//! Addresses as operators write them: IPs, the two go-sockaddr templates that everybody uses, and
//! the detection of the address to advertise (spec/agent.md §7).

use std::net::{IpAddr, Ipv4Addr};

/// An interface's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    /// `eth0`.
    pub(crate) name: String,
    /// Its address.
    pub(crate) ip: IpAddr,
}

/// The addresses of this machine.
pub(crate) fn interfaces() -> Result<Vec<Interface>, String> {
    let found = if_addrs::get_if_addrs()
        .map_err(|error| format!("cannot list this machine's network interfaces: {error}"))?;
    Ok(found.into_iter().map(|one| Interface { ip: one.ip(), name: one.name }).collect())
}

/// Exactly one IP address from a setting's text.
pub(crate) fn single(
    setting: &str,
    text: &str,
    interfaces: &[Interface],
) -> Result<IpAddr, String> {
    let expanded = expand(setting, text, interfaces)?;
    match expanded.split_whitespace().collect::<Vec<_>>().as_slice() {
        [one] => parse(setting, one),
        [] => Err(format!("{setting}: no address; give one IP address")),
        several => Err(format!(
            "{setting}: {} addresses where one is needed: {}",
            several.len(),
            several.join(" ")
        )),
    }
}

/// One or more IP addresses or `unix://` paths from a setting's text.
pub(crate) fn several(
    setting: &str,
    text: &str,
    interfaces: &[Interface],
) -> Result<Vec<String>, String> {
    let expanded = expand(setting, text, interfaces)?;
    expanded
        .split_whitespace()
        .map(|one| {
            if one.starts_with("unix://") {
                Ok(one.to_owned())
            } else {
                Ok(parse(setting, one)?.to_string())
            }
        })
        .collect()
}

fn parse(setting: &str, text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{setting}: \"{text}\" is not an IP address"))
}

/// Replaces `{{ GetPrivateIP }}` and `{{ GetInterfaceIP "eth0" }}`; other templates are refused.
fn expand(setting: &str, text: &str, interfaces: &[Interface]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return Err(format!("{setting}: \"{text}\" has {{{{ without }}}}"));
        };
        out.push_str(before);
        let words: Vec<&str> = action.split_whitespace().collect();
        let ip = match words.as_slice() {
            ["GetPrivateIP"] => private(interfaces).into_iter().next(),
            ["GetInterfaceIP", name] => {
                let name = name.trim_matches('"');
                interfaces.iter().find(|one| one.name == name).map(|one| one.ip)
            }
            _ => {
                return Err(format!(
                    "{setting}: the template {{{{{action}}}}} is not built yet; write the address, \
                     {{{{ GetPrivateIP }}}} or {{{{ GetInterfaceIP \"name\" }}}}"
                ));
            }
        };
        let Some(ip) = ip else {
            return Err(format!("{setting}: {{{{{action}}}}} finds no address on this machine"));
        };
        out.push_str(&ip.to_string());
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// What the others are told when the operator does not say: the bind address, or for `0.0.0.0` the
/// single private IPv4 address, loopback only if there is nothing else.
pub(crate) fn advertise(bind: IpAddr, interfaces: &[Interface]) -> Result<IpAddr, String> {
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    let advice = "Please configure one with 'bind' and/or 'advertise'.";
    if bind.is_ipv6() {
        let public: Vec<IpAddr> = interfaces
            .iter()
            .map(|one| one.ip)
            .filter(|ip| match ip {
                IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
                IpAddr::V4(_) => false,
            })
            .collect();
        return match public.as_slice() {
            [one] => Ok(*one),
            [] => Err(format!("No public IPv6 address found. {advice}")),
            _ => Err(format!("Multiple public IPv6 addresses found. {advice}")),
        };
    }
    match private(interfaces).as_slice() {
        [one] => Ok(*one),
        [] if interfaces.iter().any(|one| one.ip == IpAddr::V4(Ipv4Addr::LOCALHOST)) => {
            Ok(IpAddr::V4(Ipv4Addr::LOCALHOST))
        }
        [] => Err(format!("No private IPv4 address found. {advice}")),
        _ => Err(format!("Multiple private IPv4 addresses found. {advice}")),
    }
}

fn private(interfaces: &[Interface]) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = interfaces
        .iter()
        .filter_map(|one| match one.ip {
            IpAddr::V4(ip) if is_private(ip) => Some(IpAddr::V4(ip)),
            _ => None,
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// RFC 6890's private ranges without loopback.
fn is_private(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    matches!(
        (a, b, c),
        (10, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0)
            | (192, 0, 2)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(ips: &[&str]) -> Vec<Interface> {
        ips.iter()
            .enumerate()
            .map(|(i, ip)| Interface { name: format!("eth{i}"), ip: ip.parse().expect("ip") })
            .collect()
    }

    #[test]
    fn the_advertised_address_is_the_only_private_one() {
        let any = "0.0.0.0".parse().expect("ip");
        let found = |ips: &[&str]| advertise(any, &machine(ips)).map(|ip| ip.to_string());
        assert_eq!(found(&["127.0.0.1", "10.0.0.7", "8.8.8.8"]), Ok("10.0.0.7".to_owned()));
        assert_eq!(found(&["127.0.0.1", "8.8.8.8"]), Ok("127.0.0.1".to_owned()));
        assert!(found(&["10.0.0.7", "192.168.1.1"]).expect_err("two").starts_with("Multiple"));
        let given = "127.0.0.5".parse().expect("ip");
        assert_eq!(advertise(given, &[]), Ok(given));
    }

    #[test]
    fn templates_expand_or_are_refused() {
        let machine = machine(&["10.0.0.7"]);
        let one = |text| single("bind_addr", text, &machine).map(|ip| ip.to_string());
        assert_eq!(one("{{ GetPrivateIP }}"), Ok("10.0.0.7".to_owned()));
        assert_eq!(one(r#"{{GetInterfaceIP "eth0"}}"#), Ok("10.0.0.7".to_owned()));
        assert!(one("{{ GetPublicIP }}").expect_err("other").contains("not built yet"));
        assert!(one("1.1.1.1 2.2.2.2").expect_err("two").contains("where one is needed"));
        assert!(one("nonsense").expect_err("bad").contains("not an IP address"));
        let list = several("client_addr", "127.0.0.1 {{ GetPrivateIP }} unix:///s", &machine);
        assert_eq!(list.expect("three"), ["127.0.0.1", "10.0.0.7", "unix:///s"]);
    }
}
