//! Somebody who does nothing wrong, all the time that an attack lasts: is there service within a second?

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::broker::{device, person, up};
use crate::support::{Client, Connect, Publish, Version};
use crate::target::Target;

/// What everybody who behaves is promised.
const PROMISE: Duration = Duration::from_secs(1);

/// A round trip through the broker takes so many turns of its threads and ours as there are in the machine's own echo,
/// about: the part of the wait that is the machine's and not the broker's.
const TURNS: u32 = 4;

const PAUSE: Duration = Duration::from_millis(100);

/// Three threads: QoS 1 round trips from a device to a person, logins of a device, and an echo that knows nothing of
/// the broker, to tell what the loaded machine itself costs.
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    round_trips: JoinHandle<Seen>,
    logins: JoinHandle<Seen>,
    echo: JoinHandle<Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    count: u32,
    /// As it was on the clock.
    longest: Duration,
    /// Without the time in which a thread of the broker wanted to run and got no processor.
    worst: Duration,
}

impl Witness {
    pub(crate) fn start(target: &Target) -> Witness {
        let (address, process) = (target.address, target.process());
        let stop = Arc::new(AtomicBool::new(false));
        Witness {
            round_trips: watch(&stop, process, round_trips(address)),
            logins: watch(&stop, process, move || {
                let mut camera = Client::connect(address, &device(Version::V311, "cam-58"));
                camera.ping();
                camera.disconnect();
            }),
            echo: watch(&stop, process, echo()),
            stop,
        }
    }

    /// Asserts that every round trip and every login took less than a second, but for what the machine itself took.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let served = |seen: JoinHandle<Seen>, what| seen.join().map_err(|_| what).unwrap();
        let echo = served(self.echo, "the echo ended");
        let round_trips = served(self.round_trips, "the witness was not served; its message is above");
        let logins = served(self.logins, "the newcomer was not served; its message is above");
        let bound = PROMISE + TURNS * echo.longest;
        eprintln!("witness: {round_trips:?}, logins: {logins:?}, the machine's own: {:?}", echo.longest);
        assert!(round_trips.count > 0 && round_trips.worst < bound, "a round trip took too long");
        assert!(logins.count > 0 && logins.worst < bound, "a login took too long");
    }
}

/// Does `once` every 100 ms until the end, and takes the time.
fn watch(stop: &Arc<AtomicBool>, process: u32, mut once: impl FnMut() + Send + 'static) -> JoinHandle<Seen> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut seen = Seen::default();
        while !stop.load(Ordering::Relaxed) {
            let starved_before = starved(process);
            let began = Instant::now();
            once();
            let took = began.elapsed();
            // The machine has few cores, and what attacks the broker runs on them too, beside everything else.
            let starved = starved(process).into_iter().map(|(thread, now)| {
                now.saturating_sub(starved_before.get(&thread).copied().unwrap_or_default())
            });
            seen.longest = seen.longest.max(took);
            seen.worst = seen.worst.max(took.saturating_sub(starved.max().unwrap_or_default()));
            seen.count += 1;
            std::thread::sleep(PAUSE);
        }
        seen
    })
}

/// How long each thread of the broker has waited for a processor so far.
fn starved(process: u32) -> HashMap<String, Duration> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return HashMap::new() };
    let waited = |path: PathBuf| {
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        Some(Duration::from_nanos(times.split_whitespace().nth(1)?.parse().ok()?))
    };
    threads
        .filter_map(Result::ok)
        .filter_map(|thread| {
            Some((thread.file_name().to_string_lossy().into_owned(), waited(thread.path())?))
        })
        .collect()
}

fn round_trips(address: SocketAddr) -> impl FnMut() + Send + 'static {
    // As the devices that flood.
    let topic = up("cam-59", "heartbeat");
    let mut camera = Client::connect(address, &device(Version::V311, "cam-59"));
    let mut reader =
        Client::connect(address, &Connect { client_id: "witness".into(), ..person(Version::V5, "otto") });
    assert_eq!(reader.subscribe(&[&topic], 1), [1]);
    let mut number = 0u64;
    move || {
        number += 1;
        let text = number.to_string();
        assert_eq!(camera.publish(Publish::new(&topic, &text).qos(1, 0)), 0);
        assert_eq!(reader.message().text(), text);
    }
}

fn echo() -> impl FnMut() + Send + 'static {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut there, _) = listener.accept().unwrap();
    here.set_nodelay(true).unwrap();
    there.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let mut byte = [0];
        while there.read_exact(&mut byte).is_ok() && there.write_all(&byte).is_ok() {}
    });
    move || {
        here.write_all(&[1]).unwrap();
        here.read_exact(&mut [0]).unwrap();
    }
}
