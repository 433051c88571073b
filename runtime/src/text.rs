//! Text of anybody, for logs and terminals.

/// Whether something else is done than showing the character: a terminal acts on it, it ends a line, or it turns the
/// direction of what follows.
pub fn is_acted_on(character: char) -> bool {
    let turns =
        matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let ends_a_line = matches!(character, '\u{2028}' | '\u{2029}');
    character.is_control() || turns || ends_a_line
}

/// The text with a space for each of them.
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if is_acted_on(character) { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_becomes_a_space_and_all_else_stays() {
        assert_eq!(printable("a\u{1b}[2J\n\u{9b}\u{202e}b\u{2028}c\0"), "a [2J   b c ");
        let harmless = "é 漢字 👩\u{200d}🚀 \"'\\{}<>%$`*";
        assert_eq!(printable(harmless), harmless);
    }
}
