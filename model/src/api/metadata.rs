//! Rules for metadata of nodes and services (spec/http-api-1.md §5).

/// Pairs at most.
pub const PAIRS_MAX: usize = 64;
/// Characters of a key at most.
pub const KEY_CHARS_MAX: usize = 128;
/// Bytes of a value at most.
pub const VALUE_BYTES_MAX: usize = 512;

const RESERVED: &str = "consul-";

/// Whether keys beginning with `consul-` may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// By nobody.
    Refused,
    /// By the program itself.
    Allowed,
    /// `consul-wan-federation` alone: mesh gateways.
    MeshGateway,
}

/// Checks metadata; the error is Consul's text.
pub fn validate<'a>(
    pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    reserved: Reserved,
) -> Result<(), String> {
    if pairs.len() > PAIRS_MAX {
        return Err(format!("Node metadata cannot contain more than {PAIRS_MAX} key/value pairs"));
    }
    for (key, value) in pairs {
        validate_pair(key, value, reserved)
            .map_err(|text| format!("Couldn't load metadata pair ('{key}', '{value}'): {text}"))?;
    }
    Ok(())
}

fn validate_pair(key: &str, value: &str, reserved: Reserved) -> Result<(), String> {
    if key.is_empty() {
        return Err("Key cannot be blank".into());
    }
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err("Key contains invalid characters".into());
    }
    if key.len() > KEY_CHARS_MAX {
        return Err(format!("Key is too long (limit: {KEY_CHARS_MAX} characters)"));
    }
    let allowed = match reserved {
        Reserved::Refused => false,
        Reserved::Allowed => true,
        Reserved::MeshGateway => key == "consul-wan-federation",
    };
    if key.starts_with(RESERVED) && !allowed {
        return Err(format!("Key prefix '{RESERVED}' is reserved for internal use"));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("Value is too long (limit: {VALUE_BYTES_MAX} characters)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_consuls_texts() {
        let long_key = "k".repeat(129);
        let long_value = "v".repeat(513);
        for (key, value, text) in [
            ("", "v", "Key cannot be blank"),
            ("a.b", "v", "Key contains invalid characters"),
            (&long_key, "v", "Key is too long (limit: 128 characters)"),
            ("consul-x", "v", "Key prefix 'consul-' is reserved for internal use"),
            ("k", &long_value, "Value is too long (limit: 512 characters)"),
        ] {
            assert_eq!(
                validate([(key, value)].into_iter(), Reserved::Refused),
                Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {text}"))
            );
        }
        let many = vec![("k", "v"); 65];
        assert_eq!(
            validate(many.into_iter(), Reserved::Refused),
            Err("Node metadata cannot contain more than 64 key/value pairs".into())
        );
        let federation = [("consul-wan-federation", "1")];
        assert_eq!(validate(federation.into_iter(), Reserved::MeshGateway), Ok(()));
        assert_eq!(validate([("a-B_9", "")].into_iter(), Reserved::Refused), Ok(()));
        assert_eq!(validate([("consul-x", "")].into_iter(), Reserved::Allowed), Ok(()));
    }
}
