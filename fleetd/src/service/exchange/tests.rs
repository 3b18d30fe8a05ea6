use std::future::{pending, ready};

use broker::{Authentication, Authenticator, ConnectAttempt, Limits, Refusal};

use super::*;

struct Nobody;

impl Authenticator for Nobody {
    fn authenticate<'a>(&'a self, _: ConnectAttempt) -> Authentication<'a> {
        Box::pin(ready(Err(Refusal::BadCredentials)))
    }
}

/// What connects, and what this server says beside it.
struct Bench {
    broker: Broker,
    exchanges: Exchanges,
}

impl Bench {
    fn new() -> Self {
        Self {
            broker: Broker::start(Limits::default(), Arc::new(Nobody)).unwrap(),
            exchanges: Exchanges::default(),
        }
    }

    fn name() -> DeviceName {
        ("acme".parse().unwrap(), "cam-1".parse().unwrap())
    }

    async fn ask(&self, wait_seconds: u64, messages: Vec<ExchangeMessage>) -> Result<Exchange, Error> {
        let asked = Asked {
            name: Self::name(),
            peer: ([127, 0, 0, 1], 1).into(),
            at: Instant::now(),
            certificate: Some("7".to_owned()),
            messages: Exchange(messages),
            wait: Duration::from_secs(wait_seconds),
            connection: None,
        };
        self.exchanges.exchange(Some(&self.broker), asked, pending()).await
    }

    fn is_connected(&self) -> bool {
        let (org, device) = Self::name();
        self.broker.device_connection(&org, &device).is_some()
    }

    /// Tells the device something.
    async fn tell(&self, bytes: usize) {
        let (publisher, _) = self.broker.service_link("test", &[]).unwrap();
        let (org, device) = Self::name();
        let topic = Topic::ToDevice { org, device, downlink: protocol::topic::Downlink::Command };
        publisher.publish_on(&topic, &vec![0; bytes], broker::QoS::AtLeastOnce, false).await.unwrap();
    }
}

fn birth(connection: u64) -> ExchangeMessage {
    let birth = Birth {
        state_id: StateId([1; 8]),
        connection,
        next_seq: 1,
        boot_id: String::new(),
        agent_version: String::new(),
        app_version: None,
        arch: String::new(),
        inputs: Vec::new(),
        command_types: Vec::new(),
        interval_seconds: 60,
        transport: "https".to_owned(),
        ts: 0,
        since_boot_ms: 0,
        app_unit: None,
    };
    ExchangeMessage("birth".to_owned(), Bytes(codec::encode_packed(&birth).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn a_device_that_asks_for_nothing_for_90_seconds_is_gone_and_one_that_asks_stays() {
    let bench = Bench::new();
    assert_eq!(bench.ask(0, vec![birth(1)]).await.unwrap(), Exchange::default());
    for _ in 0..5 {
        tokio::time::sleep(SILENCE - Duration::from_secs(1)).await;
        assert!(bench.is_connected());
        assert_eq!(bench.ask(0, vec![]).await.unwrap(), Exchange::default());
    }
    assert_eq!(bench.ask(55, vec![]).await.unwrap(), Exchange::default());
    assert!(bench.is_connected());
    tokio::time::sleep(SILENCE + Duration::from_secs(1)).await;
    assert!(!bench.is_connected());
    assert_eq!(bench.broker.counters().wills, 1, "it went without a word");
    assert!(matches!(bench.ask(55, vec![]).await, Err(Error::Conflict(_))));
}

#[tokio::test]
async fn what_a_device_does_not_fetch_is_bounded_and_ends_its_connection() {
    let bench = Bench::new();
    bench.ask(0, vec![birth(1)]).await.unwrap();
    let room = Limits::default().device_queued_bytes / 60_000 + 2;
    for _ in 0..room {
        bench.tell(60_000).await;
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while bench.is_connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(bench.broker.counters().device_queue_overflows, 1);
    assert!(matches!(bench.ask(1, vec![]).await, Err(Error::Conflict(_))));
    assert_eq!(bench.ask(0, vec![birth(2)]).await.unwrap(), Exchange::default());
    assert!(bench.is_connected());
}

#[tokio::test]
async fn an_answer_is_bounded_and_the_rest_comes_with_the_next_one() {
    let bench = Bench::new();
    bench.ask(0, vec![birth(1)]).await.unwrap();
    for _ in 0..limit::EXCHANGE_MESSAGES + 3 {
        bench.tell(10).await;
    }
    let first = bench.ask(10, vec![]).await.unwrap();
    assert_eq!(first.0.len(), limit::EXCHANGE_MESSAGES);
    let body = codec::encode_named(&first).unwrap();
    assert_eq!(codec::decode::<Exchange>(&body, limit::EXCHANGE_BYTES).unwrap(), first);
    assert_eq!(bench.ask(10, vec![]).await.unwrap().0.len(), 3);
}

#[tokio::test]
async fn a_birth_again_is_no_new_connection_and_another_one_is() {
    let bench = Bench::new();
    for (number, takeovers) in [(1, 0), (1, 0), (2, 1)] {
        bench.ask(0, vec![birth(number)]).await.unwrap();
        assert_eq!(bench.broker.counters().takeovers, takeovers);
    }
    assert_eq!(bench.broker.counters().connections_devices, 1);
}

#[tokio::test]
async fn a_waiting_request_whose_client_has_gone_takes_nothing_with_it() {
    let bench = Bench::new();
    bench.ask(0, vec![birth(1)]).await.unwrap();
    let asked = Asked {
        name: Bench::name(),
        peer: ([127, 0, 0, 1], 1).into(),
        at: Instant::now(),
        certificate: None,
        messages: Exchange::default(),
        wait: Duration::from_secs(30),
        connection: None,
    };
    assert_eq!(
        bench.exchanges.exchange(Some(&bench.broker), asked, ready(())).await.unwrap(),
        Exchange::default()
    );
    bench.tell(10).await;
    assert_eq!(bench.ask(0, vec![]).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_broker_that_stops_ends_what_waits_and_takes_no_birth() {
    let bench = Bench::new();
    bench.ask(0, vec![birth(1)]).await.unwrap();
    let (answer, ()) = tokio::join!(bench.ask(30, vec![]), bench.broker.shutdown());
    assert!(matches!(answer, Err(Error::Unavailable(_))), "{answer:?}");
    assert!(matches!(bench.ask(0, vec![birth(2)]).await, Err(Error::Unavailable(_))));
    assert_eq!(bench.broker.counters().wills, 0, "it is still there");
}

#[tokio::test]
async fn a_certificate_that_is_taken_back_ends_the_connection_made_with_it_and_what_waits_on_it() {
    let bench = Bench::new();
    bench.ask(0, vec![birth(1)]).await.unwrap();
    let (org, device) = Bench::name();
    let who = broker::PrincipalKey::Device { org, device };
    let took_back = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        [bench.broker.end_connections_with(&who, "8"), bench.broker.end_connections_with(&who, "7")]
    };
    let (answer, ended) = tokio::join!(bench.ask(30, vec![]), took_back);
    assert_eq!(ended, [0, 1]);
    assert!(answer.is_err(), "{answer:?}");
}
