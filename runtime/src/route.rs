//! Event -> handlers: which event types a handler wants. Pure.

use std::fmt;

/// The longest pattern, in bytes: far beyond any sensible event type.
pub const MAX_PATTERN_BYTES: usize = 256;

/// A compiled pattern over event types: `*` stands for any run of characters, the empty one included; everything else
/// for itself. Matching takes time linear in the length of the type and never recurses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePattern(Form);

/// The cheapest way to match a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// `*`
    Any,
    /// No star at all.
    Exact(Box<str>),
    /// One star, at the end.
    Prefix(Box<str>),
    /// Anything else: what stands before the first star, between stars (never empty), and after the last one.
    Pieces { head: Box<str>, middle: Vec<Box<str>>, tail: Box<str> },
}

/// A text cannot be a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It matches no event, since no event has an empty type.
    #[error("the pattern is empty")]
    Empty,
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("the pattern has {0} bytes, at most {MAX_PATTERN_BYTES} are allowed")]
    TooLong(usize),
    /// It has a control character, or white space at its ends: a slip, not a type.
    #[error("the pattern has a control character, or white space at an end")]
    Character,
}

impl TypePattern {
    /// Compiles a pattern. Every text has a meaning; whether it is a sensible one is for [`TypePattern::check`] to say.
    pub fn new(pattern: &str) -> TypePattern {
        let Some((head, rest)) = pattern.split_once('*') else { return TypePattern(Form::Exact(pattern.into())) };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let middle: Vec<Box<str>> = middle.split('*').filter(|piece| !piece.is_empty()).map(Box::from).collect();
        TypePattern(match (head, middle.is_empty(), tail) {
            ("", true, "") => Form::Any,
            (_, true, "") => Form::Prefix(head.into()),
            _ => Form::Pieces { head: head.into(), middle, tail: tail.into() },
        })
    }

    /// Whether a text may stand as a pattern in the configuration.
    pub fn check(pattern: &str) -> Result<(), InvalidPattern> {
        if pattern.is_empty() {
            return Err(InvalidPattern::Empty);
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(InvalidPattern::TooLong(pattern.len()));
        }
        if pattern.trim() != pattern || pattern.chars().any(char::is_control) {
            return Err(InvalidPattern::Character);
        }
        Ok(())
    }

    /// Whether an event of this type is wanted.
    pub fn matches(&self, kind: &str) -> bool {
        match &self.0 {
            Form::Any => true,
            Form::Exact(exact) => kind == &**exact,
            Form::Prefix(prefix) => kind.starts_with(&**prefix),
            Form::Pieces { head, middle, tail } => matches_pieces(kind, head, middle, tail),
        }
    }
}

/// The ends are fixed; between them the leftmost place of each piece leaves the most room for the next.
fn matches_pieces(kind: &str, head: &str, middle: &[Box<str>], tail: &str) -> bool {
    let Some(mut rest) = kind.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)) else { return false };
    for piece in middle {
        let Some(at) = rest.find(&**piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

impl fmt::Display for TypePattern {
    /// Writes the pattern; runs of stars have become one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Any => f.write_str("*"),
            Form::Exact(exact) => f.write_str(exact),
            Form::Prefix(prefix) => write!(f, "{prefix}*"),
            Form::Pieces { head, middle, tail } => {
                write!(f, "{head}*")?;
                middle.iter().try_for_each(|piece| write!(f, "{piece}*"))?;
                f.write_str(tail)
            }
        }
    }
}

/// The event types that a handler wants: those that match any of the patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(pub Vec<TypePattern>);

impl Types {
    /// Compiles patterns.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Types {
        Types(patterns.into_iter().map(|pattern| TypePattern::new(pattern.as_ref())).collect())
    }

    /// Whether an event of this type is wanted.
    pub fn matches(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(kind))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition of matching, as a table over prefixes of pattern and text.
    fn naive(pattern: &str, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let mut reachable = vec![false; text.len() + 1];
        reachable[0] = true;
        for symbol in pattern.chars() {
            let mut next = vec![false; text.len() + 1];
            for at in 0..=text.len() {
                next[at] = match symbol {
                    '*' => reachable[..=at].contains(&true),
                    _ => at > 0 && reachable[at - 1] && text[at - 1] == symbol,
                };
            }
            reachable = next;
        }
        reachable[text.len()]
    }

    #[test]
    fn patterns_match_as_documented() {
        for (pattern, wanted, unwanted) in [
            ("*", vec!["", "order_placed"], vec![]),
            ("order_placed", vec!["order_placed"], vec!["order_placed_late", "order", ""]),
            ("order_*", vec!["order_", "order_placed"], vec!["order", "reorder_placed"]),
            ("*_placed", vec!["order_placed", "_placed"], vec!["order_placed_late"]),
            ("a*a", vec!["aa", "aba"], vec!["a", "ab"]),
            ("a*b*c", vec!["abc", "a-b-b-c"], vec!["acb", "ab"]),
            ("**", vec!["", "x"], vec![]),
            ("ö*ß", vec!["öß", "ö-ß"], vec!["ö", "o-ß"]),
        ] {
            let compiled = TypePattern::new(pattern);
            wanted.iter().for_each(|kind| assert!(compiled.matches(kind), "{pattern} should match {kind:?}"));
            unwanted.iter().for_each(|kind| assert!(!compiled.matches(kind), "{pattern} should not match {kind:?}"));
        }
    }

    #[test]
    fn any_pattern_of_several_may_match_and_none_matches_nothing() {
        let types = Types::new(["order_*", "refund"]);
        assert!(types.matches("order_placed") && types.matches("refund") && !types.matches("payment"));
        assert!(!Types::default().matches("order_placed"));
    }

    #[test]
    fn slips_are_refused() {
        assert_eq!(TypePattern::check(""), Err(InvalidPattern::Empty));
        assert_eq!(TypePattern::check(&"a".repeat(256)), Ok(()));
        assert_eq!(TypePattern::check(&"a".repeat(257)), Err(InvalidPattern::TooLong(257)));
        for slip in [" order", "order ", "or\nder"] {
            assert_eq!(TypePattern::check(slip), Err(InvalidPattern::Character));
        }
    }

    #[test]
    fn hostile_patterns_take_linear_time() {
        let pattern = TypePattern::new(&"a*".repeat(128));
        let kind = "a".repeat(127) + &"b".repeat(1_000_000);
        assert!(!pattern.matches(&kind));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,12}") {
            prop_assert_eq!(TypePattern::new(&pattern).matches(&text), naive(&pattern, &text));
        }

        #[test]
        fn matching_agrees_beyond_ascii(pattern in "[aéü*]{0,6}", text in "[aéü]{0,9}") {
            prop_assert_eq!(TypePattern::new(&pattern).matches(&text), naive(&pattern, &text));
        }

        #[test]
        fn a_displayed_pattern_means_the_same(pattern in "[ab*]{0,8}") {
            let compiled = TypePattern::new(&pattern);
            prop_assert_eq!(TypePattern::new(&compiled.to_string()), compiled);
        }
    }
}
