//! From text to an expression. The grammar is a PEG: each function tries its form at a place and
//! moves past it, or leaves the place alone and says no.

use super::{DEPTH_MAX, EXPRESSION_BYTES_MAX, FilterError};

/// An expression as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    Or(Vec<Parsed>),
    And(Vec<Parsed>),
    Not(Box<Parsed>),
    Match { selector: Vec<String>, operator: Operator, value: String },
}

/// What is asked of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
    IsEmpty,
    IsNotEmpty,
    Matches,
    NotMatches,
}

impl Operator {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operator::Equal => "Equal",
            Operator::NotEqual => "Not Equal",
            Operator::In => "In",
            Operator::NotIn => "Not In",
            Operator::IsEmpty => "Is Empty",
            Operator::IsNotEmpty => "Is Not Empty",
            Operator::Matches => "Matches",
            Operator::NotMatches => "Not Matches",
        }
    }

    /// Whether it says that something does not hold.
    pub(crate) fn negative(self) -> bool {
        matches!(
            self,
            Operator::NotEqual | Operator::NotIn | Operator::IsEmpty | Operator::NotMatches
        )
    }
}

/// Parses a whole expression.
pub(crate) fn parse(text: &str) -> Result<Parsed, FilterError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(FilterError::TooLong(text.len()));
    }
    let mut parser = Parser { text, at: 0, furthest: 0, depth: 0, too_deep: false };
    parser.space();
    let parsed = parser.or();
    parser.space();
    match parsed {
        Some(parsed) if parser.at == text.len() => Ok(parsed),
        _ if parser.too_deep => Err(FilterError::TooDeep),
        _ => Err(parser.error()),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    furthest: usize,
    depth: usize,
    too_deep: bool,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.furthest = self.furthest.max(self.at);
    }

    fn error(&self) -> FilterError {
        let before = &self.text[..self.furthest];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        FilterError::Syntax {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            offset: self.furthest,
        }
    }

    /// Tries a form; a form that says no has not moved.
    fn attempt<T>(&mut self, form: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let start = self.at;
        let found = form(self);
        if found.is_none() {
            self.at = start;
        }
        found
    }

    /// Any white space, perhaps none.
    fn space(&mut self) {
        let rest = self.rest();
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.advance(blank);
    }

    /// At least some white space.
    fn gap(&mut self) -> Option<()> {
        let start = self.at;
        self.space();
        if self.at > start { Some(()) } else { None }
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        if !self.rest().starts_with(word) {
            return None;
        }
        self.advance(word.len());
        Some(())
    }

    /// A word between white space.
    fn keyword(&mut self, word: &str) -> Option<()> {
        self.attempt(|parser| {
            parser.gap()?;
            parser.literal(word)?;
            parser.gap()
        })
    }

    fn or(&mut self) -> Option<Parsed> {
        self.chain("or", Self::and, Parsed::Or)
    }

    fn and(&mut self) -> Option<Parsed> {
        self.chain("and", Self::not, Parsed::And)
    }

    fn chain(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Option<Parsed>,
        join: fn(Vec<Parsed>) -> Parsed,
    ) -> Option<Parsed> {
        let first = part(self)?;
        let mut parts = vec![first];
        while let Some(next) = self.attempt(|parser| {
            parser.keyword(word)?;
            part(parser)
        }) {
            parts.push(next);
        }
        if parts.len() == 1 { parts.pop() } else { Some(join(parts)) }
    }

    fn not(&mut self) -> Option<Parsed> {
        if self.depth == DEPTH_MAX {
            self.too_deep = true;
            return None;
        }
        self.depth += 1;
        let found = self.not_inner();
        self.depth -= 1;
        found
    }

    fn not_inner(&mut self) -> Option<Parsed> {
        let negated = self.attempt(|parser| {
            parser.literal("not")?;
            parser.gap()?;
            parser.not()
        });
        if let Some(inner) = negated {
            return Some(Parsed::Not(Box::new(inner)));
        }
        if self.too_deep {
            return None;
        }
        if self.rest().starts_with('(') {
            return self.attempt(|parser| {
                parser.literal("(")?;
                parser.space();
                let inner = parser.or()?;
                parser.space();
                parser.literal(")")?;
                Some(inner)
            });
        }
        self.matching()
    }

    fn matching(&mut self) -> Option<Parsed> {
        self.attempt(Self::selector_first).or_else(|| self.attempt(Self::value_first))
    }

    fn selector_first(&mut self) -> Option<Parsed> {
        let selector = self.selector()?;
        let compared = self.attempt(|parser| {
            parser.space();
            let operator = if parser.literal("==").is_some() {
                Operator::Equal
            } else {
                parser.literal("!=")?;
                Operator::NotEqual
            };
            parser.space();
            Some((operator, parser.value()?))
        });
        let (operator, value) = compared.or_else(|| self.attempt(Self::worded_operator))?;
        Some(Parsed::Match { selector, operator, value })
    }

    fn worded_operator(&mut self) -> Option<(Operator, String)> {
        self.gap()?;
        if self.literal("is").is_some() {
            let negated = self.keyword("not").is_some();
            if !negated {
                self.gap()?;
            }
            self.literal("empty")?;
            let operator = if negated { Operator::IsNotEmpty } else { Operator::IsEmpty };
            return Some((operator, String::new()));
        }
        let negated = self
            .attempt(|parser| {
                parser.literal("not")?;
                parser.gap()
            })
            .is_some();
        let operator = if self.literal("contains").is_some() {
            if negated { Operator::NotIn } else { Operator::In }
        } else {
            self.literal("matches")?;
            if negated { Operator::NotMatches } else { Operator::Matches }
        };
        self.gap()?;
        Some((operator, self.value()?))
    }

    fn value_first(&mut self) -> Option<Parsed> {
        let value = self.value()?;
        self.gap()?;
        let negated = self
            .attempt(|parser| {
                parser.literal("not")?;
                parser.gap()
            })
            .is_some();
        self.literal("in")?;
        self.gap()?;
        let selector = self.selector()?;
        let operator = if negated { Operator::NotIn } else { Operator::In };
        Some(Parsed::Match { selector, operator, value })
    }

    fn identifier(&mut self) -> Option<String> {
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return None;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.advance(end);
        Some(rest[..end].to_owned())
    }

    fn selector(&mut self) -> Option<Vec<String>> {
        let mut path = vec![self.identifier()?];
        loop {
            let next = self.attempt(|parser| {
                if parser.literal(".").is_some() {
                    return parser.identifier();
                }
                parser.literal("[")?;
                parser.space();
                let key = parser.string()?;
                parser.space();
                parser.literal("]")?;
                Some(key)
            });
            match next {
                Some(part) => path.push(part),
                None => return Some(path),
            }
        }
    }

    fn value(&mut self) -> Option<String> {
        self.attempt(|parser| parser.selector().map(|path| path.join(".")))
            .or_else(|| self.attempt(Self::number))
            .or_else(|| self.attempt(Self::string))
    }

    fn number(&mut self) -> Option<String> {
        let rest = self.rest();
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut end = usize::from(rest.starts_with('-'));
        let whole = digits(&rest[end..]);
        if whole == 0 || (whole > 1 && rest[end..].starts_with('0')) {
            return None;
        }
        end += whole;
        if rest[end..].starts_with('.') {
            let fraction = digits(&rest[end + 1..]);
            if fraction == 0 {
                return None;
            }
            end += 1 + fraction;
        }
        let after = rest[end..].chars().next();
        if !matches!(after, None | Some(' ' | '\t' | '\r' | '\n' | ')')) {
            return None;
        }
        self.advance(end);
        Some(rest[..end].to_owned())
    }

    fn string(&mut self) -> Option<String> {
        if self.literal("`").is_some() {
            let rest = self.rest();
            let end = rest.find('`')?;
            self.advance(end + 1);
            return Some(rest[..end].to_owned());
        }
        self.literal("\"")?;
        let rest = self.rest();
        let (text, used) = unquote(rest)?;
        self.advance(used);
        Some(text)
    }
}

