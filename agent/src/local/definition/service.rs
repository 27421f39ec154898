//! Services: fields, rules, and what the agent adds.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::api::input;
use model::api::metadata::{self, Reserved};
use model::duration::quote;
use model::row::{LocalityV1, NameMap, ServiceAddressV1, ServiceV1, WeightsV1};
use model::{LogIndex, Name};
use serde_json::Value;

use super::check::{Owner, RawCheck, status_of};
use super::fields::{Dialect, Field, Fields};
use super::{CheckDefinition, DefinitionError, ServiceDefinition, proxy};

const SERVICE: &[Field] = &[
    Field("ID", &["id"], &[]),
    Field("Name", &["name"], &[]),
    Field("Kind", &["kind"], &[]),
    Field("Tags", &["tags"], &[]),
    Field("Address", &["address"], &[]),
    Field("TaggedAddresses", &["tagged_addresses"], &["tagged_addresses"]),
    Field("Meta", &["meta"], &[]),
    Field("Port", &["port"], &[]),
    Field("SocketPath", &["socket_path"], &[]),
    Field("Check", &["check"], &[]),
    Field("Checks", &["checks"], &[]),
    Field("Weights", &["weights"], &[]),
    Field("Token", &["token"], &[]),
    Field("EnableTagOverride", &["enable_tag_override"], &["enable_tag_override"]),
    Field("Locality", &["locality"], &[]),
    Field("Proxy", &["proxy"], &[]),
    Field("Connect", &["connect"], &[]),
];
const ADDRESS: &[Field] = &[Field("Address", &["address"], &[]), Field("Port", &["port"], &[])];
const WEIGHTS: &[Field] =
    &[Field("Passing", &["passing"], &[]), Field("Warning", &["warning"], &[])];
const LOCALITY: &[Field] = &[Field("Region", &["region"], &[]), Field("Zone", &["zone"], &[])];

/// A service in a configuration file; the error names what is wrong in it.
pub fn parse_file_service(value: &Value) -> Result<ServiceDefinition, String> {
    let raw = Raw::read(value, Dialect::File).map_err(|text| format!("service: {text}"))?;
    let told = format!("service {:?}", raw.name);
    let token = raw.token.clone();
    let mut definition = raw.build(false).map_err(|error| format!("{told}: {error}"))?;
    definition.token = token;
    for check in &mut definition.checks {
        check.token.clone_from(&definition.token);
    }
    Ok(definition)
}

/// The body of `agent/service/register`. A token in it is ignored: the request's counts.
pub fn parse_api_service(body: &[u8]) -> Result<ServiceDefinition, DefinitionError> {
    let decode = DefinitionError::Decode;
    let value = input::first_value(body).map_err(|error| decode(error.to_string()))?;
    Raw::read(&value, Dialect::Api).map_err(decode)?.build(true)
}

/// The words of a service, not yet judged.
struct Raw {
    id: String,
    name: String,
    kind: String,
    tags: Vec<Name>,
    address: String,
    port: u16,
    socket_path: String,
    tagged_addresses: BTreeMap<Name, ServiceAddressV1>,
    meta: NameMap,
    weights: Option<(i64, i64)>,
    token: String,
    enable_tag_override: bool,
    locality: Option<LocalityV1>,
    proxy: proxy::Proxy,
    connect_native: bool,
    sidecar: bool,
    checks: Vec<RawCheck>,
}

impl Raw {
    fn read(value: &Value, dialect: Dialect) -> Result<Self, String> {
        let fields = Fields::read(value, SERVICE, dialect, "ServiceDefinition")?;
        let (connect_native, sidecar) = read_connect(&fields)?;
        Ok(Self {
            id: fields.text("ID")?,
            name: fields.text("Name")?,
            kind: fields.text("Kind")?,
            tags: fields.names("Tags")?,
            address: fields.text("Address")?,
            port: fields.port("Port")?,
            socket_path: fields.text("SocketPath")?,
            tagged_addresses: read_addresses(&fields, dialect)?,
            meta: fields.text_map("Meta")?.unwrap_or_default(),
            weights: match fields.get("Weights") {
                None => None,
                Some(value) => {
                    let weights = Fields::read(value, WEIGHTS, dialect, "Weights")?;
                    Some((weights.int("Passing")?, weights.int("Warning")?))
                }
            },
            token: fields.text("Token")?,
            enable_tag_override: fields.flag("EnableTagOverride")?,
            locality: match fields.get("Locality") {
                None => None,
                Some(value) => {
                    let locality = Fields::read(value, LOCALITY, dialect, "Locality")?;
                    let (region, zone) = (locality.text("Region")?, locality.text("Zone")?);
                    Some(LocalityV1 { region: region.into(), zone: zone.into() })
                }
            },
            proxy: proxy::Proxy::read(fields.get("Proxy"))?,
            connect_native,
            sidecar,
            checks: read_checks(&fields, dialect)?,
        })
    }

