//! Wills with a delay and with properties.

use std::time::{Duration, Instant};

use crate::bench::*;
use crate::support::*;

const WILLS: &str = "will/topic";

fn delayed(text: &str, seconds: u32) -> Will {
    Will { properties: property::will_delay(seconds), ..Will::new(WILLS, text) }
}

#[test]
fn mqtt_3_1_2_8_a_will_waits_for_its_delay_or_the_end_of_the_session() {
    let bench = Bench::new(Version::V5);
    let mut watcher = bench.subscriber(WILLS, 1);
    let gone = Instant::now();
    bench.connect(&bench.lasting("x").will(delayed("after a second", 1))).vanish();
    assert_eq!(watcher.message().text(), "after a second");
    assert!(gone.elapsed() >= Duration::from_secs(1), "{:?}", gone.elapsed());
    // Without a session there is nothing to wait for.
    bench.connect(&bench.login("y").will(delayed("at once", 3600))).vanish();
    assert_eq!(watcher.message().text(), "at once");
    // A session ends by its expiry, or by a clean start.
    let short = Connect { clean: false, ..bench.login("z") }.property(property::session_expiry(1));
    bench.connect(&short.will(delayed("expired", 3600))).vanish();
    assert_eq!(watcher.message().text(), "expired");
    bench.connect(&bench.lasting("x").will(delayed("clean start", 3600))).vanish();
    let _clean = bench.client("x");
    assert_eq!(watcher.message().text(), "clean start");
    watcher.expect_silence();
}

#[test]
fn mqtt_3_1_3_9_a_client_that_is_back_within_the_delay_has_no_will_published() {
    let bench = Bench::new(Version::V5);
    let mut watcher = bench.subscriber(WILLS, 1);
    bench.connect(&bench.lasting("x").will(delayed("lost", 1))).vanish();
    let (client, present) = bench.resume(&bench.lasting("x").will(delayed("replaced", 1)));
    assert!(present);
    // Also when it replaces its own live connection.
    let _new = bench.connect(&bench.lasting("x"));
    drop(client);
    std::thread::sleep(Duration::from_millis(1_700));
    watcher.expect_silence();
}

#[test]
fn mqtt_3_1_3_10_the_wills_properties_keep_their_order() {
    let bench = Bench::new(Version::V5);
    let mut watcher = bench.subscriber(WILLS, 1);
    let properties = [
        property::user("z", "1"),
        property::content_type("text/plain"),
        property::user("a", "2"),
        property::user("z", "3"),
    ]
    .concat();
    let will = Will { properties: properties.clone(), ..Will::new(WILLS, "x") };
    bench.connect(&bench.login("x").will(will)).vanish();
    assert_eq!(watcher.message().properties, properties);
}
