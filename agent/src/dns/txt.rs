//! TXT records from a node's metadata.

/// Character-strings of one metadata pair (RFC 1464). A key that begins with `rfc1035-` gives its
/// value alone.
pub(crate) fn strings(key: &str, value: &str) -> Box<[u8]> {
    if key.get(..8).is_some_and(|head| head.eq_ignore_ascii_case("rfc1035-")) {
        return character_strings(value.as_bytes());
    }
    character_strings(encode(key, value).as_bytes())
}

/// `key=value`. In the key, backquotes are doubled, and an equals sign and each space at its ends
/// get a backquote before them; in the value backquotes are doubled (RFC 1464).
fn encode(key: &str, value: &str) -> String {
    let mut text = String::with_capacity(key.len() + value.len() + 1);
    let leading = key.len() - key.trim_start_matches(' ').len();
    let trailing = key.trim_end_matches(' ').len();
    for (at, c) in key.char_indices() {
        if matches!(c, '`' | '=') || c == ' ' && (at < leading || at >= trailing) {
            text.push('`');
        }
        text.push(c);
    }
    text.push('=');
    for c in value.chars() {
        if c == '`' {
            text.push('`');
        }
        text.push(c);
    }
    text
}

/// Split into pieces of at most 255 bytes, each led by its length; empty text is one empty piece
/// (RFC 1035 §3.3.14).
fn character_strings(text: &[u8]) -> Box<[u8]> {
    if text.is_empty() {
        return Box::from([0]);
    }
    let mut strings = Vec::with_capacity(text.len() + text.len() / 255 + 1);
    for piece in text.chunks(255) {
        strings.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
        strings.extend_from_slice(piece);
    }
    strings.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: Consul DNS, TXT from node metadata.
    #[test]
    fn keys_and_values_are_escaped() {
        for (key, value, text) in [
            ("a=a", "true", "a`=a=true"),
            ("=", "\\=", "`==\\="),
            ("string2", "`abc`", "string2=``abc``"),
            ("abc ", "123 ", "abc` =123 "),
            (" abc", " 321", "` abc= 321"),
            ("a b", "c d", "a b=c d"),
            ("  ", "", "` ` ="),
        ] {
            assert_eq!(encode(key, value), text, "{key}");
        }
    }

    #[test]
    fn a_value_alone_and_long_texts() {
        assert_eq!(&*strings("RFC1035-x", "v=1"), b"\x03v=1");
        assert_eq!(&*strings("rfc1035-", ""), b"\0");
        let long = strings("rfc1035-long", &"x".repeat(300));
        assert_eq!(long.len(), 302);
        assert_eq!((long[0], long[256]), (255, 45));
    }
}
