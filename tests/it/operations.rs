//! What operators do, through the binary: on Redis, on Redis by way of a worker, and on a worker's embedded broker.

mod audit;
mod dead_letters;
mod doctor;
mod fleet;
mod history;
mod http;
mod replay;
mod roles;

use wasmill_tests::on_every_way;

on_every_way! {
    history::{
        history_shows_the_last_events_and_ranges,
        history_is_filtered_by_type,
        history_follows,
        several_follow_at_once,
        history_pages_through_thousands,
        history_refuses_what_makes_no_sense,
        streams_are_listed_with_their_readers,
    }
    replay::{
        past_events_run_again_through_one_handler,
        a_replay_has_bounds_and_a_count,
        a_dry_run_writes_nothing,
        a_replay_refuses_what_makes_no_sense,
    }
    fleet::{
        workers_and_stats_say_what_is_done,
        pending_events_are_listed_with_who_has_them,
        a_handler_is_paused_and_resumed,
    }
    audit::{
        every_change_is_written_down,
        the_audit_log_is_read_by_place,
        the_pages_of_a_replay_are_one_change,
    }
    dead_letters::{
        dead_letters_are_shown_redriven_and_dropped,
        dead_letters_come_in_pages_of_bounded_size,
    }
    doctor::{
        the_doctor_names_dead_letters_with_the_remedy,
    }
}
