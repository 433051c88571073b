//! The ways on which decisions are written: one for each tenant with a Redis user of its own, two for all others, so that a
//! handler with little to do waits for no pile of decisions. What is slow or refused on one of them holds up no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::super::batch::{Batch, Note, Ticket, Weight};
use super::super::brokers::Brokers;
use super::super::lane::Lane;
use super::super::run::Delivery;
use super::super::{Deployment, MAX_SETTLES};
use super::agenda::Waiting;
use crate::broker::Broker;
use crate::outcome::{Decision, Settlement};

/// All ways of a thread.
pub(super) struct Ways {
    brokers: Brokers,
    ways: Slab<Way>,
    /// Those of tenants with a user, by tenant. Those of all others are the first ones, [`COMMON`] and [`EXPRESS`].
    of_tenants: HashMap<Arc<str>, usize>,
    /// Those with decisions that have not been sent, in no order.
    filled: Vec<usize>,
    /// Batches on their way, without those that only repeat what was refused.
    settles: usize,
}

/// The way of all tenants without a user.
const COMMON: usize = 0;
/// The way of the same tenants for decisions that are not to wait.
const EXPRESS: usize = 1;

struct Way {
    broker: Arc<dyn Broker>,
    tenant: Option<Arc<str>>,
    /// Lanes whose decisions go here.
    lanes: usize,
    batch: Batch,
    settles: usize,
    /// Lanes that could begin a delivery if there were room for its decision.
    held_back: Waiting,
}

/// Decisions to be sent.
pub(super) struct Load {
    pub(super) way: usize,
    pub(super) settlements: Vec<Settlement>,
    pub(super) notes: Vec<Note>,
}

impl Way {
    fn new(broker: Arc<dyn Broker>, tenant: Option<Arc<str>>) -> Way {
        Way { broker, tenant, lanes: 0, batch: Batch::default(), settles: 0, held_back: Waiting::default() }
    }
}

impl Ways {
    pub(super) fn new(brokers: Brokers) -> Ways {
        let ways = [COMMON, EXPRESS].map(|at| (at, Way::new(brokers.own.clone(), None))).into_iter().collect();
        Ways { brokers, ways, of_tenants: HashMap::new(), filled: Vec::new(), settles: 0 }
    }

    /// The way of a handler, for a lane of it.
    pub(super) fn enter(&mut self, deployment: &Deployment) -> usize {
        let at = match &deployment.login {
            None => COMMON,
            Some(login) => {
                // If it logs in otherwise than before, this tells the broker that all share.
                let broker = self.brokers.of(Some(login));
                let ways = &mut self.ways;
                *self
                    .of_tenants
                    .entry(login.tenant.clone())
                    .or_insert_with(|| ways.insert(Way::new(broker, Some(login.tenant.clone()))))
            }
        };
        self.ways[at].lanes += 1;
        at
    }

    /// One lane less.
    pub(super) fn leave(&mut self, at: usize) {
        self.ways[at].lanes -= 1;
        self.let_go(at);
    }

    fn let_go(&mut self, at: usize) {
        let way = &self.ways[at];
        if way.tenant.is_some() && way.lanes == 0 && way.settles == 0 && way.batch.is_empty() {
            let way = self.ways.remove(at);
            if let Some(tenant) = way.tenant {
                self.of_tenants.remove(&tenant);
            }
        }
    }

    /// By which broker things are done there.
    pub(super) fn broker(&self, at: usize) -> &Arc<dyn Broker> {
        &self.ways[at].broker
    }

    /// The way of the lane's next decision. One that is not to wait goes ahead of others, if decisions of the lane may overtake
    /// each other.
    pub(super) fn next_of(&self, lane: &Lane, is_prompt: bool) -> usize {
        if lane.way == COMMON && is_prompt && lane.may_overtake() { EXPRESS } else { lane.way }
    }

    /// Adds a decision of a lane, and whether it is not to wait for others; `delivery` is what was run, if it may have to be
    /// run again.
    pub(super) fn push(
        &mut self,
        at: usize,
        lane: (usize, bool),
        weight: Weight,
        ticket: Ticket,
        decision: Decision,
        delivery: Option<Box<Delivery>>,
    ) {
        let batch = &mut self.ways[at].batch;
        if batch.is_empty() {
            self.filled.push(at);
        }
        batch.push(lane, weight, ticket, decision, delivery);
    }

    /// Whether a decision should be sent before anything else is run: it is not to wait, and nothing of its way is on its way.
    pub(super) fn is_pressing(&self) -> bool {
        let way = &self.ways[EXPRESS];
        way.settles == 0 && !way.batch.is_empty()
    }

    /// Whether there is room for the decision of one more delivery.
    pub(super) fn has_room(&self, at: usize) -> bool {
        let way = &self.ways[at];
        way.settles < MAX_SETTLES || !way.batch.is_full()
    }

    /// A lane could begin a delivery if there were room: see [`Ways::take_held_back`].
    pub(super) fn hold_back(&mut self, at: usize, lane: usize) {
        self.ways[at].held_back.add(lane);
    }

    /// What is to be sent now. `idle`: nothing else is coming.
    pub(super) fn take_ready(&mut self, now: Instant, idle: bool) -> Vec<Load> {
        let mut loads = Vec::new();
        let Ways { ways, filled, settles, .. } = self;
        filled.retain(|&at| {
            let way = &mut ways[at];
            let is_ready = way.settles < MAX_SETTLES && way.batch.is_ready(now, idle, way.settles == 0);
            if is_ready {
                let (settlements, notes) = way.batch.take();
                way.settles += 1;
                *settles += 1;
                loads.push(Load { way: at, settlements, notes });
            }
            !is_ready
        });
        loads
    }

    /// The lanes that were held back on a way, once there is room.
    pub(super) fn take_held_back(&mut self, at: usize) -> Vec<usize> {
        if self.has_room(at) { self.ways[at].held_back.take() } else { Vec::new() }
    }

    /// A batch has been answered.
    pub(super) fn settled(&mut self, at: usize) {
        self.ways[at].settles -= 1;
        self.settles -= 1;
        self.let_go(at);
    }

    /// Whether there are decisions that have not been sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Whether all has been written, but for what was refused.
    pub(super) fn is_empty(&self) -> bool {
        self.settles == 0 && !self.has_unsent()
    }

    /// When decisions have waited for long enough that can be sent then.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let ways = self.filled.iter().map(|&at| &self.ways[at]);
        ways.filter(|way| way.settles < MAX_SETTLES).filter_map(|way| way.batch.due()).min()
    }
}
