//! Changing what is served, between two looks at the records: so a change and a rollout never meet half-way.

use std::sync::Arc;

use super::super::brokers::Brokers;
use super::super::recover::create_groups;
use super::super::roster::{Change, ChangeError, Order, Roster, Wanted};
use super::super::threads::Threads;
use super::super::{Command, Deployment};
use super::{Followed, Rollouts};
use crate::broker::{BrokerError, Refusal};
use crate::deploy::Version;

impl Rollouts {
    /// Makes a change that is asked for.
    pub(super) async fn obey(&mut self, order: Order, brokers: &Brokers, roster: &Roster, threads: &Threads) {
        let Order { change, answer } = order;
        let result = self.change(change, brokers, roster, threads).await;
        // Whoever asked may have gone.
        let _ = answer.send(result);
    }

    /// Everything that can fail comes first. Then versions are exchanged and the threads told; nothing waits in between.
    async fn change(
        &mut self,
        change: Change,
        brokers: &Brokers,
        roster: &Roster,
        threads: &Threads,
    ) -> Result<(), ChangeError> {
        let served = roster.now();
        let versions = change.handlers.iter().map(|wanted| self.version_of(wanted)).collect::<Result<Vec<_>, _>>()?;
        let is_other = |deployment: &&Arc<Deployment>| {
            served.member(deployment.id()).is_none_or(|member| !Arc::ptr_eq(&member.deployment, deployment))
        };
        let others: Vec<Arc<Deployment>> =
            change.handlers.iter().map(|wanted| &wanted.deployment).filter(is_other).cloned().collect();
        create_groups(brokers, others.iter()).await?;
        let is_new = |deployment: &Arc<Deployment>| served.member(deployment.id()).is_none();
        let paused = if others.iter().any(is_new) { brokers.own.paused().await? } else { Vec::new() };

        for (wanted, version) in change.handlers.iter().zip(versions) {
            if let Some(version) = version {
                match self.followed(wanted.deployment.id()) {
                    Some(followed) => followed.exchange(version),
                    None => drop(wanted.deployment.slot.swap(version)),
                }
            }
        }
        self.handlers.iter_mut().for_each(|followed| followed.is_quiet = false);
        let removed = change.removed.clone();
        roster.replace(served.after(change));
        let now = roster.now();
        for name in removed {
            self.handlers.retain(|followed| followed.deployment.id != name);
            if let Some(job) = self.job.as_mut().filter(|job| job.handler == name) {
                job.give_up();
            }
            threads.tell_all(&Command::Leave { handler: name });
        }
        let is_of = |followed: &Followed, tenant: &str, handler: &str| {
            *followed.deployment.tenant == *tenant && followed.deployment.name() == handler
        };
        self.turns.keep(|tenant, handler| self.handlers.iter().any(|followed| is_of(followed, tenant, handler)));
        for member in others.iter().filter_map(|deployment| now.member(deployment.id())) {
            if is_new(&member.deployment) {
                member.set_paused(paused.iter().any(|name| name == member.deployment.id()));
            }
            match self.followed(member.deployment.id()) {
                Some(followed) => {
                    followed.deployment = member.deployment.clone();
                    if followed.has_begun {
                        threads.serve(member);
                    }
                }
                None => self.handlers.push(Followed::new(member)),
            }
        }
        Ok(())
    }

    /// The version to exchange for the one that serves, if it is another one.
    fn version_of(&self, wanted: &Wanted) -> Result<Option<Arc<Version>>, ChangeError> {
        let (Some(version), slot) = (&wanted.version, &wanted.deployment.slot) else { return Ok(None) };
        let current = slot.current();
        let next = match slot.is_deployed() {
            false => version.clone(),
            // What was deployed stays.
            true => current.as_granted_to(&version.handler).map_err(|cause| ChangeError::Unfit {
                handler: wanted.deployment.id().to_owned(),
                digest: current.digest.clone(),
                cause,
            })?,
        };
        Ok((!Arc::ptr_eq(&next, &current)).then_some(next))
    }

    /// Has the threads begin with those that have come and have the version that is to serve.
    pub(super) fn begin(&mut self, roster: &Roster, threads: &Threads) {
        for followed in self.handlers.iter_mut().filter(|followed| followed.may_begin && !followed.has_begun) {
            followed.has_begun = true;
            if let Some(member) = roster.now().member(followed.deployment.id()) {
                threads.serve(member);
            }
        }
    }

    /// Who may not see records serves what the configuration names.
    pub(super) fn note_refusal(&mut self, error: &BrokerError) {
        if matches!(error, BrokerError::Refused { refusal: Refusal::NoPermission, .. }) {
            self.handlers.iter_mut().for_each(|followed| followed.may_begin = true);
        }
    }
}
