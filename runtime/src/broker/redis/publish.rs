//! Publishing: a transaction when all events go to one stream, a script otherwise.

use ::redis::{Cmd, FromRedisValue as _, Pipeline, Value};
use tokio::sync::OnceCell;

use super::super::{BrokerError, EntryId, Refusal};
use super::link::Link;
use super::script::{KeyTable, Script};
use super::{reply, settle};
use crate::outcome::{Due, Publication};

/// Whether the user may run transactions, once that is known.
pub(super) type Transactions = OnceCell<bool>;

/// Appends the events, all or none; see [`super::super::Broker::publish`].
pub(super) async fn publish(
    link: &Link,
    transactions: &Transactions,
    publications: &[Publication],
) -> Result<Vec<Option<EntryId>>, BrokerError> {
    let ids: Vec<Option<String>> = match publications {
        [first, rest @ ..]
            if !rest.is_empty()
                && publications.iter().all(|one| one.key == first.key && one.when == Due::Now)
                && *transactions.get_or_try_init(|| may_run_transactions(link)).await? =>
        {
            in_transaction(link, publications).await?
        }
        _ => Vec::from_redis_value(by_script(link, publications).await?).map_err(reply::unexpected)?,
    };
    ids.into_iter().map(|id| id.map(|id| id.parse().map_err(reply::unexpected)).transpose()).collect()
}

/// Tries an empty transaction. If only MULTI were refused, what follows it would run without one.
async fn may_run_transactions(link: &Link) -> Result<bool, BrokerError> {
    // One pipeline: nothing of another request gets between the two.
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("MULTI").cmd("EXEC");
    for reply in link.pipeline_each(&pipeline).await? {
        match reply {
            Ok(_) => {}
            Err(BrokerError::Refused { refusal: Refusal::NoPermission, .. }) => return Ok(false),
            // EXEC alone is refused: that ends the transaction, too.
            Err(BrokerError::Refused { message, .. }) if message.contains("Transaction discarded") => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Costs the server half of what the script costs, which hands every field to Lua and back. What Redis refuses for
/// memory, for permissions or because it is a replica it refuses while it queues, and with it the whole transaction. A
/// key of another type takes none of the entries. A stream that somebody has brought to within a few entries of the
/// greatest id of all could take some and not the others; it can take no more events anyhow.
async fn in_transaction(link: &Link, publications: &[Publication]) -> Result<Vec<Option<String>>, BrokerError> {
    let mut pipeline = Pipeline::with_capacity(publications.len());
    pipeline.atomic();
    for publication in publications {
        let mut command = ::redis::cmd("XADD");
        command.arg(&*publication.key).arg("*");
        publication.encode(|name, value| {
            command.arg(name).arg(value);
        });
        pipeline.add_command(command);
    }
    link.pipeline(&pipeline).await
}

async fn by_script(link: &Link, publications: &[Publication]) -> Result<Value, BrokerError> {
    let mut keys = KeyTable::default();
    for publication in publications {
        keys.index(settle::key_of(publication));
    }
    let table = keys.0.clone();
    let write = |command: &mut Cmd| {
        publications.iter().for_each(|publication| settle::write_publication(command, publication, &mut keys));
    };
    Script::Publish.run(link, &table, write).await
}
