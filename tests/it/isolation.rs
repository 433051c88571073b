//! What one delivery leaves behind, the next one does not see: neither one of the same handler nor of another tenant.

use wasmill::outcome::Verdict;
use wasmill::wasm::{Component, Engine, EngineSettings, Handler, Isolation};
use wasmill_tests::languages::{reuse, run};

use super::bad_components::handler_of;

/// Bytes of linear memory that each instance has: more than the pool keeps mapped between two uses, so that both what it
/// wipes itself and what it gives back to the kernel is looked at.
const MEMORY: usize = 16 << 20;
const PAGE: usize = 64 << 10;

/// In memory, in a table and in a global.
const EVERYWHERE: u8 = 1 | 2 | 4;

/// Looks for leftovers, then leaves marks there. Another number of pages is another component.
fn looker(engine: &Engine, pages: usize, marks: u8) -> Component {
    let core = include_str!("isolation/core.wat").replace("PAGES", &pages.to_string());
    let core = core.replace("WHERE", &marks.to_string());
    Component::new(engine, None, &handler_of(&core)).unwrap_or_else(|error| panic!("{error}"))
}

fn handler(tenant: &str, component: &Component, isolation: Isolation) -> Handler {
    let mut handler = wasmill_tests::languages::handler_of(component, "memory = \"32 MiB\"\ndeadline = \"30s\"");
    handler.isolation = isolation;
    let mut policy = (*handler.policy).clone();
    policy.tenant = tenant.into();
    handler.policy = policy.into();
    handler
}

/// An engine with room for one instance: each one gets the place of the one before.
fn one_place() -> Engine {
    Engine::new(EngineSettings { instances: 1, max_memory: 32 << 20 }).unwrap()
}

#[test]
fn nothing_is_left_in_the_place_of_an_instance_for_its_own_handler_or_another_tenants() {
    let engine = one_place();
    let [one, two] = [MEMORY / PAGE, MEMORY / PAGE - 1].map(|pages| looker(&engine, pages, EVERYWHERE));
    let acme = handler("acme", &one, Isolation::Fresh);
    let same_bytes = handler("globex", &one, Isolation::Fresh);
    let other = handler("globex", &two, Isolation::Fresh);
    for round in 0..5 {
        for handler in [&acme, &acme, &same_bytes, &other, &acme, &other] {
            let (execution, warm) = run(handler, None, "look", "", 1);
            assert_eq!(execution.verdict, Verdict::Ack, "round {round}, {}", handler.policy.tenant);
            assert!(warm.is_none() && execution.peak_memory >= MEMORY - PAGE, "{}", execution.peak_memory);
        }
    }
}

#[test]
fn what_is_looked_for_would_be_found() {
    let engine = one_place();
    for (marks, found) in [(1, "memory"), (2, "table "), (4, "global")] {
        let handler = handler("acme", &looker(&engine, MEMORY / PAGE, marks), reuse(10, MEMORY));
        let (execution, warm) = run(&handler, None, "look", "", 1);
        assert_eq!(execution.verdict, Verdict::Ack);
        let (execution, _) = run(&handler, warm, "look", "", 1);
        assert_eq!(execution.verdict, Verdict::Reject { message: found.into() });
    }
}

#[test]
fn an_instance_that_waits_for_its_handler_is_a_place_that_no_other_has() {
    // While one tenant's instance is kept, there is no room for another's: it is not handed over.
    let engine = one_place();
    let component = looker(&engine, MEMORY / PAGE, EVERYWHERE);
    let (acme, globex) =
        (handler("acme", &component, reuse(10, MEMORY)), handler("globex", &component, reuse(10, MEMORY)));
    let (_, kept) = run(&acme, None, "look", "", 1);
    let (execution, _) = run(&globex, None, "look", "", 1);
    let Verdict::Fault { message, .. } = execution.verdict else { panic!("{:?}", execution.verdict) };
    assert!(message.contains("limit"), "{message}");
    drop(kept);
    assert_eq!(run(&globex, None, "look", "", 1).0.verdict, Verdict::Ack);
}
