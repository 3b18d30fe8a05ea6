#![allow(clippy::unwrap_used)]

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use proptest::prelude::*;
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::Facts;
use super::judge::{Handshake, Lookup, Problem};
use super::mqtt::{Upgraded, Welcome};
use super::*;
use crate::proxy::TunnelError;

const NOW_MS: i64 = 1_766_916_000_000;

fn certificate() -> CertificateDer<'static> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/server.pem");
    CertificateDer::from_pem_file(file).unwrap()
}

fn facts() -> Facts {
    Facts {
        subject: "portal.hotel.example".into(),
        issuer: "Hotel".into(),
        not_before_ms: Some(NOW_MS - 86_400_000),
        not_after_ms: Some(NOW_MS + 90 * 86_400_000),
        names: vec!["portal.hotel.example".into()],
    }
}

fn tls(certificate: Option<Facts>, problem: Option<Problem>, own_authority: bool) -> Step {
    let around = Circumstances { host: "fleet.example.com", now_ms: NOW_MS, own_authority };
    judge::tls(&Handshake { version: Some("TLS 1.3"), certificate, problem }, &around)
}

fn distrust(problem: CertificateError) -> Step {
    tls(Some(facts()), Some(Problem::Tls(rustls::Error::InvalidCertificate(problem))), false)
}

/// As webpki tells of a certificate that is of no authority but itself.
fn self_signed() -> CertificateError {
    CertificateError::Other(rustls::OtherError(std::sync::Arc::new(io::Error::other("CaUsedAsEndEntity"))))
}

/// Outcome, what was seen and what to do, in one text.
fn words(step: &Step) -> String {
    format!("{:?} {} -> {}", step.outcome, step.seen, step.advice.clone().unwrap_or_default())
}

#[test]
fn a_certificate_that_is_not_trusted_is_shown_with_the_reason_and_a_way_out() {
    let untrusted = |own| {
        tls(
            Some(facts()),
            Some(Problem::Tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))),
            own,
        )
    };
    let cases = [
        (untrusted(false), "repeat r58-fleet-agent enroll … --ca ca.pem"),
        (untrusted(true), "not of the authority in CA_FILE"),
        (distrust(CertificateError::Expired), "this device's clock says 2025-12-28T10:00:00Z"),
        (
            distrust(CertificateError::Expired),
            "whoever runs the server has to renew it. If the clock is wrong",
        ),
        (distrust(CertificateError::NotValidYet), "this device's clock is behind"),
        (
            distrust(CertificateError::NotValidForName),
            "it is for portal.hotel.example, not for fleet.example.com",
        ),
        (distrust(CertificateError::NotValidForName), "captive portal"),
        (distrust(CertificateError::BadSignature), "fleetd check"),
        (distrust(self_signed()), "no authority vouches for it"),
    ];
    for (step, part) in cases {
        let text = words(&step);
        assert!(step.is_failed() && text.contains(part), "{part}: {text}");
        assert!(
            text.contains("certificate of portal.hotel.example by Hotel, valid until 2026-03-28"),
            "{text}"
        );
    }
}

#[test]
fn what_is_no_tls_or_is_cut_off_is_told_apart() {
    let io = |kind: io::ErrorKind| tls(None, Some(Problem::Io(kind.into())), false);
    let no_tls = Problem::Tls(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType));
    for (step, part) in [
        (io(io::ErrorKind::WouldBlock), "swallows"),
        (io(io::ErrorKind::UnexpectedEof), "was closed while encryption began"),
        (tls(None, Some(no_tls), false), "what answers is not TLS"),
        (tls(None, Some(Problem::Setup("cannot read /x".into())), false), "cannot read /x"),
    ] {
        assert!(step.is_failed() && words(&step).contains(part), "{part}: {}", words(&step));
    }
}

#[test]
fn a_certificate_that_soon_ends_is_a_warning_and_a_good_one_is_not() {
    assert_eq!(tls(Some(facts()), None, false).outcome, Outcome::Ok);
    let soon = Facts { not_after_ms: Some(NOW_MS + 5 * 86_400_000), ..facts() };
    let step = tls(Some(soon), None, false);
    assert!(step.outcome == Outcome::Warning && words(&step).contains("ends in 5 days"), "{}", words(&step));
}

#[test]
fn a_name_that_is_not_known_names_the_servers_that_were_asked() {
    let servers = ["192.168.1.1".to_owned()];
    for lookup in
        [Lookup::Failed("Name or service not known".into()), Lookup::TimedOut(Duration::from_secs(6))]
    {
        let step = judge::dns("fleet.example.com", &lookup, &servers);
        assert!(
            step.is_failed() && words(&step).contains("this device asks 192.168.1.1"),
            "{}",
            words(&step)
        );
    }
    let step = judge::dns("fleet.example.com", &Lookup::Found(Vec::new()), &[]);
    assert!(step.is_failed());
}

