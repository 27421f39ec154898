//! What can be selected: the types of the records, by endpoint (spec/http-api-1.md §4.4).

/// Type of a field.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// An integer.
    Int,
    /// A truth.
    Bool,
    /// A list of strings.
    Texts,
    /// A map from strings.
    Map(&'static Kind),
    /// An object.
    Struct(&'static Schema),
    /// A list of objects.
    Structs(&'static Schema),
}

/// The fields of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Schema(pub &'static [(&'static str, Kind)]);

impl Schema {
    /// Type of a field.
    pub fn kind(&self, name: &str) -> Option<&'static Kind> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, kind)| kind)
    }
}

const TEXT_MAP: Kind = Kind::Map(&Kind::Text);

static ADDRESS: Schema = Schema(&[("Address", Kind::Text), ("Port", Kind::Int)]);
static WEIGHTS: Schema = Schema(&[("Passing", Kind::Int), ("Warning", Kind::Int)]);
static CONNECT: Schema = Schema(&[("Native", Kind::Bool)]);
static MODE: Schema = Schema(&[("Mode", Kind::Text)]);

static UPSTREAM: Schema = Schema(&[
    ("DestinationType", Kind::Text),
    ("DestinationNamespace", Kind::Text),
    ("DestinationPartition", Kind::Text),
    ("DestinationPeer", Kind::Text),
    ("DestinationName", Kind::Text),
    ("Datacenter", Kind::Text),
    ("LocalBindAddress", Kind::Text),
    ("LocalBindPort", Kind::Int),
    ("LocalBindSocketPath", Kind::Text),
    ("LocalBindSocketMode", Kind::Text),
    ("MeshGateway", Kind::Struct(&MODE)),
]);

static EXPOSE: Schema = Schema(&[("Checks", Kind::Bool), ("Paths", Kind::Structs(&EXPOSE_PATH))]);

static EXPOSE_PATH: Schema = Schema(&[
    ("ListenerPort", Kind::Int),
    ("Path", Kind::Text),
    ("LocalPathPort", Kind::Int),
    ("Protocol", Kind::Text),
    ("ParsedFromCheck", Kind::Bool),
]);

static TRANSPARENT_PROXY: Schema =
    Schema(&[("OutboundListenerPort", Kind::Int), ("DialedDirectly", Kind::Bool)]);

static ACCESS_LOGS: Schema = Schema(&[
    ("Enabled", Kind::Bool),
    ("DisableListenerLogs", Kind::Bool),
    ("Type", Kind::Text),
    ("Path", Kind::Text),
    ("JSONFormat", Kind::Text),
    ("TextFormat", Kind::Text),
]);

static PROXY: Schema = Schema(&[
    ("DestinationServiceName", Kind::Text),
    ("DestinationServiceID", Kind::Text),
    ("LocalServiceAddress", Kind::Text),
    ("LocalServicePort", Kind::Int),
    ("LocalServiceSocketPath", Kind::Text),
    ("Mode", Kind::Text),
    ("Upstreams", Kind::Structs(&UPSTREAM)),
    ("MeshGateway", Kind::Struct(&MODE)),
    ("Expose", Kind::Struct(&EXPOSE)),
    ("TransparentProxy", Kind::Struct(&TRANSPARENT_PROXY)),
    ("AccessLogs", Kind::Struct(&ACCESS_LOGS)),
]);

/// `catalog/nodes`.
pub static NODE: Schema = Schema(&[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("PeerName", Kind::Text),
    ("Partition", Kind::Text),
    ("TaggedAddresses", TEXT_MAP),
    ("Meta", TEXT_MAP),
]);

/// `catalog/node`, `catalog/node-services`, `agent/services`.
pub static SERVICE: Schema = Schema(&[
    ("Kind", Kind::Text),
    ("ID", Kind::Text),
    ("Service", Kind::Text),
    ("Tags", Kind::Texts),
    ("Address", Kind::Text),
    ("TaggedAddresses", Kind::Map(&Kind::Struct(&ADDRESS))),
    ("Meta", TEXT_MAP),
    ("Port", Kind::Int),
    ("SocketPath", Kind::Text),
    ("Weights", Kind::Struct(&WEIGHTS)),
    ("EnableTagOverride", Kind::Bool),
    ("Proxy", Kind::Struct(&PROXY)),
    ("Connect", Kind::Struct(&CONNECT)),
    ("PeerName", Kind::Text),
]);

/// `catalog/service`, `catalog/connect`, `catalog/services`.
pub static SERVICE_NODE: Schema = Schema(&[
    ("ID", Kind::Text),
    ("Node", Kind::Text),
    ("Address", Kind::Text),
    ("Datacenter", Kind::Text),
    ("TaggedAddresses", TEXT_MAP),
    ("NodeMeta", TEXT_MAP),
    ("ServiceKind", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("ServiceAddress", Kind::Text),
    ("ServiceTaggedAddresses", Kind::Map(&Kind::Struct(&ADDRESS))),
    ("ServiceWeights", Kind::Struct(&WEIGHTS)),
    ("ServiceMeta", TEXT_MAP),
    ("ServicePort", Kind::Int),
    ("ServiceSocketPath", Kind::Text),
    ("ServiceEnableTagOverride", Kind::Bool),
    ("ServiceProxy", Kind::Struct(&PROXY)),
    ("ServiceConnect", Kind::Struct(&CONNECT)),
    ("PeerName", Kind::Text),
]);

/// `health/node`, `health/checks`, `health/state`, `agent/checks`.
pub static CHECK: Schema = Schema(&[
    ("Node", Kind::Text),
    ("CheckID", Kind::Text),
    ("Name", Kind::Text),
    ("Status", Kind::Text),
    ("Notes", Kind::Text),
    ("Output", Kind::Text),
    ("ServiceID", Kind::Text),
    ("ServiceName", Kind::Text),
    ("ServiceTags", Kind::Texts),
    ("Type", Kind::Text),
    ("Interval", Kind::Text),
    ("Timeout", Kind::Text),
    ("ExposedPort", Kind::Int),
    ("PeerName", Kind::Text),
]);

/// `health/service`, `health/connect`.
pub static HEALTH: Schema = Schema(&[
    ("Node", Kind::Struct(&NODE)),
    ("Service", Kind::Struct(&SERVICE)),
    ("Checks", Kind::Structs(&CHECK)),
]);

/// `agent/members`.
pub static MEMBER: Schema = Schema(&[
    ("Name", Kind::Text),
    ("Addr", Kind::Text),
    ("Port", Kind::Int),
    ("Tags", TEXT_MAP),
    ("Status", Kind::Int),
    ("ProtocolMin", Kind::Int),
    ("ProtocolMax", Kind::Int),
    ("ProtocolCur", Kind::Int),
    ("DelegateMin", Kind::Int),
    ("DelegateMax", Kind::Int),
    ("DelegateCur", Kind::Int),
]);
