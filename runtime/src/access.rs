//! Who may do what: roles, the tokens that stand for them, and what is said of whoever asked for a change.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// What somebody may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Look.
    View,
    /// Publish, pause, redrive, drop, replay, change the state of handlers.
    Operate,
    /// Say which code runs.
    Deploy,
    /// Everything, of all tenants.
    Admin,
}

impl Role {
    /// The roles that a tenant's token can have.
    pub const OF_TENANTS: [Role; 3] = [Role::View, Role::Operate, Role::Deploy];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Role::View => "view",
            Role::Operate => "operate",
            Role::Deploy => "deploy",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whom a token lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What may be done with it.
    pub role: Role,
    /// To what; `None` for everything.
    pub tenant: Option<Arc<str>>,
}

impl Holder {
    /// May do everything.
    pub const ADMIN: Holder = Holder { role: Role::Admin, tenant: None };
}

/// The same secret stands for two: whoever has one of them would be the other, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} and {other} hold the same token: make another one, for example with `openssl rand -hex 16`")]
pub struct SameToken {
    key: String,
    other: String,
}

/// Secrets that requests must carry, as their SHA-256: of hashes nothing can be learned by how long comparing takes.
#[derive(Clone, Default)]
pub struct Tokens(HashMap<[u8; 32], (String, Holder)>);

/// Where they are from, and nothing of what they are.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.values()).finish()
    }
}

impl Tokens {
    /// Adds secrets, all or none; of each also the setting that names it, for messages. What stood for somebody else in
    /// `before` goes on doing so, and is refused as well.
    pub fn add(&mut self, secrets: Vec<(String, String, Holder)>, before: &Tokens) -> Result<(), SameToken> {
        let mut added: HashMap<[u8; 32], (String, Holder)> = HashMap::new();
        for (key, secret, holder) in secrets {
            let hash: [u8; 32] = Sha256::digest(&secret).into();
            let was_anothers = |(_, other): &&(String, Holder)| other.tenant != holder.tenant;
            let known = added.get(&hash).or_else(|| self.0.get(&hash));
            if let Some((other, _)) = known.or_else(|| before.0.get(&hash).filter(was_anothers)) {
                return Err(SameToken { key, other: other.clone() });
            }
            added.insert(hash, (key, holder));
        }
        self.0.extend(added);
        Ok(())
    }

    /// Those of everything, and of the tenants that are to stay.
    pub fn staying(&self, is_staying: impl Fn(&str) -> bool) -> Tokens {
        let known = self.0.iter().filter(|(_, (_, holder))| holder.tenant.as_deref().is_none_or(&is_staying));
        Tokens(known.map(|(hash, known)| (*hash, known.clone())).collect())
    }

    /// Whether there is none: then whoever can connect is let in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whom the secret lets in.
    pub fn holder(&self, secret: &str) -> Option<&Holder> {
        let hash: [u8; 32] = Sha256::digest(secret).into();
        self.0.get(&hash).map(|(_, holder)| holder)
    }

    /// Takes over those of a tenant from `before`, in place of its own; not what is another one's by now.
    pub fn keep_of(&mut self, tenant: &str, before: &Tokens) {
        let is_of = |holder: &Holder| holder.tenant.as_deref() == Some(tenant);
        self.0.retain(|_, (_, holder)| !is_of(holder));
        for (hash, known) in before.0.iter().filter(|(_, (_, holder))| is_of(holder)) {
            self.0.entry(*hash).or_insert_with(|| known.clone());
        }
    }
}

/// Who asked for a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actor {
    /// A program that uses this library.
    #[default]
    Program,
    /// Somebody at the command line, on the broker itself.
    Shell {
        /// The user's name, or number.
        user: String,
        /// The machine.
        host: String,
    },
    /// Somebody with a token, by the HTTP API.
    Token(Holder),
    /// Somebody by the HTTP API of a worker that asks for no token.
    Anybody,
    /// Somebody by the HTTP API whose token was none, or wrong.
    Nobody,
    /// Whoever sent SIGHUP to the worker.
    Signal,
    /// Whoever changed a file that the worker watches.
    Files,
}

impl Actor {
    /// Whether it acts on this very process, whose log is read by others than itself.
    pub fn is_logged(&self) -> bool {
        !matches!(self, Actor::Shell { .. })
    }
}

