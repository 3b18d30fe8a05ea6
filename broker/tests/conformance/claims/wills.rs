//! Wills.

use crate::bench::*;
use crate::support::*;

const WILLS: &str = "will/topic";

fn will(text: &str) -> Will {
    Will::new(WILLS, text)
}

pub(crate) fn a_will_is_published_when_the_connection_is_lost_and_not_after_a_goodbye(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(WILLS, 2);
    leave(bench.connect(&bench.login("x").will(will("goodbye"))));
    bench.connect(&bench.login("x").will(will("lost"))).vanish();
    assert_eq!(watcher.message().text(), "lost");
    bench.connect(&bench.login("x").will(will("reset"))).reset();
    assert_eq!(watcher.message().text(), "reset");
    bench.connect(&bench.login("x").will(will("protocol error"))).send([kind::PINGRESP, 0]);
    assert_eq!(watcher.message().text(), "protocol error");
    let mut taken_over = bench.connect(&bench.login("x").will(will("taken over")));
    let _new = bench.client("x");
    taken_over.expect_end(&[0x8e]);
    assert_eq!(watcher.message().text(), "taken over");
    watcher.expect_silence();
}

pub(crate) fn a_goodbye_discards_the_will(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(WILLS, 0);
    leave(bench.connect(&bench.login("x").will(will("x"))));
    // Also when the client is back before it has been heard.
    for _ in 0..20 {
        let mut client = bench.connect(&bench.login("x").will(will("back at once")));
        client.send([Publish::new(TOPIC, "x").encode(version), vec![kind::DISCONNECT, 0]].concat());
        bench.connect(&bench.login("x").will(will("back at once"))).disconnect();
    }
    leave(bench.client("x"));
    watcher.expect_silence();
}

pub(crate) fn a_will_flag_without_topic_or_message_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, 2 | WILL, &[], &[wire::field("x")]));
    let whole = will_fields(version, &[], WILLS.as_bytes());
    let cut = whole[..whole.len() - wire::field("will").len()].to_vec();
    bench.assert_malformed(&connect_with(version, 2 | WILL, &[], &[wire::field("x"), cut]));
}

pub(crate) fn the_wills_qos_and_retain_flag_are_used(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(KEPT, 2);
    for qos in 0..=2 {
        let will = Will { qos, retain: qos == 1, ..Will::new(KEPT, &qos.to_string()) };
        bench.connect(&bench.login("x").will(will)).vanish();
        let message = watcher.message();
        assert_eq!((message.text(), message.qos), (qos.to_string(), qos));
    }
    assert_eq!(bench.subscriber(KEPT, 0).message().text(), "1", "the retained one");
}

pub(crate) fn a_will_is_published_once(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(WILLS, 1);
    bench.connect(&bench.lasting("x").will(will("once"))).vanish();
    assert_eq!(watcher.message().text(), "once");
    bench.connect(&bench.lasting("x")).vanish();
    leave(bench.connect(&bench.lasting("x").will(will("discarded"))));
    bench.connect(&bench.lasting("x")).vanish();
    watcher.expect_silence();
}

pub(crate) fn will_fields_without_the_flag_close_the_connection(version: Version) {
    let bench = Bench::new(version);
    let mut payload = credentials("x");
    payload.insert(1, will_fields(version, &[], WILLS.as_bytes()));
    // Read as user name and password, the rest is too much.
    bench.assert_malformed(&connect_with(version, LOGIN, &[], &payload));
}

pub(crate) fn without_the_flag_no_will_is_published(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber("#", 1);
    bench.client("x").vanish();
    bench.client("x").reset();
    watcher.expect_silence();
}

pub(crate) fn a_will_qos_without_the_flag_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for qos in 1..=3 {
        bench.assert_malformed(&connect_with(version, LOGIN | qos << 3, &[], &credentials("x")));
    }
}

pub(crate) fn a_will_qos_of_3_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    for qos in 0..=3 {
        let mut payload = credentials("x");
        payload.insert(1, will_fields(version, &[], WILLS.as_bytes()));
        let connect = connect_with(version, LOGIN | WILL | qos << 3, &[], &payload);
        if qos == 3 {
            bench.assert_malformed(&connect);
        } else {
            assert_eq!(bench.answer(&connect), Some(0));
        }
    }
}

pub(crate) fn a_will_retain_without_the_flag_closes_the_connection(version: Version) {
    let bench = Bench::new(version);
    bench.assert_malformed(&connect_with(version, LOGIN | 0x20, &[], &credentials("x")));
}

pub(crate) fn a_will_without_retain_is_not_kept(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(KEPT, 1);
    bench.connect(&bench.login("x").will(Will::new(KEPT, "passes"))).vanish();
    assert_eq!(watcher.message().text(), "passes");
    bench.subscriber(KEPT, 0).expect_silence();
}

pub(crate) fn a_will_with_retain_is_kept(version: Version) {
    let bench = Bench::new(version);
    let mut watcher = bench.subscriber(KEPT, 1);
    let will = Will { retain: true, ..Will::new(KEPT, "stays") };
    bench.connect(&bench.login("x").will(will)).vanish();
    let live = watcher.message();
    assert_eq!((live.text().as_str(), live.retain), ("stays", false));
    let kept = bench.subscriber(KEPT, 0).message();
    assert_eq!((kept.text().as_str(), kept.retain), ("stays", true));
}
