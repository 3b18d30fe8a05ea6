//! What one device may have of a batch.

use super::*;

/// A payload of heartbeats with these numbers.
fn heartbeats_of(seqs: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    let records: Vec<_> = seqs.map(|seq| packed(&heartbeat(seq, 1, 0))).collect();
    codec::batch(records.iter().map(Vec::as_slice))
}

#[tokio::test]
async fn a_flood_of_one_device_is_taken_in_shares_and_the_others_get_in_at_once() {
    const PAYLOAD: u64 = 2_048;
    let bench = Bench::new().await;
    for device in ["cam-1", "cam-2"] {
        bench.send_as(device, Uplink::Birth, packed(&birth(1))).await;
    }
    let share = share::RECORDS_MAX;
    let flood = (0..2 * share / PAYLOAD)
        .map(|n| heartbeats_of(n * PAYLOAD + 1..=(n + 1) * PAYLOAD))
        .collect::<Vec<_>>();
    let of = |device: &str, payload: &[u8]| message(device, Uplink::Heartbeat, payload.to_vec());
    let mut batch: Vec<Incoming> = flood.iter().map(|payload| of("cam-1", payload)).collect();
    batch.push(of("cam-2", &packed(&heartbeat(1, 1, 0))));
    batch.push(message("cam-1", Uplink::Birth, packed(&birth(1))));

    let replies = bench.ingest.take(batch.clone()).await;
    let ranges = |replies: &[Reply], device: &str| {
        replies.iter().find_map(|reply| match reply {
            Reply::Ack(name, ack) if name.1.as_str() == device => Some(ack.ranges.as_slice().to_vec()),
            _ => None,
        })
    };
    let taken = ranges(&replies, "cam-1").unwrap();
    let [(1, last)] = taken[..] else { panic!("the first ones, without a gap: {taken:?}") };
    assert!((share / 2..=share).contains(&last), "{last}");
    assert_eq!(ranges(&replies, "cam-2").unwrap(), [(1, 1)], "in the same commit");
    assert_eq!(bench.metrics.total("fleet_messages_deferred_total"), flood.len() as u64 - last / PAYLOAD);
    assert_eq!(bench.metrics.total("fleet_births_total"), 3, "a birth is always heard");
    assert_eq!(bench.metrics.total("fleet_records_poison_total"), 0);

    // Sent again, as an agent does: what it was acknowledged left out.
    let mut committed = last;
    for _ in 0..8 {
        let rest = flood.iter().skip((committed / PAYLOAD) as usize);
        let replies = bench.ingest.take(rest.map(|payload| of("cam-1", payload)).collect()).await;
        let [(1, last)] = ranges(&replies, "cam-1").unwrap()[..] else { panic!("gaps") };
        assert!(last > committed);
        committed = last;
        if committed == 2 * share {
            break;
        }
    }
    assert_eq!(committed, 2 * share);
    let mut stored = bench.stored_seqs().await;
    stored.sort_unstable();
    assert_eq!(stored, (1..=2 * share).collect::<Vec<_>>(), "each once");
}

#[tokio::test]
async fn all_that_an_agent_may_have_under_way_fits_its_share_of_a_batch() {
    const UNDER_WAY: usize = 512 * 1024;
    // As the agent reckons: the stored body without numbers, and 12 bytes for them.
    let least = |seq| Heartbeat {
        cpu_permille: None,
        mem_permille: None,
        disk_free_mib: None,
        disk_total_mib: None,
        load_centi: None,
        active_inputs: 0,
        outbox_depth: 0,
        since_boot_ms: 0,
        live: None,
        ..heartbeat(seq, 1, 0)
    };
    let bytes = packed(&Heartbeat { connection: 0, ..least(0) }).len() + 12;
    let count = (UNDER_WAY / bytes) as u64;
    assert_eq!(bytes, 39);
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let records: Vec<_> = (1..=count).map(|seq| packed(&least(seq))).collect();
    let payloads = records.chunks(4_096).map(|some| codec::batch(some.iter().map(Vec::as_slice)));
    let batch = payloads.map(|payload| message("cam-1", Uplink::Heartbeat, payload)).collect();
    let replies = bench.ingest.take(batch).await;
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, count)]);
    // Log batches with as many short lines as are allowed.
    let line = LogRecord {
        ts: NOW,
        unit: "r58-api".to_owned(),
        level: "info".to_owned(),
        message: "m".repeat(20),
        fields: [].into(),
    };
    let log =
        |seq| LogBatch { seq, connection: 1, ts: NOW, records: vec![line.clone(); limit::RECORDS_PER_BATCH] };
    assert!((UNDER_WAY / 3..UNDER_WAY / 2).contains(&packed(&log(count)).len()));
    let batch = (1..=2).map(|n| message("cam-1", Uplink::Log, packed(&log(count + n)))).collect();
    assert_eq!(ack(&bench.ingest.take(batch).await).unwrap().ranges.as_slice(), [(1, count + 2)]);
    assert_eq!(bench.metrics.total("fleet_messages_deferred_total"), 0);
}

#[tokio::test]
async fn what_is_not_stored_uses_up_the_share_too() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let stored = heartbeats_of(1..=2_048);
    bench.send(Uplink::Heartbeat, stored.clone()).await;
    let again = vec![message("cam-1", Uplink::Heartbeat, stored); 12];
    assert_eq!(ack(&bench.ingest.take(again).await).unwrap().ranges.as_slice(), [(1, 2_048)]);
    assert_eq!(bench.metrics.total("fleet_messages_deferred_total"), 12 - share::RECORDS_MAX / 2_048);
    // What cannot be read at all counts by its bytes.
    let unreadable = vec![message("cam-1", Uplink::Log, vec![0xff; 256 * 1024]); 12];
    assert_eq!(bench.ingest.take(unreadable).await, []);
    assert_eq!(bench.metrics.total("fleet_messages_deferred_total"), 4 + 12 - 4);
}
