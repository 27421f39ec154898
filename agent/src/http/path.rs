//! Raw request paths: decoding, and what makes one unclean.
//!
//! Keys are bytes, so a path is decoded exactly once and never has to be UTF-8.

use std::borrow::Cow;

/// The bytes of a path with its percent escapes decoded; `None` when an escape is malformed.
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, [u8]>> {
    if !raw.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(raw.as_bytes()));
    }
    unescape(raw.as_bytes(), false).map(Cow::Owned)
}

/// Decodes `%XX`, and `+` to a space where `plus` says so.
pub(crate) fn unescape(raw: &[u8], plus: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = hex(*rest.next()?)?;
                let low = hex(*rest.next()?)?;
                out.push(high << 4 | low);
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The cleaned path if the still encoded one is not clean: `//` is one slash, `.` and `..` are
/// resolved, a final slash is kept.
pub(crate) fn cleaned(raw: &str) -> Option<String> {
    let unclean = !raw.starts_with('/')
        || raw.contains("//")
        || raw.split('/').any(|part| part == "." || part == "..");
    if !unclean {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in raw.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut out = String::with_capacity(raw.len() + 1);
    for part in &parts {
        out.push('/');
        out.push_str(part);
    }
    if out.is_empty() || raw.ends_with('/') {
        out.push('/');
    }
    Some(out)
}

/// Whether the decoded path holds a character that Go does not print.
pub(crate) fn has_unprintable(decoded: &[u8]) -> bool {
    if decoded.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return false;
    }
    // Bytes that are no UTF-8 become U+FFFD, which Go prints: keys may hold them.
    String::from_utf8_lossy(decoded).chars().any(|c| !model::api::json::is_printable(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_once() {
        for (raw, decoded) in [
            ("/v1/kv/a", Some(&b"/v1/kv/a"[..])),
            ("/v1/kv/a%2Fb", Some(b"/v1/kv/a/b")),
            ("/v1/kv/%252F", Some(b"/v1/kv/%2F")),
            ("/v1/kv/a+b", Some(b"/v1/kv/a+b")),
            ("/v1/kv/%ff", Some(b"/v1/kv/\xff")),
            ("/v1/kv/%", None),
            ("/v1/kv/%f", None),
            ("/v1/kv/%zz", None),
        ] {
            assert_eq!(decode(raw).as_deref(), decoded, "{raw}");
        }
    }

    #[test]
    fn unclean_paths_are_cleaned_as_gos_router_does() {
        for (raw, clean) in [
            ("/v1/kv/a", None),
            ("/v1/kv/a/", None),
            ("/", None),
            ("/v1/kv/a%2F%2Fb", None),
            ("/v1/kv/...", None),
            ("/v1/kv/a//b", Some("/v1/kv/a/b")),
            ("/v1/kv/a//", Some("/v1/kv/a/")),
            ("/v1/kv/./a", Some("/v1/kv/a")),
            ("/v1/kv/a/../b", Some("/v1/kv/b")),
            ("/v1/kv/a/..", Some("/v1/kv")),
            ("/../..", Some("/")),
            ("//", Some("/")),
        ] {
            assert_eq!(cleaned(raw).as_deref(), clean, "{raw}");
        }
    }

    #[test]
    fn unprintable_characters_are_found() {
        for (path, unprintable) in [
            ("/v1/kv/plain key", false),
            ("/v1/kv/\u{1f600}é", false),
            ("/v1/kv/a\nb", true),
            ("/v1/kv/\u{7f}", true),
            ("/v1/kv/\u{a0}", true),
            ("/v1/kv/\u{200b}", true),
            ("/v1/kv/\u{2028}", true),
        ] {
            assert_eq!(has_unprintable(path.as_bytes()), unprintable, "{path:?}");
        }
        assert!(!has_unprintable(b"/v1/kv/\xff\xfe"));
    }
}
