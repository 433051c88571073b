//! The order of versions.

use std::cmp::Ordering;

/// Compares versions as people do: numbers by value (1 < 2 < 10, 1.9 < 1.10, v2 < v10), a pre-release before its release
/// (2.0.0-rc1 < 2.0.0). A total order: two different texts are never equal.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (a_release, a_pre) = parts(a);
    let (b_release, b_pre) = parts(b);
    natural(a_release, b_release)
        .then_with(|| match (a_pre, b_pre) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => natural(a, b),
        })
        .then_with(|| a.cmp(b))
}

/// A version before and after its first `-`.
fn parts(version: &str) -> (&str, Option<&str>) {
    version.split_once('-').map_or((version, None), |(release, pre)| (release, Some(pre)))
}

/// Compares runs of digits by value and everything else by its bytes.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    loop {
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let (a_run, a_rest) = run(a);
        let (b_run, b_rest) = run(b);
        let by_value = |run: &str| {
            let digits = run.trim_start_matches('0');
            (digits.len(), digits.to_owned())
        };
        let is_number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = match (is_number(a_run), is_number(b_run)) {
            (true, true) => by_value(a_run).cmp(&by_value(b_run)),
            _ => a_run.cmp(b_run),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

/// The longest beginning that is all digits or has none, and the rest. Not empty if the text is not.
fn run(text: &str) -> (&str, &str) {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_in_the_order_of_people() {
        let ascending =
            ["0.9", "1", "1.2", "1.10", "2.0.0-alpha", "2.0.0-rc2", "2.0.0-rc10", "2.0.0", "10", "v1", "v2", "v10"];
        for (at, version) in ascending.iter().enumerate() {
            for (other_at, other) in ascending.iter().enumerate() {
                assert_eq!(compare_versions(version, other), at.cmp(&other_at), "{version} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in "[0-9a.-]{0,6}", b in "[0-9a.-]{0,6}", c in "[0-9a.-]{0,6}") {
            prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            prop_assert_eq!(compare_versions(&a, &b).is_eq(), a == b);
            let mut sorted = [&a, &b, &c];
            sorted.sort_by(|a, b| compare_versions(a, b));
            prop_assert!(compare_versions(sorted[0], sorted[2]).is_le());
        }

        #[test]
        fn numbers_of_any_length_go_by_value(a: u128, b: u128) {
            prop_assert_eq!(compare_versions(&a.to_string(), &b.to_string()), a.cmp(&b));
        }
    }
}
