//! Narrow links and copies that stand still by turns, in the simulator: what it costs the writers, and how
//! often the view changes (REP-9).

use std::time::Duration;

use kvproto::Settings;
use testclient::sim::story::{Stage, Story};

const SEEDS: u64 = 20;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two copies wanted, on links of 8 kbit/s: a thousand bytes take a second.
fn narrow(seed: u64) -> Story<'static> {
    let settings = Settings { copies: 2, ..Settings::default() };
    Story::on(seed, Stage { settings, bytes_per_ms: Some(1), ..Stage::default() })
}

/// The second copy was never complete: what arrived was silence.
#[test]
fn a_copy_comes_up_over_a_narrow_link_and_stays() {
    for seed in 0..SEEDS {
        let mut story = narrow(seed);
        story.start_and_wait(0);
        for key in ["large", "larger"] {
            let put = story.put(0, key, &"v".repeat(6000));
            story.done(put);
        }
        let began = story.now();
        story.start(1);
        let patience = secs(18);
        story.until("the copy is complete", patience, |story| story.complete().contains(&1));
        let (number, took) = (story.view().number, story.now() - began);
        assert!(took > secs(11), "seed {seed}: {took:?}");
        story.always("the view stays", secs(30), |story| story.view().number == number);
        story.end();
    }
}

/// A complete backup was left out for an ordinary put.
#[test]
fn a_large_value_on_a_narrow_link_changes_no_view_and_stops_no_read() {
    for seed in 0..SEEDS {
        let mut story = narrow(seed);
        (0..2).for_each(|server| story.start_and_wait(server));
        let small = story.put(0, "k", "small");
        story.done(small);
        let number = story.view().number;
        let large = story.put(0, "large", &"v".repeat(8000));
        story.run_for(secs(1));
        let behind = story.put(1, "behind", "small");
        for _ in 0..6 {
            let before = story.now();
            assert_eq!(story.get_now(2, "k").as_deref(), Some("small"));
            let took = story.now() - before;
            assert!(took < Duration::from_millis(500), "seed {seed}: a read took {took:?}");
            story.run_for(secs(1));
        }
        assert!(story.result(large).is_none(), "seed {seed}: it takes eight seconds");
        story.until("all is done", secs(4), |story| story.result(behind).is_some());
        story.done(large);
        assert_eq!(story.view().number, number, "seed {seed}");
        story.end();
    }
}

/// Writers waited 71 % of the time, beside a healthy spare or alone.
#[test]
fn a_backup_that_stands_still_by_turns_keeps_writers_waiting_for_little_of_the_time() {
    let ms = Duration::from_millis;
    for (still, running) in [(700, 300), (1000, 1000), (400, 200)] {
        for servers in [2, 3] {
            for seed in 0..SEEDS {
                let mut story = Story::new(seed, 2);
                (0..2).for_each(|server| story.start_and_wait(server));
                (2..servers).for_each(|server| story.start(server));
                story.run_for(secs(2));
                let (began, mut waited) = (story.now(), Duration::ZERO);
                let mut write = (story.put(0, "k", "v"), story.now());
                let mut paused = false;
                let mut turn_at = began;
                while story.now() - began < secs(45) {
                    if story.now() >= turn_at {
                        paused = !paused;
                        if paused {
                            story.pause(1)
                        } else {
                            story.resume(1)
                        }
                        turn_at = story.now() + ms(if paused { still } else { running });
                    }
                    story.run_for(ms(10));
                    if story.result(write.0).is_some() {
                        let took = story.now() - write.1;
                        if took > ms(200) && story.now() - began > secs(5) {
                            waited += took;
                        }
                        write = (story.put(0, "k", "v"), story.now());
                    }
                }
                assert!(
                    waited < secs(6),
                    "seed {seed}, {servers} servers, {still} ms still, {running} ms running: writers \
                     waited {waited:?} of 40 s"
                );
                assert_eq!(story.primary(), Some(0));
            }
        }
    }
}
