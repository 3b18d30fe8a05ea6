#![allow(clippy::unwrap_used)]
use bytes::BytesMut;
use proptest::prelude::*;

use super::connect::{self, ConnectError};
use super::encode::{self, AckKind, Outgoing};
use super::frame::{self, Header};
use super::packet::{self, Packet, RetainHandling};
use super::reason::Reason;
use super::{DecodeError, Version};

/// Splits one encoded packet into its header and its body.
fn split(bytes: &[u8]) -> (Header, Vec<u8>) {
    let header = frame::header(bytes, usize::MAX).unwrap().unwrap();
    assert_eq!(header.total_len, bytes.len());
    (header, bytes[header.header_len..].to_vec())
}

fn decode(version: Version, first: u8, body: &[u8]) -> Result<Packet<'_>, DecodeError> {
    packet::decode(version, header_of(first, body), body)
}

/// The header that belongs to a body.
fn header_of(first: u8, body: &[u8]) -> Header {
    let header_len = 1 + encode::varint_len(body.len());
    Header { first, header_len, total_len: header_len + body.len() }
}

fn connect_decode(body: &[u8]) -> Result<connect::Connect<'_>, ConnectError> {
    connect::decode(header_of(0x10, body), body)
}

fn connect_body(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    [b"\0\x04MQTT".as_slice(), &[level, flags, 0, 60], rest].concat()
}

proptest! {
    #[test]
    fn any_bytes_after_login_are_a_packet_or_an_error(first: u8, body in prop::collection::vec(any::<u8>(), 0..80)) {
        for version in [Version::V311, Version::V5] {
            let _ = decode(version, first, &body);
        }
    }

    #[test]
    fn any_bytes_are_a_connect_or_an_error(level in 4u8..6, flags: u8, rest in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = connect_decode(&connect_body(level, flags, &rest));
        let _ = connect_decode(&rest);
    }

    #[test]
    fn any_bytes_are_a_header_or_more_are_needed_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..8)) {
        if let Ok(Some(header)) = frame::header(&bytes, 1000) {
            prop_assert!(header.total_len <= 1000 && header.header_len <= bytes.len());
        }
    }

    #[test]
    fn a_cut_packet_is_an_error_and_never_a_panic(cut in 0usize..40) {
        let whole = [b"\0\x01t\0\x07".as_slice(), &[7, 0x26, 0, 1, b'k', 0, 1, b'v'], b"payload"].concat();
        let cut = cut.min(whole.len());
        let _ = decode(Version::V5, 0x32, &whole[..cut]);
    }

    #[test]
    fn what_is_sent_as_publish_decodes_to_the_same(
        topic in "[a-z/]{1,20}", payload in prop::collection::vec(any::<u8>(), 0..300),
        qos in 0u8..3, retain: bool, id in 1u16.., expiry in prop::option::of(any::<u32>()), v5: bool,
    ) {
        let version = if v5 { Version::V5 } else { Version::V311 };
        let mut out = BytesMut::new();
        let outgoing = Outgoing {
            dup: false, qos, retain, topic: topic.as_bytes(), packet_id: id, expiry_seconds: expiry,
            properties: &[0x01, 1], payload: &payload,
        };
        prop_assert!(encode::publish(&mut out, version, outgoing, usize::MAX));
        let len = out.len();
        let (header, body) = split(&out);
        let Packet::Publish(back) = packet::decode(version, header, &body).unwrap() else { panic!("a publish") };
        prop_assert_eq!((back.topic, back.payload, back.qos, back.retain), (topic.as_str(), &payload[..], qos, retain));
        prop_assert_eq!(back.packet_id, if qos > 0 { id } else { 0 });
        prop_assert_eq!(back.properties.expiry_seconds, if v5 { expiry } else { None });
        prop_assert_eq!(&back.properties.forward[..], if v5 { &[0x01, 1][..] } else { &[][..] });
        // One byte less than it needs, and it is not sent at all.
        let mut none = BytesMut::new();
        prop_assert!(!encode::publish(&mut none, version, outgoing, len - 1));
        prop_assert!(none.is_empty());
    }
}

