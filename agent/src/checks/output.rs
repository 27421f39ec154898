//! How much of a check's output is kept.

/// The first `limit` bytes, ending at a character.
pub(crate) fn head(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// What a TTL check keeps of a client's words.
pub(crate) fn cut_ttl(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    format!("{} ... (captured {limit} of {} bytes)", head(text, limit), text.len())
}

/// Keeps the last bytes of a program's output.
#[derive(Debug)]
pub(crate) struct Tail {
    kept: std::collections::VecDeque<u8>,
    limit: usize,
    total: u64,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self { kept: std::collections::VecDeque::new(), limit, total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let over = (self.kept.len() + bytes.len()).saturating_sub(self.limit);
        self.kept.drain(..over);
        self.kept.extend(bytes);
    }

    /// The text, saying so when something was lost. Bytes that are no UTF-8 are replaced.
    pub(crate) fn into_text(self) -> String {
        let kept = Vec::from(self.kept);
        let text = String::from_utf8_lossy(&kept);
        if self.total > kept.len() as u64 {
            format!("Captured {} of {} bytes\n...\n{text}", kept.len(), self.total)
        } else {
            text.into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_a_character() {
        assert_eq!(head("abc", 5), "abc");
        assert_eq!(head("abcdef", 3), "abc");
        assert_eq!(head("a\u{e9}b", 2), "a");
        assert_eq!(head("\u{e9}", 0), "");
    }

    #[test]
    fn a_ttl_text_says_what_was_cut() {
        assert_eq!(cut_ttl("12345", 5), "12345");
        assert_eq!(cut_ttl("1234567890", 4), "1234 ... (captured 4 of 10 bytes)");
    }

    #[test]
    fn a_tail_keeps_the_last_bytes() {
        let mut tail = Tail::new(4);
        tail.push(b"abc");
        tail.push(b"de");
        assert_eq!(tail.into_text(), "Captured 4 of 5 bytes\n...\nbcde");
        let mut tail = Tail::new(4);
        tail.push(b"abcdefghij");
        tail.push(b"");
        assert_eq!(tail.into_text(), "Captured 4 of 10 bytes\n...\nghij");
        let mut tail = Tail::new(4);
        tail.push(b"ab");
        assert_eq!(tail.into_text(), "ab");
    }
}
