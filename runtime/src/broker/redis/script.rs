//! The Lua scripts, each an atomic step.

use std::sync::OnceLock;

use ::redis::{Cmd, Value};

use super::super::BrokerError;
use super::link::Link;

/// A script that the server runs as one step.
#[derive(Clone, Copy)]
pub(super) enum Script {
    Settle,
    Park,
    ClaimDue,
    ClaimFrom,
    Redrive,
    RestoreDue,
    RemoveConsumer,
    Heartbeat,
    Publish,
    Replay,
    Trim,
    Lease,
    TakeIn,
    DueDelayed,
    MoveDelayed,
    StateValues,
    StateWrite,
    StateClear,
    Audit,
    /// The last one: there is room for as many.
    ChangeRecord,
}

/// What the scripts that append to streams begin with.
const APPENDING: &str = include_str!("appending.lua");
/// What the scripts that write the state of handlers begin with.
const KEEPING: &str = include_str!("keeping.lua");

/// A script as the server gets it.
struct Loaded {
    text: String,
    hash: String,
}

impl Script {
    fn source(self) -> &'static str {
        match self {
            Script::Settle => include_str!("settle.lua"),
            Script::Park => include_str!("park.lua"),
            Script::ClaimDue => include_str!("claim_due.lua"),
            Script::ClaimFrom => include_str!("claim_from.lua"),
            Script::Redrive => include_str!("redrive.lua"),
            Script::RestoreDue => include_str!("restore_due.lua"),
            Script::RemoveConsumer => include_str!("remove_consumer.lua"),
            Script::Heartbeat => include_str!("heartbeat.lua"),
            Script::Publish => include_str!("publish.lua"),
            Script::Replay => include_str!("replay.lua"),
            Script::Lease => include_str!("lease.lua"),
            Script::TakeIn => include_str!("take_in.lua"),
            Script::Trim => include_str!("trim.lua"),
            Script::DueDelayed => include_str!("due_delayed.lua"),
            Script::MoveDelayed => include_str!("move_delayed.lua"),
            Script::Audit => include_str!("audit.lua"),
            Script::ChangeRecord => include_str!("change_record.lua"),
            Script::StateValues => include_str!("state_values.lua"),
            Script::StateWrite => include_str!("state_write.lua"),
            Script::StateClear => include_str!("state_clear.lua"),
        }
    }

    /// What is put before it.
    fn preludes(self) -> &'static [&'static str] {
        use Script::{MoveDelayed, Publish, Redrive, Replay, Settle, StateClear, StateWrite, TakeIn};
        match self {
            Settle => &[APPENDING, KEEPING],
            Redrive | Publish | Replay | MoveDelayed | TakeIn => &[APPENDING],
            StateWrite | StateClear => &[KEEPING],
            _ => &[],
        }
    }

    fn loaded(self) -> &'static Loaded {
        const SCRIPTS: usize = Script::ChangeRecord as usize + 1;
        static LOADED: [OnceLock<Loaded>; SCRIPTS] = [const { OnceLock::new() }; SCRIPTS];
        LOADED[self as usize].get_or_init(|| {
            let source = self.source();
            let text = match source.split_once('\n') {
                // The first line says how the script is to be run, and must stay the first.
                Some((first, rest)) => format!("{first}\n{}{rest}", self.preludes().concat()),
                None => source.to_owned(),
            };
            let hash = ::redis::Script::new(&text).get_hash().to_owned();
            Loaded { text, hash }
        })
    }

    /// Runs the script; `arguments` adds what follows the keys. Loads it first if the server does not know it, which
    /// means that nothing ran.
    pub(super) async fn run(
        self,
        link: &Link,
        keys: &[&str],
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Value, BrokerError> {
        let mut command = ::redis::cmd("EVALSHA");
        command.arg(&self.loaded().hash).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        arguments(&mut command);
        match link.query(&command).await {
            Err(BrokerError::Refused { message, .. })
                if message.contains("NoScript") || message.contains("NOSCRIPT") =>
            {
                link.query::<String>(::redis::cmd("SCRIPT").arg("LOAD").arg(&self.loaded().text)).await?;
                link.query(&command).await
            }
            answer => answer,
        }
    }
}

/// The keys of a call, each once, and their places as Lua counts them.
#[derive(Default)]
pub(super) struct KeyTable<'a>(pub(super) Vec<&'a str>);

impl<'a> KeyTable<'a> {
    /// The place of the key. A call touches few keys: looking through them is the fast way.
    pub(super) fn index(&mut self, key: &'a str) -> usize {
        match self.0.iter().position(|&known| known == key) {
            Some(at) => at + 1,
            None => {
                self.0.push(key);
                self.0.len()
            }
        }
    }
}
