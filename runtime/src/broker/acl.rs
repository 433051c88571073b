//! What the Redis user of a tenant may do: the line that sets it up, and what tells whether it is set up so.

use std::fmt;

/// What a user does with the keys of its tenant, each with an example; `KEY` stands for a key. In the order in which the
/// line names them.
const OWN: &[(&str, &[&str])] = &[
    ("evalsha", &["EVALSHA", "0", "1", "KEY"]),
    ("script|load", &["SCRIPT", "LOAD", "return 1"]),
    ("multi", &["MULTI"]),
    ("exec", &["EXEC"]),
    ("time", &["TIME"]),
    ("type", &["TYPE", "KEY"]),
    ("exists", &["EXISTS", "KEY"]),
    ("set", &["SET", "KEY", "1", "PX", "1"]),
    ("xadd", &["XADD", "KEY", "*", "f", "v"]),
    ("xack", &["XACK", "KEY", "g", "0-1"]),
    ("xreadgroup", &["XREADGROUP", "GROUP", "g", "c", "STREAMS", "KEY", ">"]),
    ("xclaim", &["XCLAIM", "KEY", "g", "c", "0", "0-1"]),
    ("xpending", &["XPENDING", "KEY", "g", "-", "+", "1"]),
    ("xrange", &["XRANGE", "KEY", "-", "+"]),
    ("xrevrange", &["XREVRANGE", "KEY", "+", "-"]),
    ("xlen", &["XLEN", "KEY"]),
    ("xtrim", &["XTRIM", "KEY", "MINID", "0-1"]),
    ("xdel", &["XDEL", "KEY", "0-1"]),
    ("xinfo|stream", &["XINFO", "STREAM", "KEY"]),
    ("xinfo|groups", &["XINFO", "GROUPS", "KEY"]),
    ("xgroup|create", &["XGROUP", "CREATE", "KEY", "g", "0", "MKSTREAM"]),
    ("xgroup|delconsumer", &["XGROUP", "DELCONSUMER", "KEY", "g", "c"]),
    ("zadd", &["ZADD", "KEY", "1", "m"]),
    ("zrange", &["ZRANGE", "KEY", "0", "0"]),
    ("zrem", &["ZREM", "KEY", "m"]),
    ("zscore", &["ZSCORE", "KEY", "m"]),
    ("hget", &["HGET", "KEY", "f"]),
    ("hset", &["HSET", "KEY", "f", "v"]),
    ("hdel", &["HDEL", "KEY", "f"]),
    ("hlen", &["HLEN", "KEY"]),
    ("hexists", &["HEXISTS", "KEY", "f"]),
    ("hstrlen", &["HSTRLEN", "KEY", "f"]),
    ("hkeys", &["HKEYS", "KEY"]),
    ("hvals", &["HVALS", "KEY"]),
    ("hgetall", &["HGETALL", "KEY"]),
    ("unlink", &["UNLINK", "KEY"]),
    ("memory|usage", &["MEMORY", "USAGE", "KEY"]),
];

/// What it does with a stream of another tenant that it may publish to.
const PUBLISHES: &[&str] = &["xadd", "type"];

/// What it does with a stream of another tenant that it may read. It reads through groups of its own, which are part of the
/// stream.
const READS: &[&str] = &[
    "type",
    "xreadgroup",
    "xack",
    "xclaim",
    "xpending",
    "xrange",
    "xinfo|stream",
    "xinfo|groups",
    "xgroup|create",
    "xgroup|delconsumer",
];

/// What no tenant's user needs and what would be worth having for somebody who has broken in; examples.
const DENIED: &[&[&str]] = &[
    &["KEYS", "*"],
    &["SCAN", "0"],
    &["FLUSHALL"],
    &["CONFIG", "GET", "*"],
    &["ACL", "LIST"],
    &["CLIENT", "LIST"],
    &["MONITOR"],
    &["SWAPDB", "0", "1"],
    &["PUBLISH", "wasmill:intake:doctor", "m"],
    &["SUBSCRIBE", "wasmill:intake:doctor"],
];

/// A command of an example, word by word.
pub type Command = Vec<String>;

/// What the user of a tenant is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserGrants {
    /// Its name.
    pub username: String,
    /// What all keys of the tenant begin with.
    pub prefix: String,
    /// The keys of streams of other tenants that it may publish to.
    pub publishes: Vec<String>,
    /// The keys of streams of other tenants that it may read.
    pub reads: Vec<String>,
    /// The number of the database; all but 0 need another permission.
    pub database: i64,
}

impl UserGrants {
    /// The arguments of `ACL SETUSER`, the name of the user first. `password` is the rule for it, such as `>PASSWORD`.
    pub fn arguments(&self, password: &str) -> Vec<String> {
        let own = format!("~{}*", escaped(&self.prefix));
        let mut arguments: Vec<String> =
            [&self.username, "reset", "on", password, "resetchannels", &own].map(str::to_owned).into();
        arguments.extend(OWN.iter().map(|(command, _)| format!("+{command}")));
        if self.database != 0 {
            arguments.push("+select".to_owned());
        }
        let foreign = |keys: &[String]| keys.iter().map(|key| format!(" ~{}", escaped(key))).collect::<String>();
        let (published, read) = (foreign(&self.publishes), foreign(&self.reads));
        // Redis wants one rule that allows a script all its keys; what the script does is looked at command by command.
        if !published.is_empty() || !read.is_empty() {
            arguments.push(format!("(+evalsha {own}{read}{published})"));
        }
        for (commands, keys) in [(READS, read), (PUBLISHES, published)] {
            if !keys.is_empty() {
                arguments.push(format!("(+{}{keys})", commands.join(" +")));
            }
        }
        arguments
    }