/// The text of a string in Go's syntax up to its closing quote, and the bytes used with it.
fn unquote(rest: &str) -> Option<(String, usize)> {
    let mut out: Vec<u8> = Vec::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((String::from_utf8_lossy(&out).into_owned(), at + 1)),
            '\n' => return None,
            '\\' => match chars.next()?.1 {
                'a' => out.push(0x07),
                'b' => out.push(0x08),
                'f' => out.push(0x0c),
                'n' => out.push(b'\n'),
                'r' => out.push(b'\r'),
                't' => out.push(b'\t'),
                'v' => out.push(0x0b),
                '\\' => out.push(b'\\'),
                '"' => out.push(b'"'),
                'x' => out.push(u8::try_from(digits(&mut chars, 2, 16, 0)?).ok()?),
                'u' => push_char(&mut out, digits(&mut chars, 4, 16, 0)?)?,
                'U' => push_char(&mut out, digits(&mut chars, 8, 16, 0)?)?,
                first @ '0'..='7' => {
                    let byte = digits(&mut chars, 2, 8, first.to_digit(8)?)?;
                    out.push(u8::try_from(byte).ok()?);
                }
                _ => return None,
            },
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    None
}

fn digits(
    chars: &mut std::str::CharIndices<'_>,
    count: u32,
    radix: u32,
    start: u32,
) -> Option<u32> {
    let mut number = start;
    for _ in 0..count {
        number = number.checked_mul(radix)?.checked_add(chars.next()?.1.to_digit(radix)?)?;
    }
    Some(number)
}

fn push_char(out: &mut Vec<u8>, code: u32) -> Option<()> {
    out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}
