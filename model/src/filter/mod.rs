//! The language of `filter=`: boolean expressions over the fields that clients see
//! (spec/http-api-1.md §4).
//!
//! An expression is parsed (`parse`), checked against the type of the records (`schema`), and
//! then evaluated on rows (`record`) without building JSON.

mod eval;
mod parse;
mod record;
mod schema;

pub use eval::Filter;
pub use record::{
    CheckRecord, HealthRecord, MemberRecord, NodeRecord, Record, ServiceNodeRecord, ServiceRecord,
    Value,
};
pub use schema::{CHECK, HEALTH, Kind, MEMBER, NODE, SERVICE, SERVICE_NODE, Schema};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4 << 10;

/// Deepest nesting of parentheses and `not`.
pub const DEPTH_MAX: usize = 32;

/// Why an expression is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Not of the language.
    #[error("{line}:{column} ({offset}): no match found")]
    Syntax {
        /// Line of the furthest point that was understood, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Offset in bytes, from 0.
        offset: usize,
    },
    /// Longer than [`EXPRESSION_BYTES_MAX`].
    #[error("expression of {0} bytes is longer than {EXPRESSION_BYTES_MAX}")]
    TooLong(usize),
    /// Deeper than [`DEPTH_MAX`].
    #[error("expression is nested deeper than {DEPTH_MAX}")]
    TooDeep,
    /// No such field.
    #[error("Selector {} is not valid", crate::duration::quote(.0))]
    Selector(String),
    /// A field that does not have the operator.
    #[error(
        "Invalid match operator \"{operator}\" for selector {}", crate::duration::quote(.selector)
    )]
    Operator {
        /// Name of the operator.
        operator: &'static str,
        /// The field.
        selector: String,
    },
    /// A value that is not of its field's type.
    #[error(
        "Failed to coerce value {} for selector {}: {why}",
        crate::duration::quote(.value),
        crate::duration::quote(.selector)
    )]
    Coerce {
        /// The value.
        value: String,
        /// The field.
        selector: String,
        /// What is wrong with it.
        why: String,
    },
    /// A regular expression that cannot be compiled.
    #[error("Failed to compile regular expression {}: {why}", crate::duration::quote(.expression))]
    Regex {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        why: String,
    },
}

#[cfg(test)]
mod tests;