/// `KIND`, or `KIND:WHO`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::Program => f.write_str("program"),
            Actor::Shell { user, host } => write!(f, "shell:{user}@{host}"),
            Actor::Token(Holder { role, tenant: Some(tenant) }) => write!(f, "token:{role}@{tenant}"),
            Actor::Token(Holder { role, tenant: None }) => write!(f, "token:{role}"),
            Actor::Anybody => f.write_str("anybody"),
            Actor::Nobody => f.write_str("nobody"),
            Actor::Signal => f.write_str("signal"),
            Actor::Files => f.write_str("files"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(role: Role, tenant: &str) -> Holder {
        Holder { role, tenant: Some(tenant.into()) }
    }

    #[test]
    fn roles_include_those_before() {
        assert!(Role::View < Role::Operate && Role::Operate < Role::Deploy && Role::Deploy < Role::Admin);
    }

    fn add(tokens: &mut Tokens, secret: &str, tenant: &str) -> Result<(), SameToken> {
        let secret = (format!("tenants.{tenant}.tokens.view"), secret.to_owned(), holder(Role::View, tenant));
        tokens.add(vec![secret], &Tokens::default())
    }

    #[test]
    fn a_secret_stands_for_one_holder() {
        let mut tokens = Tokens::default();
        assert!(tokens.is_empty());
        let admin = ("admin.token".to_owned(), "a secret of some length".to_owned(), Holder::ADMIN);
        tokens.add(vec![admin], &Tokens::default()).unwrap();
        add(&mut tokens, "another one", "a").unwrap();
        assert_eq!(tokens.holder("a secret of some length"), Some(&Holder::ADMIN));
        assert_eq!(tokens.holder("another one"), Some(&holder(Role::View, "a")));
        assert_eq!((tokens.holder("a secret of some lengtH"), tokens.holder("")), (None, None));
        let text = add(&mut tokens, "another one", "b").unwrap_err().to_string();
        assert!(text.starts_with("tenants.b.tokens.view and tenants.a.tokens.view hold the same"), "{text}");
        let secret = |role: Role| (role.to_string(), "once".to_owned(), holder(role, "b"));
        let same = tokens.add(vec![secret(Role::View), secret(Role::Deploy)], &Tokens::default());
        assert_eq!((same.is_err(), tokens.holder("once")), (true, None), "all or none");
        assert!(!format!("{tokens:?}").contains("another one"));
    }

    #[test]
    fn nobody_takes_over_what_stands_for_another_one() {
        let (mut before, mut now) = (Tokens::default(), Tokens::default());
        add(&mut before, "bob's", "bob").unwrap();
        let taken = |tenant: &str| vec![("key".to_owned(), "bob's".to_owned(), holder(Role::View, tenant))];
        assert!(now.add(taken("acme"), &before).is_err());
        now.add(taken("bob"), &before).unwrap();
        let mut later = Tokens::default();
        later.add(taken("acme"), &before.staying(|tenant| tenant != "bob")).unwrap();
    }

    #[test]
    fn a_tenant_keeps_its_former_tokens_and_takes_nobody_elses() {
        let (mut before, mut now) = (Tokens::default(), Tokens::default());
        add(&mut before, "one", "a").unwrap();
        add(&mut now, "two", "a").unwrap();
        add(&mut now, "three", "b").unwrap();
        now.keep_of("a", &before);
        assert_eq!((now.holder("one").is_some(), now.holder("two")), (true, None));
        let mut taken = Tokens::default();
        add(&mut taken, "three", "a").unwrap();
        now.keep_of("a", &taken);
        assert_eq!(now.holder("three"), Some(&holder(Role::View, "b")), "it is another tenant's by now");
    }

    #[test]
    fn actors_have_a_text() {
        let shell = Actor::Shell { user: "ann".to_owned(), host: "desk".to_owned() };
        assert_eq!(shell.to_string(), "shell:ann@desk");
        assert_eq!(Actor::Token(holder(Role::Deploy, "acme")).to_string(), "token:deploy@acme");
        assert_eq!(Actor::Token(Holder::ADMIN).to_string(), "token:admin");
    }
}
