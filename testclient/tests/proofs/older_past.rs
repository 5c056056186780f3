//! A view service that is put back to an older state, in the simulator: nothing that was acknowledged
//! is lost or contradicted while one server of the newer past runs or comes first.

use std::time::Duration;

use testclient::sim::story::Story;

const SOON: Duration = Duration::from_secs(20);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;

/// Server 1 was left alone after the state was copied that takes the place of the newer one.
fn put_back_under_server_1(seed: u64) -> Story<'static> {
    let mut story = Story::new(seed, 2);
    story.start_and_wait(0);
    story.start_and_wait(1);
    story.until("both are complete", SOON, |story| story.complete().len() == 2);
    let put = story.put(0, "k", "before");
    story.done(put);
    let older = story.view().revision;
    story.crash(0);
    story.until("server 1 leads alone", SOON, |story| story.acting() == Some(1));
    let put = story.put(0, "k", "after");
    story.done(put);
    let changes = story.view().revision.0 - older.0;
    story.put_back_views(changes as usize, Duration::from_millis(300));
    story
}

#[test]
fn a_copy_that_lives_on_puts_the_view_service_in_doubt_and_keeps_serving() {
    for seed in SEEDS {
        let mut story = put_back_under_server_1(seed);
        story.start(0);
        story.until("it is in doubt", SOON, Story::doubts);
        let before = story.view().clone();
        story
            .always("nothing is assigned", Duration::from_secs(8), |story| *story.view() == before);
        assert_eq!(story.get_now(1, "k").as_deref(), Some("after"), "seed {seed}");
        let put = story.put(2, "k", "in doubt");
        story.done(put);
        story.end();
    }
}

#[test]
fn an_operator_ends_the_doubt_and_the_others_come_back() {
    for seed in SEEDS {
        let mut story = put_back_under_server_1(seed);
        story.until("it is in doubt", SOON, Story::doubts);
        story.force(1).expect_err("server 0 may be serving");
        story.run_for(Duration::from_secs(12));
        story.force(1).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(!story.doubts());
        story.until("server 1 leads", SOON, |story| story.acting() == Some(1));
        assert_eq!(story.view().generation.0, 2);
        assert_eq!(story.get_now(1, "k").as_deref(), Some("after"), "seed {seed}");
        story.start(0);
        story.until("server 0 is complete again", SOON, |story| story.complete().len() == 2);
        let put = story.put(2, "k", "end");
        story.done(put);
        story.end();
    }
}