#[test]
fn an_address_that_does_not_answer_beside_one_that_does_is_a_warning() {
    let address = |text: &str| text.parse().unwrap();
    let (v6, v4) = (address("[2001:db8::1]:443"), address("192.0.2.1:443"));
    let unreachable = || Err(io::Error::from(io::ErrorKind::NetworkUnreachable));
    let step = judge::tcp(&[(v6, unreachable()), (v4, Ok(Duration::from_millis(7)))], Duration::ZERO);
    assert_eq!((step.outcome, step.took_ms), (Outcome::Warning, Some(7)));
    assert!(step.seen.contains("not to [2001:db8::1]:443: unreachable"), "{}", step.seen);
    for (kind, part) in [
        (io::ErrorKind::TimedOut, "packets to port 443 vanish"),
        (io::ErrorKind::ConnectionRefused, "nothing listens on port 443"),
        (io::ErrorKind::NetworkUnreachable, "no way into the network"),
    ] {
        let step = judge::tcp(&[(v4, Err(kind.into()))], Duration::ZERO);
        assert!(step.is_failed() && words(&step).contains(part), "{}", words(&step));
    }
}

#[test]
fn a_proxy_that_refuses_is_named_without_its_password() {
    let login = Some(("ann".to_owned(), crate::config::Secret::new("hunter2".to_owned())));
    let proxy = crate::proxy::Proxy { is_encrypted: false, host: "10.0.0.9".into(), port: 3128, login };
    for (error, part) in [
        (TunnelError::Refused(407), "10.0.0.9:3128 wants a name and a password"),
        (TunnelError::Refused(403), "does not connect to this host and port: HTTP 403"),
        (TunnelError::Answer, "does not answer like a proxy"),
    ] {
        let text = words(&judge::proxy(&Err(error), &proxy));
        assert!(text.contains(part) && !text.contains("hunter2"), "{text}");
    }
    assert_eq!(judge::proxy(&Ok(()), &proxy).outcome, Outcome::Ok);
}

#[test]
fn a_clock_is_judged_by_how_far_it_is_surely_off() {
    let offset = |offset_ms, uncertain_ms| {
        judge::clock(Some(ClockOffset { offset_ms, uncertain_ms }), Some(true)).remove(1)
    };
    assert_eq!(offset(4_000, 20).outcome, Outcome::Ok);
    assert_eq!(offset(-8_000, 4_000).outcome, Outcome::Ok, "the answer took 8 s");
    let step = offset(60_000, 20);
    assert!(
        step.outcome == Outcome::Warning && step.seen.contains("1 min 0 s behind the server's"),
        "{}",
        step.seen
    );
    let step = offset(-900_000, 20);
    assert!(step.is_failed() && step.seen.contains("15 min 0 s ahead of"), "{}", step.seen);
    let outcomes: Vec<Outcome> = judge::clock(None, None).iter().map(|step| step.outcome).collect();
    assert_eq!(outcomes, [Outcome::Skipped, Outcome::Skipped]);
}

#[test]
fn the_text_lists_what_to_do_once_and_what_failed_first() {
    let section = |steps| Section { kind: "link", address: Some("mqtts://f".into()), steps };
    let report = Report {
        ok: false,
        agent_version: "1",
        device_id: None,
        org: None,
        sections: vec![
            section(vec![
                Step::warning("ntp", "off", "set it"),
                Step::failed("tcp", "no\u{1b}[2J", "ask the venue"),
            ]),
            section(vec![Step::failed("tcp", "no", "ask the venue"), Step::skipped("tls", "not tried")]),
        ],
    };
    assert_eq!(advice_text(&report), "What to do\n  1. tcp: ask the venue\n  2. ntp: set it\n");
    let text = section_text(&report.sections[0], Style { colour: false });
    assert_eq!(
        text,
        "Way to the broker, mqtts://f\n  warning  ntp            off\n  FAILED   tcp            no [2J\n"
    );
    let text = section_text(&report.sections[0], Style { colour: true });
    assert!(text.contains("\u{1b}[1;31mFAILED  \u{1b}[0m tcp"), "{text}");
}

#[test]
fn a_way_that_does_not_work_beside_one_that_does_is_a_warning() {
    let way = |step| Section { kind: "link", address: None, steps: vec![step] };
    let bad = || way(Step::failed("tcp", "refused", "ask the venue"));
    let mut ways = [bad(), way(Step::ok("mqtt", "a broker answers"))];
    one_way_is_enough(&mut ways);
    assert_eq!(ways[0].steps[0].outcome, Outcome::Warning);
    assert!(words(&ways[0].steps[0]).contains("another way works, so this can wait: ask the venue"));
    let mut ways = [bad(), bad()];
    one_way_is_enough(&mut ways);
    assert!(ways.iter().all(|way| way.steps[0].is_failed()));
}