    /// Examples of what it must be allowed.
    pub fn needs(&self) -> Vec<Command> {
        let own = format!("{}wasmill:doctor", self.prefix);
        let mut needs: Vec<Command> = OWN.iter().map(|(_, words)| example(words, &own)).collect();
        if self.database != 0 {
            needs.push(vec!["SELECT".to_owned(), self.database.to_string()]);
        }
        for (commands, keys) in [(READS, &self.reads), (PUBLISHES, &self.publishes)] {
            let used = OWN.iter().filter(|(command, _)| commands.contains(command));
            let used: Vec<_> = used.chain(OWN.first()).collect();
            needs.extend(keys.iter().flat_map(|key| used.iter().map(|(_, words)| example(words, key))));
        }
        needs
    }

    /// Examples of what it must not be allowed. `others`: keys of other tenants and of wasmill, those that it has been
    /// granted are left out.
    pub fn must_not(&self, others: &[String]) -> Vec<Command> {
        let is_foreign = |key: &&String| {
            !key.starts_with(&self.prefix) && !self.reads.contains(key) && !self.publishes.contains(key)
        };
        let keyed =
            |key| OWN.iter().filter(|(_, words)| words.contains(&"KEY")).map(move |(_, words)| example(words, key));
        let denied = DENIED.iter().map(|words| example(words, ""));
        denied.chain(others.iter().filter(is_foreign).flat_map(|key| keyed(key))).collect()
    }
}

/// The line for `redis-cli`, with `PASSWORD` in the place of the password.
impl fmt::Display for UserGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ACL SETUSER")?;
        for argument in self.arguments(">PASSWORD") {
            write!(f, " {}", quoted(&argument))?;
        }
        Ok(())
    }
}

fn example(words: &[&str], key: &str) -> Command {
    words.iter().map(|&word| if word == "KEY" { key } else { word }.to_owned()).collect()
}

/// A pattern that this name alone fits; but for blanks, parentheses and quotes, which no pattern may have everywhere: there
/// any character fits.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '*' | '?' | '[' | ']' | '^' | '\\' => pattern.extend(['\\', character]),
            // Parentheses would end the rule that the pattern stands in, and quotes mean something there.
            '(' | ')' | '"' | '\'' => pattern.push('?'),
            _ if character.is_whitespace() => pattern.push('?'),
            _ => pattern.push(character),
        }
    }
    pattern
}

/// As `redis-cli` reads it.
fn quoted(argument: &str) -> String {
    match argument.contains('\\') {
        true => format!("\"{}\"", argument.replace('\\', "\\\\")),
        false => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acme() -> UserGrants {
        UserGrants { username: "wasmill-acme".into(), prefix: "acme:".into(), ..UserGrants::default() }
    }

    #[test]
    fn the_line_names_the_keys_and_commands_and_nothing_more() {
        let line = acme().to_string();
        assert!(
            line.starts_with("ACL SETUSER wasmill-acme reset on >PASSWORD resetchannels ~acme:* +evalsha "),
            "{line}"
        );
        for word in ["+@", "allkeys", "~*", "+scan", "+keys", "+select", "("] {
            assert!(!line.contains(word), "{line}: {word}");
        }
        assert!(UserGrants { database: 2, ..acme() }.to_string().contains(" +select"));
    }

    #[test]
    fn streams_of_others_have_rules_of_their_own() {
        let grants = UserGrants { reads: vec!["shop:orders".into()], publishes: vec!["crm:in".into()], ..acme() };
        let arguments = grants.arguments(">p");
        let rules: Vec<&String> = arguments.iter().filter(|argument| argument.starts_with('(')).collect();
        assert_eq!(rules[0], "(+evalsha ~acme:* ~shop:orders ~crm:in)");
        assert!(rules[1].starts_with("(+type +xreadgroup ") && rules[1].ends_with(" ~shop:orders)"), "{}", rules[1]);
        assert_eq!(rules[2], "(+xadd +type ~crm:in)");
        let denied = grants.must_not(&["crm:in".into(), "crm:out".into(), "acme:x".into()]);
        assert!(denied.iter().any(|words| words.contains(&"crm:out".to_owned())));
        assert!(!denied.iter().flatten().any(|word| word == "crm:in" || word == "acme:x"));
    }

    #[test]
    fn names_are_no_patterns() {
        assert_eq!(escaped("a*b?[c]^d\\-e"), "a\\*b\\?\\[c\\]\\^d\\\\-e");
        assert_eq!(escaped("a b(c)\"'"), "a?b?c???");
        assert_eq!(quoted("~a\\*"), "\"~a\\\\*\"");
    }
}