    /// Judges and completes the service, in Consul's order.
    fn build(self, api: bool) -> Result<ServiceDefinition, DefinitionError> {
        let invalid = |text: String| Err(DefinitionError::Invalid(text));
        if self.name.is_empty() {
            return invalid("Missing service name".into());
        }
        if is_unspecified(&self.address) {
            return invalid("Invalid service address".into());
        }
        let weights = match weights(self.weights) {
            Ok(weights) => weights,
            Err(text) => return invalid(format!("Invalid Weights: {text}")),
        };
        if let Err(text) = check_meta(&self.meta, &self.kind) {
            return invalid(format!("Invalid Service Meta: {text}"));
        }
        if let Some(text) = self.broken_rules() {
            return invalid(format!("Validation failed: {text}"));
        }
        let id: Name = if self.id.is_empty() { self.name.as_str() } else { &self.id }.into();
        let checks = build_checks(self.checks, &id, &self.name, api)?;
        if self.sidecar {
            return invalid(
                "Invalid SidecarService: sidecar services are not built yet in this release".into(),
            );
        }
        let mut tagged_addresses = self.tagged_addresses;
        add_tagged(&mut tagged_addresses, &self.address, self.port);
        if let Err(text) = check_families(&tagged_addresses) {
            return Err(DefinitionError::Internal(text));
        }
        let service = ServiceV1 {
            node: "".into(),
            id,
            name: self.name.into(),
            kind: self.kind.into(),
            tags: self.tags,
            address: self.address.into(),
            port: self.port,
            socket_path: self.socket_path.into(),
            tagged_addresses,
            meta: Some(self.meta),
            weights,
            enable_tag_override: self.enable_tag_override,
            proxy_json: self.proxy.into_json(),
            connect_native: self.connect_native,
            locality: self.locality,
            create_index: LogIndex::ZERO,
            modify_index: LogIndex::ZERO,
        };
        Ok(ServiceDefinition { service, checks, token: String::new() })
    }

    /// The broken rules of kinds, proxies and locality, as one text.
    fn broken_rules(&self) -> Option<String> {
        let reachable = self.port != 0 || !self.socket_path.is_empty();
        let mut broken = Vec::new();
        if self.locality.as_ref().is_some_and(|l| l.region.is_empty() && !l.zone.is_empty()) {
            broken.push("zone cannot be set without region".to_owned());
        }
        if self.connect_native && !reachable {
            broken.push("Port or SocketPath must be set for a Connect native service.".to_owned());
        }
        let place = proxy::Place {
            kind: &self.kind,
            port: self.port,
            reachable,
            connect_native: self.connect_native,
        };
        broken.extend(self.proxy.broken_rules(&place));
        match broken.as_slice() {
            [] => None,
            [one] => Some(format!("1 error occurred:\n\t* {one}\n\n")),
            many => {
                Some(format!("{} errors occurred:\n\t* {}\n\n", many.len(), many.join("\n\t* ")))
            }
        }
    }
}

fn read_connect(fields: &Fields<'_>) -> Result<(bool, bool), String> {
    let (mut native, mut sidecar) = (false, false);
    // Keys that Connect does not know are ignored in it alone. // spec: Consul, JSON input
    for (key, value) in fields.map("Connect")?.into_iter().flatten() {
        if key.eq_ignore_ascii_case("native") {
            native = value.as_bool().unwrap_or(native);
        } else if key.eq_ignore_ascii_case("sidecarservice")
            || key.eq_ignore_ascii_case("sidecar_service")
        {
            sidecar = !value.is_null();
        }
    }
    Ok((native, sidecar))
}

