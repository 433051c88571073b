//! Whether the Redis user of a tenant is what it should be.

use super::{Check, Finding, Level, Operator, OpsError};
use crate::broker::acl::{Command, UserGrants};
use crate::broker::{BrokerError, keys};

/// Examples of commands that are shown.
const SHOWN: usize = 3;

impl Operator {
    /// What is to be said of the tenant's user, if it has one; `false` with it if the user cannot work at all.
    pub(super) async fn user_findings(&self) -> Result<(Vec<Finding>, bool), OpsError> {
        let Some(user) = &self.user else { return Ok((Vec::new(), true)) };
        let name = &user.username;
        // Anything that it does itself.
        let own = keys::mark(&self.tenant.namespace.marks("doctor"), [0; 16]);
        if let Err(error @ BrokerError::Refused { .. }) = self.broker.seen(&[own]).await {
            let text = format!("{name} cannot work: {error}");
            return Ok((vec![Finding::bad(Check::User, Level::Error, text, self.how_to_set_up())], false));
        }
        let mut findings = self.rule_findings(user).await?;
        let can_work = findings.iter().all(|finding| finding.level != Level::Error);
        if findings.is_empty() {
            findings.push(Finding::ok(Check::User, format!("{name} may do what its tenant needs, and no more")));
        }
        Ok((findings, can_work))
    }

    /// In what its rules differ from those that `wasmill tenants acl` prints.
    async fn rule_findings(&self, user: &UserGrants) -> Result<Vec<Finding>, OpsError> {
        let name = &user.username;
        let needs = user.needs();
        // Keys of the workers, and one of nobody.
        let must_not = user.must_not(&[keys::WORKERS, keys::DEPLOYMENTS, "wasmill-doctor"].map(str::to_owned));
        let refused = self.broker.user_may_not(name, &needs).await?;
        let denied = self.broker.user_may_not(name, &must_not).await?;
        let (Some(refused), Some(denied)) = (refused, denied) else {
            let text =
                format!("{name} works; its rules are not looked at, since the worker's user may not (+acl|dryrun)");
            return Ok(vec![Finding::ok(Check::User, text)]);
        };
        let which = |commands: &[Command], answers: Vec<Option<String>>, refused: bool| {
            let these = commands.iter().zip(answers).filter(|(_, why)| why.is_some() == refused);
            let these: Vec<String> = these.map(|(command, _)| format!("`{}`", command.join(" "))).collect();
            let more = if these.len() > SHOWN { format!(" and {} more", these.len() - SHOWN) } else { String::new() };
            (!these.is_empty()).then(|| format!("{}{more}", these[..these.len().min(SHOWN)].join(", ")))
        };
        let mut findings = Vec::new();
        if let Some(missing) = which(&needs, refused, true) {
            let text = format!("{name} may not do what its tenant needs: {missing}");
            findings.push(Finding::bad(Check::User, Level::Error, text, self.how_to_set_up()));
        }
        if let Some(too_much) = which(&must_not, denied, false) {
            let text = format!("{name} may do more than its tenant needs: {too_much}");
            findings.push(Finding::bad(Check::User, Level::Warning, text, self.how_to_set_up()));
        }
        Ok(findings)
    }

    fn how_to_set_up(&self) -> String {
        format!("`wasmill tenants acl {}` prints the line that sets it up", self.tenant.namespace.tenant())
    }
}
