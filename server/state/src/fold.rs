//! Case folding: names of nodes, services and ids are unique without regard to case
//! (spec: Consul's catalog tables are keyed by lower-case names).

use model::Name;

/// The name as a key. Shares the allocation when it is in lower case already.
pub(crate) fn fold(name: &Name) -> Name {
    if is_folded(name) { Name::clone(name) } else { name.to_lowercase().into() }
}

/// The same for a text that is not yet shared.
pub(crate) fn fold_str(text: &str) -> Name {
    if is_folded(text) { text.into() } else { text.to_lowercase().into() }
}

/// Whether two texts are equal without regard to case.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a == b || a.eq_ignore_ascii_case(b) || (!a.is_ascii() && a.to_lowercase() == b.to_lowercase())
}

fn is_folded(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase())
}

/// The empty name: sorts before every other.
pub(crate) fn empty() -> Name {
    Name::default()
}
