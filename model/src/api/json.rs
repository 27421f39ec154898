//! Writing JSON as Go's encoder does: compact, `<`, `>`, `&`, U+2028 and U+2029 escaped, bytes as
//! base64.

use std::fmt::{Display, Write as _};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// An object or array under construction, in a buffer that it shares with all others.
#[derive(Debug, Default)]
pub struct Json {
    out: Vec<u8>,
}

impl Json {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// A value made of plain bytes that are JSON already.
    pub fn raw(&mut self, json: &str) {
        self.out.extend_from_slice(json.as_bytes());
    }

    /// A string; bytes that are no UTF-8 become U+FFFD, as in Go.
    pub fn bytes_as_text(&mut self, bytes: &[u8]) {
        write_string(&mut self.out, bytes);
    }

    /// A string.
    pub fn text(&mut self, text: &str) {
        write_string(&mut self.out, text.as_bytes());
    }

    /// A number.
    pub fn number(&mut self, value: impl Into<i128>) {
        let value: i128 = value.into();
        if let Ok(small) = u64::try_from(value) {
            write_u64(&mut self.out, small);
        } else {
            self.display(value);
        }
    }

    /// `true` or `false`.
    pub fn bool(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// `null`.
    pub fn null(&mut self) {
        self.raw("null");
    }

    /// Base64, or `null` when empty: how Go prints bytes that are nil.
    pub fn base64_or_null(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.null();
        }
        self.out.push(b'"');
        write_base64(&mut self.out, bytes);
        self.out.push(b'"');
    }

    /// Any JSON value, with the keys of its objects sorted.
    pub fn value(&mut self, value: &serde_json::Value) {
        use serde_json::Value;
        match value {
            Value::Null => self.null(),
            Value::Bool(value) => self.bool(*value),
            Value::Number(number) => self.display(number),
            Value::String(text) => self.text(text),
            Value::Array(items) => self.array(items, Json::value),
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                self.object(|fields| {
                    for (key, value) in entries {
                        fields.key(key).value(value);
                    }
                });
            }
        }
    }

    /// A string of what displays without need of escapes: identifiers, durations.
    pub fn plain(&mut self, value: impl Display) {
        self.out.push(b'"');
        self.display(value);
        self.out.push(b'"');
    }

    fn display(&mut self, value: impl Display) {
        struct Bytes<'a>(&'a mut Vec<u8>);
        impl std::fmt::Write for Bytes<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        write!(Bytes(&mut self.out), "{value}").expect("writing to a vector cannot fail");
    }

    /// An object whose fields `fill` writes.
    pub fn object(&mut self, fill: impl FnOnce(&mut Fields<'_>)) {
        self.out.push(b'{');
        fill(&mut Fields { json: self, first: true });
        self.out.push(b'}');
    }

    /// An array with one value per item.
    pub fn array<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Json, T),
    ) {
        self.out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            each(self, item);
        }
        self.out.push(b']');
    }

    /// An array of strings.
    pub fn texts<T: AsRef<str>>(&mut self, items: impl IntoIterator<Item = T>) {
        self.array(items, |json, item| json.text(item.as_ref()));
    }
}

/// The fields of an object under construction.
#[derive(Debug)]
pub struct Fields<'a> {
    json: &'a mut Json,
    first: bool,
}

impl Fields<'_> {
    /// Begins a field whose name needs no escapes; its value must follow.
    pub fn name(&mut self, name: &str) -> &mut Json {
        self.comma();
        self.json.out.push(b'"');
        self.json.out.extend_from_slice(name.as_bytes());
        self.json.out.extend_from_slice(b"\":");
        self.json
    }

    /// Begins a field with any name.
    pub fn key(&mut self, name: &str) -> &mut Json {
        self.comma();
        self.json.text(name);
        self.json.out.push(b':');
        self.json
    }

    fn comma(&mut self) {
        if !std::mem::replace(&mut self.first, false) {
            self.json.out.push(b',');
        }
    }

    /// A string field.
    pub fn text(&mut self, name: &str, value: &str) {
        self.name(name).text(value);
    }

    /// A string field that is left out when empty.
    pub fn text_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.text(name, value);
        }
    }

    /// A number field.
    pub fn number(&mut self, name: &str, value: impl Into<i128>) {
        self.name(name).number(value);
    }

    /// A number field that is left out when zero.
    pub fn number_unless_zero(&mut self, name: &str, value: impl Into<i128>) {
        let value = value.into();
        if value != 0 {
            self.number(name, value);
        }
    }

    /// A truth field.
    pub fn bool(&mut self, name: &str, value: bool) {
        self.name(name).bool(value);
    }

    /// A truth field that is left out when false.
    pub fn bool_if_true(&mut self, name: &str, value: bool) {
        if value {
            self.bool(name, true);
        }
    }
}

