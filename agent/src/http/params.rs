//! Parameters of the query string.

use std::borrow::Cow;

use super::path::unescape;

/// Parameters a request may have; more are refused like an undecodable query.
const PARAMS_MAX: usize = 1_024;

/// Decoded parameters in the order given. Values are bytes: separators of keys need not be UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(Vec<u8>, Vec<u8>)>);

/// The query string cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecodable;

impl Params {
    /// Splits at `&` and `=`; `;` and malformed escapes are refused, as by Go.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, Undecodable> {
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(Self::default());
        };
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') || pairs.len() == PARAMS_MAX {
                return Err(Undecodable);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = unescape(name.as_bytes(), true).ok_or(Undecodable)?;
            let value = unescape(value.as_bytes(), true).ok_or(Undecodable)?;
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// Whether the parameter was given, with whatever value: how Consul reads its flags.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given == name.as_bytes())
    }

    /// Bytes of its first value.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(given, _)| given == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// Its first value as text; empty when it was not given.
    pub fn text(&self, name: &str) -> Cow<'_, str> {
        self.bytes(name).map_or(Cow::Borrowed(""), String::from_utf8_lossy)
    }

    /// All its values as texts.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.0
            .iter()
            .filter(move |(given, _)| given == name.as_bytes())
            .map(|(_, value)| String::from_utf8_lossy(value))
    }

    /// All parameters sorted by name and escaped again, as Go prints them.
    pub fn sorted_query(&self) -> String {
        let mut pairs: Vec<_> = self.0.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = String::new();
        for (name, value) in pairs {
            if !out.is_empty() {
                out.push('&');
            }
            escape(&mut out, name);
            out.push('=');
            escape(&mut out, value);
        }
        out
    }
}

/// Go's `url.QueryEscape`.
fn escape(out: &mut String, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(*byte));
            }
            b' ' => out.push('+'),
            byte => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_flags_count_by_presence() {
        let params =
            Params::parse(Some("stale&tag=a+b&tag=%25&wait=1s&empty=&&x=a=b")).expect("decodable");
        assert!(params.has("stale") && params.has("empty") && !params.has("index"));
        assert_eq!(params.text("wait"), "1s");
        assert_eq!(params.text("none"), "");
        assert_eq!(params.text("x"), "a=b");
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["a b", "%"]);
    }

    #[test]
    fn undecodable_queries_are_refused() {
        for query in ["a=%", "a=%zz", "%f=1", "a;b"] {
            assert_eq!(Params::parse(Some(query)), Err(Undecodable), "{query}");
        }
        let many = "a&".repeat(PARAMS_MAX + 1);
        assert_eq!(Params::parse(Some(&many)), Err(Undecodable));
    }

    #[test]
    fn a_query_is_printed_sorted_and_escaped() {
        let params = Params::parse(Some("cas=0&acquire=x%20/y")).expect("decodable");
        assert_eq!(params.sorted_query(), "acquire=x+%2Fy&cas=0");
    }
}
