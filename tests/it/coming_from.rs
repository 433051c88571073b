//! What event libraries on Redis Streams offer, through the binary: on Redis, on Redis by way of a worker, and on a worker's
//! embedded broker. docs/coming-from.md has a row for each test.

mod bad_input;
mod envelopes;
mod handling;
mod publishing;
mod running;
mod table;

use wasmill_tests::on_every_way;

on_every_way! {
    publishing::{
        one_event_is_published,
        many_events_are_published_in_order,
        a_batch_is_published_whole_or_not_at_all,
        events_are_published_by_http,
        events_wait_for_their_time,
        made_up_events_are_published,
        schemas_are_kept,
    }
    envelopes::{
        json_documents,
        msgpack_documents,
        name_and_body,
        stream_action_and_data,
        dapr_components,
        any_fields,
        names_and_times_of_ones_own,
    }
    handling::{
        every_handler_has_every_event_once,
        types_are_matched_by_patterns,
        failures_are_tried_again,
        a_handler_says_when_to_retry,
        duplicates_are_not_run,
        equal_contents_are_not_run,
        streams_are_kept_short,
    }
    running::{
        health_and_metrics_are_served,
        what_runs_is_finished_at_the_end,
    }
    bad_input::{
        what_breaks_a_schema_is_refused,
        what_is_too_large_is_refused,
        what_is_no_id_time_or_name_is_refused,
        a_worker_that_is_away_is_told,
    }
}
