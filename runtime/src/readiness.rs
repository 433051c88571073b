//! Whether a worker takes events, and if not, why.

use std::sync::{Mutex, MutexGuard};

/// What a worker is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It is setting up.
    #[default]
    Starting,
    /// It takes events.
    Ready,
    /// Redis does not answer, or refuses.
    WaitingForRedis { why: String },
    /// It finishes what it has begun, and ends.
    Draining,
}

/// The phase of a worker, shared between those who know it and those who ask.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Phase>);

impl Readiness {
    fn phase_mut(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The phase as it is now.
    pub fn phase(&self) -> Phase {
        self.phase_mut().clone()
    }

    /// Notes another phase. Whoever is draining stays so.
    pub fn set(&self, phase: Phase) {
        let mut current = self.phase_mut();
        if *current != Phase::Draining {
            *current = phase;
        }
    }

    /// The broker has answered: a worker that waited for it is ready again.
    pub fn broker_answers(&self) {
        let mut current = self.phase_mut();
        if matches!(*current, Phase::WaitingForRedis { .. }) {
            *current = Phase::Ready;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_is_the_end() {
        let readiness = Readiness::default();
        let waiting = Phase::WaitingForRedis { why: "gone".to_owned() };
        for phase in [Phase::Ready, waiting.clone(), Phase::Draining] {
            readiness.set(phase.clone());
            assert_eq!(readiness.phase(), phase);
        }
        readiness.set(waiting);
        readiness.broker_answers();
        assert_eq!(readiness.phase(), Phase::Draining);
    }

    #[test]
    fn an_answer_ends_waiting_but_not_starting() {
        let readiness = Readiness::default();
        readiness.broker_answers();
        assert_eq!(readiness.phase(), Phase::Starting);
        readiness.set(Phase::WaitingForRedis { why: String::new() });
        readiness.broker_answers();
        assert_eq!(readiness.phase(), Phase::Ready);
    }
}
