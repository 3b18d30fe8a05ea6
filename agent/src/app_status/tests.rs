#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use proptest::prelude::*;

use super::recordings::RecordingsWatch;
use super::*;
use crate::config::{Config, Key, StatusFields};
use crate::kernel::Kernel;

fn answer(json: &str) -> AppAnswer {
    AppAnswer::read(json.as_bytes(), &StatusFields::default()).unwrap()
}

fn observed(asked: Asked) -> Observed {
    Observed { asked, recordings: Recordings::NotWatched, unit: None, settled: true }
}

fn said(json: &str) -> Liveness {
    decide(&observed(Asked::Said(answer(json)))).0
}

#[test]
fn the_states_of_the_known_versions_have_their_meaning() {
    for live in ["recording", "starting", "stopping", "STREAMING"] {
        assert_eq!(said(&format!(r#"{{"status": "{live}"}}"#)), Liveness::Live, "{live}");
    }
    assert_eq!(said(r#"{"status": "idle"}"#), Liveness::Idle);
    assert_eq!(said(r#"{"session": {"state": "idle"}}"#), Liveness::Idle);
    assert_eq!(said(r#"{"status": "idle", "streaming": true}"#), Liveness::Live);
    assert_eq!(said(r#"{"status": "idle", "recording": true}"#), Liveness::Live);
    assert_eq!(said(r#"{"status": "idle", "mixer_active": true}"#), Liveness::Idle);
    assert_eq!(said(r#"{"status": "warming up"}"#), Liveness::Unknown);
    assert_eq!(said(r#"{"status": 3}"#), Liveness::Unknown);
    assert_eq!(said("{}"), Liveness::Unknown);
}

#[test]
fn an_application_that_does_not_listen_is_idle_only_if_its_unit_is_down() {
    let with = |unit| decide(&Observed { unit, ..observed(Asked::Refused) }).0;
    assert_eq!(with(Some(UnitState::Stopped("failed".into()))), Liveness::Idle);
    assert_eq!(with(Some(UnitState::Running("activating".into()))), Liveness::Unknown);
    assert_eq!(with(Some(UnitState::Unclear("?".into()))), Liveness::Unknown);
    assert_eq!(with(None), Liveness::Unknown);
    let silent = Observed {
        unit: Some(UnitState::Stopped("failed".into())),
        ..observed(Asked::NoAnswer("HTTP status 500".into()))
    };
    assert_eq!(decide(&silent).0, Liveness::Unknown);
}

#[test]
fn in_the_first_seconds_nothing_is_idle_but_live_is_live() {
    let early = |json| Observed { settled: false, ..observed(Asked::Said(answer(json))) };
    assert_eq!(decide(&early(r#"{"status": "idle"}"#)).0, Liveness::Unknown);
    assert_eq!(decide(&early(r#"{"status": "recording"}"#)).0, Liveness::Live);
}

#[test]
fn a_growing_file_is_live_whatever_the_application_says() {
    let idle = observed(Asked::Said(answer(r#"{"status": "idle"}"#)));
    let with = |recordings| decide(&Observed { recordings, ..idle.clone() }).0;
    assert_eq!(with(Recordings::Changed), Liveness::Live);
    assert_eq!(with(Recordings::Quiet), Liveness::Idle);
    assert_eq!(with(Recordings::Unreadable("?".into())), Liveness::Unknown);
}

#[test]
fn the_fields_of_the_known_versions_are_found() {
    let answer = answer(
        r#"{"status": "recording", "mixer": {"active": true}, "inputs": [{"id": "cam1", "active": true},
            {"name": "cam2", "active": false}, "cam3", 4], "degradation": {"level": 900}, "version": "1.2.3",
            "errors": ["disk\u0007 slow", 5]}"#,
    );
    assert!(answer.recording_active());
    assert_eq!(answer.mixer_active, Some(true));
    assert_eq!(answer.active_inputs, ["cam1", "cam3", "4"]);
    assert_eq!(answer.degradation_level, Some(255));
    assert_eq!(
        (answer.version.as_deref(), answer.errors.as_slice()),
        (Some("1.2.3"), &["disk slow".to_owned()][..])
    );
    let map = super::tests::answer(r#"{"active_inputs": {"a": true, "b": false, "c": {"active": true}}}"#);
    assert_eq!(map.active_inputs, ["a", "c"]);
}

#[test]
fn configured_fields_and_meanings_come_before_the_built_in_ones() {
    let fields: StatusFields =
        "status=s.now, streaming=s.out, live_values=onair|Rec, idle_values=ready, mixer_active=m"
            .parse()
            .unwrap();
    let read = |json: &str| AppAnswer::read(json.as_bytes(), &fields).unwrap();
    let found =
        read(r#"{"status": "idle", "s": {"now": "REC", "out": false}, "m": true, "mixer_active": false}"#);
    assert_eq!(found.state, State::Live("rec".into()));
    assert_eq!((found.streaming, found.mixer_active), (Some(false), Some(true)));
    assert_eq!(read(r#"{"s": {"now": "ready"}}"#).state, State::Idle("ready".into()));
    // A configured field that is not there is missing, and no other takes its place.
    assert_eq!(read(r#"{"status": "idle"}"#).state, State::Missing);
}

#[test]
fn a_recordings_folder_shows_growth_between_two_looks_whatever_the_clock_says() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("show")).unwrap();
    let file = folder.path().join("show/a.mkv");
    fs::write(&file, "1").unwrap();
    let year_2100_ms = 4_102_444_800_000;
    let mut watch = RecordingsWatch::new(folder.path().to_owned());
    assert_eq!(watch.look(1_000, year_2100_ms), Recordings::Quiet);
    fs::write(&file, "12").unwrap();
    assert_eq!(watch.look(61_000, year_2100_ms), Recordings::Changed);
    assert_eq!(watch.look(90_999, year_2100_ms), Recordings::Changed);
    assert_eq!(watch.look(91_000, year_2100_ms), Recordings::Quiet);
    fs::remove_file(&file).unwrap();
    assert_eq!(watch.look(92_000, year_2100_ms), Recordings::Quiet);
    fs::write(folder.path().join("b.mkv"), "").unwrap();
    assert_eq!(watch.look(93_000, year_2100_ms), Recordings::Changed);
}

#[test]
fn the_first_look_goes_by_the_clock_and_a_missing_folder_is_quiet() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.mkv"), "1").unwrap();
    let now = Kernel::open().unwrap().wall_ms();
    let first = |path: &std::path::Path, wall| RecordingsWatch::new(path.to_owned()).look(0, wall);
    assert_eq!(first(folder.path(), now), Recordings::Changed);
    assert_eq!(first(folder.path(), now + 40_000), Recordings::Quiet);
    assert_eq!(first(folder.path(), now - 86_400_000), Recordings::Changed);
    assert_eq!(first(&folder.path().join("none"), now), Recordings::Quiet);
    assert!(matches!(first(&folder.path().join("a.mkv"), now), Recordings::Unreadable(_)));
}

/// A peer that answers one request with these bytes, and its address.
fn peer(response: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/status", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(response);
    });
    address
}

fn reader(url: String) -> (Reader, Kernel) {
    let config = Config::from_parts(None, &[(Key::AppStatusUrl, url)], "h").unwrap();
    let kernel = Kernel::open().unwrap();
    (Reader::new(&config, &kernel), kernel)
}

#[test]
fn a_real_peer_is_asked_and_its_answer_or_silence_told_apart() {
    let body =
        b"HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n{\"status\": \"recording\", \"version\": \"1.0.0\"} ";
    let (mut asker, kernel) = reader(peer(body));
    let status = asker.read(&kernel);
    assert_eq!((status.liveness, status.version.as_deref()), (Liveness::Live, Some("1.0.0")), "{status:?}");

    for (response, part) in [
        (&b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"[..], "just started"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "just started"),
        (b"", "just started"),
    ] {
        let (mut asker, kernel) = reader(peer(response));
        let status = asker.read(&kernel);
        assert_eq!(status.liveness, Liveness::Unknown);
        assert!(status.because.contains(part), "{status:?}");
    }
    let (mut nobody, kernel) = reader("http://127.0.0.1:1/status".into());
    assert_eq!(nobody.read(&kernel).liveness, Liveness::Unknown);
    let (mut unasked, kernel) = reader(String::new());
    assert_eq!(unasked.read(&kernel).liveness, Liveness::Unknown);
}

#[test]
fn the_installed_version_comes_from_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(reader::installed_version(folder.path()), None);
    fs::create_dir(folder.path().join("current")).unwrap();
    fs::write(folder.path().join("current/manifest.json"), r#"{"version": "2.0.1"}"#).unwrap();
    assert_eq!(reader::installed_version(folder.path()).as_deref(), Some("2.0.1"));
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200), json in "[{}\\[\\]\",:a-z0-9. ]{0,80}") {
        let _ = AppAnswer::read(&body, &StatusFields::default());
        let _ = AppAnswer::read(json.as_bytes(), &StatusFields::default());
    }

    #[test]
    fn idle_is_never_said_without_a_reason_to_be_sure(
        word in "(idle|recording|odd)", early in any::<bool>(), streaming in prop::option::of(any::<bool>()),
        recordings in prop_oneof![
            Just(Recordings::NotWatched), Just(Recordings::Quiet), Just(Recordings::Changed),
            Just(Recordings::Unreadable(String::new()))
        ],
    ) {
        let mut heard = answer(&format!(r#"{{"status": "{word}"}}"#));
        heard.streaming = streaming;
        let observed = Observed {
            asked: Asked::Said(heard), recordings: recordings.clone(), unit: None,
            settled: !early,
        };
        let sure = word == "idle" && !early && streaming != Some(true)
            && matches!(recordings, Recordings::NotWatched | Recordings::Quiet);
        prop_assert_eq!(decide(&observed).0 == Liveness::Idle, sure);
    }
}