fn write_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(value % 10).expect("a remainder of ten is below ten");
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Which bytes cannot be copied into a string as they are.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 256 {
        table[i] = i < 0x20 || i >= 0x80 || matches!(i as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        i += 1;
    }
    table
};

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let mut rest = bytes;
    loop {
        let plain = rest.iter().position(|b| SPECIAL[usize::from(*b)]).unwrap_or(rest.len());
        out.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
        let Some(byte) = rest.first() else { break };
        if *byte < 0x80 {
            write_escape(out, *byte);
            rest = &rest[1..];
        } else {
            rest = write_character(out, rest);
        }
    }
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x08 => out.extend_from_slice(b"\\b"),
        0x0c => out.extend_from_slice(b"\\f"),
        byte => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Writes the character at the front, which is not ASCII, and returns what follows it.
fn write_character<'a>(out: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        // Only what is valid up to there was looked at.
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or(""),
    };
    let Some(c) = valid.chars().next() else {
        out.extend_from_slice(b"\\ufffd");
        return &bytes[1..];
    };
    match c {
        '\u{2028}' => out.extend_from_slice(b"\\u2028"),
        '\u{2029}' => out.extend_from_slice(b"\\u2029"),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
    &bytes[c.len_utf8()..]
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| DIGITS[(bits & 63) as usize];
    out.reserve(bytes.len().div_ceil(3) * 4);
    let mut chunks = bytes.chunks_exact(3);
    for chunk in &mut chunks {
        let bits = u32::from(chunk[0]) << 16 | u32::from(chunk[1]) << 8 | u32::from(chunk[2]);
        out.extend_from_slice(&[
            digit(bits >> 18),
            digit(bits >> 12),
            digit(bits >> 6),
            digit(bits),
        ]);
    }
    match chunks.remainder() {
        [a] => {
            let bits = u32::from(*a) << 16;
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), b'=', b'=']);
        }
        [a, b] => {
            let bits = u32::from(*a) << 16 | u32::from(*b) << 8;
            out.extend_from_slice(&[digit(bits >> 18), digit(bits >> 12), digit(bits >> 6), b'=']);
        }
        _ => {}
    }
}

/// Compact JSON indented by four spaces with a final newline, as `?pretty` asks for.
pub fn indented(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 4 * depth, b' ');
    };
    for (i, byte) in compact.iter().enumerate() {
        if in_string {
            out.push(*byte);
            in_string = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(*byte);
                if !matches!(compact.get(i + 1), Some(b'}' | b']')) {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(compact[..i].last(), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(*byte);
            }
            b',' => {
                out.push(b',');
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            byte => {
                in_string = *byte == b'"';
                out.push(*byte);
            }
        }
    }
    out.push(b'\n');
    out
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    !matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::Surrogate
            | GeneralCategory::PrivateUse
            | GeneralCategory::Unassigned
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::SpaceSeparator
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> String {
        let mut json = Json::default();
        json.bytes_as_text(bytes);
        String::from_utf8(json.into_bytes()).expect("JSON is UTF-8")
    }

    #[test]
    fn strings_are_escaped_as_by_go() {
        for (bytes, text) in [
            (&b""[..], r#""""#),
            (b"plain", r#""plain""#),
            (b"a<b>&\"\\", r#""a\u003cb\u003e\u0026\"\\""#),
            (b"\n\r\t\x08\x0c\x01\x7f", "\"\\n\\r\\t\\b\\f\\u0001\x7f\""),
            ("\u{e9}\u{2028}x\u{2029}\u{1f600}".as_bytes(), "\"\u{e9}\\u2028x\\u2029\u{1f600}\""),
            (b"a\xff\xc3z", "\"a\\ufffd\\ufffdz\""),
            (b"\xe2\x80", "\"\\ufffd\\ufffd\""),
            (b"\xf0\x9f\x98\x80\xff", "\"\u{1f600}\\ufffd\""),
        ] {
            assert_eq!(written(bytes), text);
        }
    }

    #[test]
    fn bytes_become_base64_with_padding() {
        for (bytes, text) in [
            (&b""[..], "null"),
            (b"a", "\"YQ==\""),
            (b"ab", "\"YWI=\""),
            (b"abc", "\"YWJj\""),
            (b"hello", "\"aGVsbG8=\""),
            (b"\xff\xfe\xfd", "\"//79\""),
        ] {
            let mut json = Json::default();
            json.base64_or_null(bytes);
            assert_eq!(json.into_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn numbers_reach_both_ends() {
        let mut json = Json::default();
        json.array([i128::from(u64::MAX), 0, -1, i128::from(i64::MIN)], |json, n| json.number(n));
        assert_eq!(json.into_bytes(), b"[18446744073709551615,0,-1,-9223372036854775808]");
    }

    #[test]
    fn indentation_leaves_strings_and_empty_containers_alone() {
        let compact = br#"{"a":[1,2],"b":{},"c":[],"d":"x,{\"}:","e":{"f":null}}"#;
        let text = "{\n    \"a\": [\n        1,\n        2\n    ],\n    \"b\": {},\n    \"c\": [],\n    \"d\": \"x,{\\\"}:\",\n    \"e\": {\n        \"f\": null\n    }\n}\n";
        assert_eq!(String::from_utf8_lossy(&indented(compact)), text);
        assert_eq!(indented(b"true"), b"true\n");
    }
}