fn read_addresses(
    fields: &Fields<'_>,
    dialect: Dialect,
) -> Result<BTreeMap<Name, ServiceAddressV1>, String> {
    let pairs = fields.map("TaggedAddresses")?.into_iter().flatten().map(|(key, value)| {
        let address = Fields::read(value, ADDRESS, dialect, "ServiceAddress")?;
        let row = ServiceAddressV1 {
            address: address.text("Address")?.into(),
            port: address.port("Port")?,
        };
        Ok((Name::from(key.as_str()), row))
    });
    pairs.collect()
}

/// Over HTTP `Check` comes before `Checks`, in files after; an empty `Check` counts for nothing.
fn read_checks(fields: &Fields<'_>, dialect: Dialect) -> Result<Vec<RawCheck>, String> {
    let mut checks = Vec::new();
    for value in fields.list("Checks")? {
        checks.push(RawCheck::read(value, dialect, true)?);
    }
    if let Some(value) = fields.get("Check") {
        let check = RawCheck::read(value, dialect, true)?;
        match dialect {
            _ if check.is_empty() => {}
            Dialect::Api => checks.insert(0, check),
            Dialect::File => checks.push(check),
        }
    }
    Ok(checks)
}

fn build_checks(
    raw: Vec<RawCheck>,
    id: &Name,
    name: &str,
    api: bool,
) -> Result<Vec<CheckDefinition>, DefinitionError> {
    let several = raw.len() > 1;
    let bad_status = raw.iter().any(|check| status_of(&check.status).is_none());
    let mut checks = Vec::with_capacity(raw.len());
    for (i, check) in raw.into_iter().enumerate() {
        let owner = Owner { id, name, position: several.then_some(i + 1) };
        let built = check.build(Some(&owner)).map_err(|text| {
            DefinitionError::Invalid(if api { format!("Invalid check: {text}") } else { text })
        })?;
        checks.push(built);
    }
    if bad_status {
        let text = "Status for checks must 'passing', 'warning', 'critical'";
        return Err(DefinitionError::Invalid(text.into()));
    }
    Ok(checks)
}

fn is_unspecified(address: &str) -> bool {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn weights(given: Option<(i64, i64)>) -> Result<WeightsV1, &'static str> {
    let Some((passing, warning)) = given else { return Ok(WeightsV1::default()) };
    if passing < 1 {
        return Err("Passing must be greater than 0");
    }
    if warning < 0 {
        return Err("Warning must be greater or equal than 0");
    }
    match (u16::try_from(passing), u16::try_from(warning)) {
        (Ok(passing), Ok(warning)) => Ok(WeightsV1 { passing, warning }),
        _ => Err("DNS Weight must be between 0 and 65535"),
    }
}

fn check_meta(meta: &NameMap, kind: &str) -> Result<(), String> {
    let reserved = if kind == "mesh-gateway" { Reserved::MeshGateway } else { Reserved::Refused };
    metadata::validate(meta.iter().map(|(key, value)| (&**key, &**value)), reserved)
}

/// Adds the service's own address under the tags of its family, where they are absent.
fn add_tagged(tagged: &mut BTreeMap<Name, ServiceAddressV1>, address: &str, port: u16) {
    let Ok(ip) = address.parse::<IpAddr>() else { return };
    let keys = if ip.is_ipv4() { ["lan_ipv4", "wan_ipv4"] } else { ["lan_ipv6", "wan_ipv6"] };
    for key in keys {
        tagged
            .entry(key.into())
            .or_insert_with(|| ServiceAddressV1 { address: address.into(), port });
    }
}

fn check_families(tagged: &BTreeMap<Name, ServiceAddressV1>) -> Result<(), String> {
    for (key, address) in tagged {
        let ip = address.address.parse::<IpAddr>().ok();
        let family = match &**key {
            "lan_ipv4" | "wan_ipv4" if !ip.is_some_and(|ip| ip.is_ipv4()) => "ipv4",
            "lan_ipv6" | "wan_ipv6" if !ip.is_some_and(|ip| ip.is_ipv6()) => "ipv6",
            _ => continue,
        };
        return Err(format!(
            "Service tagged address {} must be a valid {family} address",
            quote(key)
        ));
    }
    Ok(())
}