#[test]
fn a_connect_of_each_version_is_read_whole() {
    let rest = b"\0\x03cid\0\x03w/t\0\x02hi\0\x01u\0\x01p";
    let body = connect_body(4, 0xF6 & !0x10 | 0x08, rest);
    let connect = connect_decode(&body).unwrap();
    assert_eq!((connect.version, connect.client_id, connect.clean), (Version::V311, "cid", true));
    assert_eq!((connect.username, connect.password), (Some("u"), Some(&b"p"[..])));
    let will = connect.will.unwrap();
    assert_eq!((will.topic, will.payload, will.qos, will.retain), ("w/t", &b"hi"[..], 1, true));

    let properties = [13, 0x11, 0, 0, 0, 9, 0x21, 0, 5, 0x27, 0, 0, 1, 0];
    let body = connect_body(5, 0x02, &[&properties[..], b"\0\x03cid"].concat());
    let connect = connect_decode(&body).unwrap();
    assert_eq!((connect.session_expiry_seconds, connect.receive_maximum), (9, 5));
    assert_eq!(connect.maximum_packet_bytes, 256);
}

#[test]
fn other_versions_are_told_apart_from_other_protocols() {
    assert_eq!(connect_decode(b"\0\x06MQIsdp\x03\x02\0\0\0\0"), Err(ConnectError::Version(3)));
    assert_eq!(connect_decode(&connect_body(6, 2, b"\0\0")), Err(ConnectError::Version(6)));
    assert!(matches!(connect_decode(b"\0\x04HTTP\x04\x02"), Err(ConnectError::Decode(None, _))));
}

#[test]
fn a_connect_that_contradicts_itself_is_refused() {
    let bad = |level, flags, rest: &[u8]| {
        assert!(
            matches!(
                connect_decode(&connect_body(level, flags, rest)),
                Err(ConnectError::Decode(Some(_), _))
            ),
            "{level} {flags:#x} {rest:?}"
        );
    };
    bad(4, 0x03, b"\0\0"); // reserved flag
    bad(4, 0x0A, b"\0\0"); // will QoS without will
    bad(4, 0x22, b"\0\0"); // will retain without will
    bad(4, 0x1E, b"\0\0\0\x01t\0\0"); // will QoS 3
    bad(4, 0x42, b"\0\0\0\x01p"); // password without user name
    bad(4, 0x02, b"\0\x01\0"); // NUL in the client id
    bad(4, 0x02, b"\0\x01\xff"); // not UTF-8
    bad(4, 0x02, b"\0\0x"); // more than there should be
    bad(4, 0x06, b"\0\0\0\x01+\0\0"); // wildcard in the will's topic
    bad(5, 0x02, &[3, 0x21, 0, 0, 0, 0]); // Receive Maximum 0
    bad(5, 0x02, &[6, 0x21, 0, 1, 0x21, 0, 1, 0, 0]); // twice
    bad(5, 0x02, &[2, 0x01, 0, 0, 0]); // a property of PUBLISH
}

#[test]
fn broken_packets_have_the_reason_that_the_standard_gives() {
    let reason = |version, first, body: &[u8]| decode(version, first, body).unwrap_err().reason();
    let v5 = Version::V5;
    assert_eq!(reason(v5, 0x36, b"\0\x01t\0\x01\0"), Reason::MalformedPacket, "QoS 3");
    assert_eq!(reason(v5, 0x38, b"\0\x01t\0"), Reason::MalformedPacket, "DUP with QoS 0");
    assert_eq!(reason(v5, 0x30, b"\0\x03a/+\0"), Reason::TopicNameInvalid);
    assert_eq!(reason(v5, 0x30, b"\0\x01t\x03\x23\0\x01"), Reason::TopicAliasInvalid);
    assert_eq!(reason(v5, 0x32, b"\0\x01t\0\0\0"), Reason::ProtocolError, "packet id 0");
    assert_eq!(reason(v5, 0x82, b"\0\x01\x02\x0b\x05\0\x01t\0"), Reason::SubscriptionIdentifiersNotSupported);
    assert_eq!(reason(v5, 0x82, b"\0\x01\0"), Reason::ProtocolError, "no filter");
    assert!(matches!(frame::header(&[0x80], 100), Err(DecodeError::Malformed(_))), "flags");
    assert!(matches!(frame::header(&[0x00], 100), Err(DecodeError::Malformed(_))), "type 0");
    assert_eq!(reason(v5, 0x82, b"\0\x01\0\0\x08$share/t\x04"), Reason::ProtocolError, "No Local on $share");
    assert_eq!(reason(v5, 0x10, b""), Reason::ProtocolError, "a second CONNECT");
    assert_eq!(reason(v5, 0xF0, b""), Reason::ProtocolError, "AUTH");
    assert_eq!(reason(Version::V311, 0xF0, b""), Reason::MalformedPacket);
    assert_eq!(reason(Version::V311, 0x82, b"\0\x01\0\x01t\x04"), Reason::MalformedPacket, "options of 5");
    for server_only in [0x20, 0x90, 0xB0, 0xD0, 0x00] {
        assert_eq!(reason(v5, server_only, b"\0\x01\0"), Reason::MalformedPacket, "{server_only:#x}");
    }
}