#[test]
fn a_real_certificate_is_read() {
    let facts = Facts::of(&certificate()).unwrap();
    assert!(facts.names.contains(&"localhost".to_owned()), "{facts:?}");
    assert!(!facts.issuer.is_empty() && facts.not_before_ms < facts.not_after_ms, "{facts:?}");
}

#[test]
fn the_question_is_no_log_in_and_a_log_in_is_what_a_broker_reads() {
    use rumqttc::mqttbytes::v4::Packet;
    assert_eq!(mqtt::question(), b"\x10\x0c\0\x04MQTT\x02\x02\0\x3c\0\0");
    for token in [None, Some("a".repeat(64))] {
        let bytes = mqtt::log_in("default/studio-001", token.as_deref()).unwrap();
        let mut stream = bytes::BytesMut::from(&bytes[..]);
        let Ok(Packet::Connect(connect)) = Packet::read(&mut stream, 4096) else { panic!("no CONNECT") };
        assert_eq!((connect.client_id.as_str(), connect.clean_session), ("default/studio-001", true));
        let login = connect.login.unwrap();
        assert_eq!(
            (login.username.as_str(), login.password),
            ("default/studio-001", token.unwrap_or_default())
        );
        assert_eq!(connect.last_will, None);
        assert!(stream.is_empty());
    }
    assert_eq!(mqtt::log_in(&"x".repeat(2000), None), None);
}

#[test]
fn answers_of_brokers_are_understood() {
    assert_eq!(mqtt::welcome(b"\x20\x02\0\0"), Ok(Some(Welcome::Accepted)));
    assert_eq!(mqtt::welcome(b"\x20\x02\0\x05"), Ok(Some(Welcome::Refused)));
    assert_eq!(mqtt::welcome(b"\x20\x02\0"), Ok(None));
    assert_eq!(mqtt::welcome(b"HTTP"), Err(()));
    let frame = [b"\x89\0".as_slice(), b"\x82\x02\x20\x02", b"\x00\x02\0\x01"].concat();
    assert_eq!(mqtt::payload(&frame).as_deref(), Some(&b"\x20\x02\0\x01"[..]));
    assert_eq!(mqtt::payload(b"\x88\0"), None);
    assert_eq!(mqtt::payload(b"\x82\x02\x20\x02\x88\x02\x03\xe8").as_deref(), Some(&b"\x20\x02"[..]));
    let head =
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(mqtt::upgraded(head.as_bytes()), Upgraded::Yes(head.len()));
    assert_eq!(mqtt::upgraded(&head.as_bytes()[..40]), Upgraded::NotYet);
    let page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>";
    assert_eq!(mqtt::upgraded(page), Upgraded::No { status: 200, hint: Some("text/html".into()) });
    let liar = head.replace("s3p", "xxx");
    assert!(matches!(mqtt::upgraded(liar.as_bytes()), Upgraded::No { status: 101, .. }));
}

proptest! {
    #[test]
    fn whatever_strangers_send_ends_nobody(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        super::read_strangers(&bytes);
    }

    #[test]
    fn a_certificate_with_other_bytes_in_it_ends_nobody(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: prop::sample::Index) {
        let mut bytes = certificate().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Facts::of(&bytes);
        let _ = Facts::of(&bytes[..cut.index(bytes.len())]);
    }
}

/// What a peer that answers a CONNECT with `answer` was asked, and what we make of it.
fn speak_to(answer: &'static [u8], time: Duration, websocket: bool) -> Spoken {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(answer);
        if answer.is_empty() {
            // Silent, not gone.
            let _ = stream.read(&mut [0; 1024]);
        }
    });
    let stream = TcpStream::connect(address).unwrap();
    let mut stream = Timed::new(stream, Deadline::after(time));
    let inside = Inside { websocket: websocket.then_some(("f", "/mqtt")) };
    let spoken = network::speak(&mut stream, inside, &mqtt::question());
    drop(stream);
    peer.join().unwrap();
    spoken
}

#[test]
fn whoever_answers_in_the_brokers_place_is_found_out_in_time() {
    let long = Duration::from_secs(20);
    assert!(matches!(speak_to(b"\x20\x02\0\x01", long, false), Spoken::Welcome(Welcome::OtherVersion)));
    assert!(matches!(speak_to(b"HTTP/1.1 400 Bad Request\r\n\r\n", long, false), Spoken::Garbage));
    let page = b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n";
    let Spoken::NoUpgrade { status: 302, hint } = speak_to(page, long, true) else { panic!("an upgrade") };
    assert_eq!(hint.as_deref(), Some("http://login.example/"));
    let began = Instant::now();
    assert!(matches!(speak_to(b"", Duration::from_millis(300), false), Spoken::Silent));
    assert!(began.elapsed() < Duration::from_secs(5));
}
