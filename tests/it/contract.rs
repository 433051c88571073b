//! The contract of a broker: one suite, run over the broker in memory, over the one on Redis, and over that of a tenant's
//! user.
//!
//! Each test gets a broker of its own, on Redis with a server of its own.

mod dead_letters;
mod dedup;
mod delayed;
mod fixture;
mod publishing;
mod pubsub;
mod races;
mod reading;
mod redis_only;
mod retention;
mod retries;
mod settling;
mod state;
mod store;
mod takeover;

use self::fixture::Fixture;

/// Makes `memory::TEST`, `redis::TEST` and `user::TEST` of every function.
macro_rules! over_all_brokers {
    ($($module:ident :: { $($test:ident),* $(,)? })*) => {
        mod memory {
            use super::*;
            $($(
                #[tokio::test]
                async fn $test() {
                    $module::$test(&Fixture::memory()).await;
                }
            )*)*
        }

        mod redis {
            use super::*;
            $($(
                #[tokio::test]
                async fn $test() {
                    $module::$test(&Fixture::redis().await).await;
                }
            )*)*
        }

        mod user {
            use super::*;
            $($(
                #[tokio::test]
                async fn $test() {
                    $module::$test(&Fixture::user().await).await;
                }
            )*)*
        }
    };
}

over_all_brokers! {
    publishing::{
        events_that_look_alike_keep_what_they_differ_in,
        events_with_other_fields_and_streams_go_together,
    }
    reading::{
        ids_ascend_and_fields_stay_in_order,
        an_entry_goes_to_one_consumer_of_a_group,
        every_group_sees_every_entry,
        a_group_is_created_once_and_begins_at_the_beginning,
        groups_are_created_together_and_say_which_are_new,
        reading_without_a_group_says_so_and_it_can_be_made_again,
        a_thousand_events_in_one_call,
        a_payload_of_a_mebibyte,
        empty_calls_do_nothing,
        entries_can_be_looked_at_and_deleted,
        waiting_ends_with_a_new_entry,
        waiting_ends_when_interrupted,
        waiting_ends_when_the_time_is_over,
    }
    settling::{
        follow_ups_are_written_once,
        acks_alone_empty_the_pending_list,
        one_call_settles_over_several_streams,
        answers_stand_in_the_order_of_the_settlements,
        what_is_not_pending_is_superseded,
        two_hundred_settlements_in_one_call,
        the_same_entry_twice_in_one_call_is_settled_once,
    }
    pubsub::{
        everybody_hears_the_same_in_the_same_order,
        a_channel_is_not_a_pattern_and_a_pattern_is_not_a_channel,
        a_lease_belongs_to_one_until_it_ends,
        only_the_holder_takes_in,
        what_was_taken_in_can_be_read,
    }
    retention::{
        lengths_of_streams_are_told_together,
        a_stream_without_groups_is_cut_to_its_length,
        old_entries_go_and_young_ones_stay,
        an_entry_that_is_pending_holds_back_all_that_follow,
        a_parked_entry_holds_back_too,
        a_group_that_lags_holds_back_what_it_has_not_read,
        reading_and_trimming_at_once_lose_nothing,
        what_is_not_there_is_not_trimmed,
    }
    retries::{
        where_entries_are_parked_is_told_of_all_sets_together,
        a_parked_entry_comes_back_when_it_is_due,
        a_parked_entry_is_not_offered_early,
        every_retry_counts,
        due_entries_come_in_order_and_in_portions,
        a_parked_entry_that_was_acked_meanwhile_is_forgotten,
        a_parked_entry_whose_payload_is_gone_is_settled,
        due_entries_of_a_deleted_stream_are_forgotten,
    }
    takeover::{
        a_takeover_counts_and_goes_oldest_first,
        what_one_takes_from_oneself_counts_no_attempt,
        entries_of_another_program_are_taken_when_they_have_been_idle,
        a_suspect_is_taken_alone,
        a_suspect_stops_what_comes_before_it,
        a_zombie_may_neither_park_nor_give_up,
        whoever_acks_first_wins,
        entries_whose_payload_is_gone_are_settled,
        a_worker_lives_as_long_as_its_heartbeat,
        a_worker_with_nothing_new_to_say_keeps_what_it_has_said,
        consumers_are_removed_only_when_nothing_is_pending,
        a_handler_is_paused_until_it_goes_on,
    }
    dead_letters::{
        a_dead_letter_keeps_the_original_byte_for_byte,
        a_dead_letter_of_a_trimmed_entry_keeps_the_evidence,
        a_dead_letter_keeps_thousands_of_fields,
        a_redriven_event_comes_back_once_and_begins_anew,
        a_redriven_event_that_dies_again_keeps_its_original,
        only_dead_letters_are_redriven,
        a_dead_letter_without_its_original_is_not_redriven,
    }
    dedup::{
        an_event_that_is_marked_has_no_effects,
        a_mark_is_left_once_in_one_call,
        a_mark_is_forgotten_after_its_time,
        only_acks_leave_marks,
        an_ack_that_was_sent_again_is_no_duplicate,
        what_somebody_asked_for_again_is_handled_again,
    }
    delayed::{
        where_events_wait_is_told_without_moving_them,
        a_delayed_event_waits_for_its_time,
        delayed_events_come_in_order_and_in_portions,
        the_same_delayed_event_is_there_once,
        delayed_follow_ups_are_written_with_their_ack,
        of_many_who_move_at_once_each_event_is_moved_by_one,
        each_tenant_has_a_set_of_its_own,
    }
    state::{
        what_was_written_is_read_byte_for_byte,
        of_two_who_saw_the_same_one_writes,
        whatever_was_seen_is_checked,
        what_was_not_seen_is_not_checked,
        the_writes_of_one_settlement_are_seen_by_the_next_of_the_same_call,
        what_is_no_longer_pending_is_superseded_not_stale,
        an_event_that_is_marked_is_a_duplicate_not_stale,
        only_acks_write,
        a_read_is_bounded_at_its_edge,
        operators_write_and_delete,
        only_who_has_the_entry_is_told_to_run_it_again,
        bytes_are_counted_with_what_they_count,
        a_quota_bounds_the_states_of_a_tenant_together_at_its_edge,
    }
    store::{
        a_component_is_kept_until_it_is_removed,
        whoever_follows_records_sees_by_a_number_that_one_has_changed,
        a_record_changes_only_from_what_was_seen,
        reports_are_replaced_and_forgotten_by_worker,
        each_audit_log_keeps_its_newest_lines,
    }
    races::{
        two_readers_at_once_never_get_the_same_entry,
        of_many_who_settle_at_once_one_is_applied,
        of_many_who_redrive_at_once_one_moves_it,
        one_call_settles_for_several_handlers,
        trimmed_entries_do_not_hide_what_comes_after_them,
    }
}