#[test]
fn subscription_options_are_read() {
    let Packet::Subscribe(subscribe) = decode(Version::V5, 0x82, b"\0\x01\0\0\x01t\x2e").unwrap() else {
        panic!("a SUBSCRIBE")
    };
    let wanted = subscribe.filters[0];
    assert_eq!(
        (wanted.filter, wanted.qos, wanted.no_local, wanted.retain_as_published),
        ("t", 2, true, true)
    );
    assert_eq!(wanted.retain_handling, RetainHandling::Never);
}

#[test]
fn a_packet_is_measured_before_it_is_there() {
    assert_eq!(frame::header(&[0x30], 100), Ok(None));
    assert_eq!(frame::header(&[0x30, 0x80], 100), Ok(None));
    assert_eq!(frame::header(&[0x30, 98], 100).unwrap().unwrap().total_len, 100);
    assert_eq!(frame::header(&[0x30, 99], 100), Err(DecodeError::TooLarge { bytes: 101, limit: 100 }));
    assert!(matches!(frame::header(&[0x30, 0xff, 0xff, 0xff, 0xff], 100), Err(DecodeError::Malformed(_))));
}

#[test]
fn answers_look_as_the_standard_draws_them() {
    let written = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    let (v4, v5) = (Version::V311, Version::V5);
    let refused = Reason::NotAuthorized;
    assert_eq!(written(&|out| encode::ack(out, v4, AckKind::Ack, 7, refused)), [0x40, 2, 0, 7]);
    assert_eq!(written(&|out| encode::ack(out, v5, AckKind::Rec, 7, refused)), [0x50, 3, 0, 7, 0x87]);
    assert_eq!(written(&|out| encode::suback(out, v4, 7, &[Ok(1), Err(refused)])), [0x90, 4, 0, 7, 1, 0x80]);
    assert_eq!(
        written(&|out| encode::suback(out, v5, 7, &[Ok(1), Err(refused)])),
        [0x90, 5, 0, 7, 0, 1, 0x87]
    );
    assert_eq!(written(&|out| encode::unsuback(out, v4, 7, &[Reason::Success])), [0xB0, 2, 0, 7]);
    assert_eq!(written(&|out| encode::unsuback(out, v5, 7, &[Reason::Success])), [0xB0, 4, 0, 7, 0, 0]);
    assert_eq!(
        written(&|out| encode::connack_refused(out, v4, Reason::BadUserNameOrPassword, "x", usize::MAX)),
        [0x20, 2, 0, 4]
    );
    assert_eq!(
        written(&|out| encode::connack_refused(out, v5, Reason::ServerBusy, "", usize::MAX)),
        [0x20, 3, 0, 0x89, 0]
    );
    assert_eq!(
        written(&|out| encode::disconnect(out, v5, Reason::SessionTakenOver, "", usize::MAX)),
        [0xE0, 2, 0x8E, 0]
    );
    assert_eq!(
        written(&|out| encode::disconnect(out, v4, Reason::SessionTakenOver, "", usize::MAX)),
        [0u8; 0]
    );
}
