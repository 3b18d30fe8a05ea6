//! A test of the simulation: each bug that is put in on purpose is found, soon, and by a seed that finds it again.
#![allow(clippy::unwrap_used)]

use end_to_end::sim::{self, Bug, Failure, MIXES};

/// Of each kind of world, at most.
const STEPS: u64 = 100_000;

fn find(bug: Bug) -> Option<Box<Failure>> {
    MIXES.iter().find_map(|mix| sim::run(mix, 1, STEPS, Some(bug)).err())
}

macro_rules! bugs {
    ($($test:ident: $bug:ident;)+) => {
        $(#[test]
        fn $test() {
            let failure = find(Bug::$bug).expect("the simulation does not find it");
            println!("{failure}");
            // The seed alone finds it again, word for word.
            let mix = MIXES.iter().find(|mix| mix.name == failure.mix).unwrap();
            let again = sim::world(mix, failure.seed, Some(Bug::$bug), sim::EVENTS).unwrap_err();
            assert_eq!((&again.what, &again.events), (&failure.what, &failure.events));
            assert!(failure.to_string().contains(&format!("SEED={}", failure.seed)));
        })+

        #[test]
        fn every_bug_has_a_test() {
            assert_eq!([$(Bug::$bug),+].len(), Bug::ALL.len());
        }
    };
}

bugs! {
    found_an_acknowledgement_before_the_commit: AckBeforeCommit;
    found_an_effect_before_running_is_on_disk: RunningNotJournalled;
    found_a_command_sent_again_after_its_answer: AnsweredSentAgain;
    found_a_record_that_is_forgotten_when_the_broker_has_it: ForgottenAtReceipt;
    found_a_server_that_forgets_what_it_has_stored: DedupeForgotten;
    found_a_journal_that_a_power_cut_takes_back: JournalNotSynced;
    found_a_cut_off_effect_that_is_begun_anew: CutOffRunsAgain;
    found_a_probe_that_always_says_not_done: ProbeSaysNotDone;
    found_a_lease_that_is_given_twice: LeaseTwice;
    found_a_restored_server_that_asks_nobody: QueryFirstForgotten;
    found_a_restored_server_that_gives_leases: RestoreGivesLease;
    found_an_end_that_is_overwritten: EndOverwritten;
    found_a_look_at_the_application_that_is_not_taken: StaleLook;
    found_an_older_copy_that_goes_on_under_its_name: OldCopyUnnoticed;
    found_a_go_without_a_lease: LeaseNotWritten;
    found_a_command_that_is_said_before_sent_is_committed: SentBeforeCommit;
    found_a_record_that_is_thinned_silently: ThinnedSilently;
    found_records_that_are_sent_before_the_disk_has_it: ReleaseNotWritten;
}
