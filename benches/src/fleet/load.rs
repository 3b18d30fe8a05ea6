//! Heartbeats at a steady rate from many devices, beside what is measured.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use protocol::{codec, topic::Uplink};

use super::Result;
use super::{Device, device::Client, heartbeat, numbers::now_ms};

/// A thread that sends. Ends when dropped or [`Load::end`]ed.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
    began: Instant,
}

impl Load {
    /// Connects all devices, then begins to send `per_second` heartbeats a second, one device after the other.
    pub(crate) fn start(address: SocketAddr, devices: &[Device], per_second: u32) -> Result<Self> {
        let mut clients =
            devices.iter().map(|device| Client::connect(address, device)).collect::<Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (told, count) = (stop.clone(), acknowledged.clone());
        let thread = thread::Builder::new().name("load".to_owned()).spawn(move || -> Result<()> {
            let began = Instant::now();
            let mut sent = 0_u32;
            while !told.load(Ordering::Relaxed) {
                for client in &mut clients {
                    // In steps of a millisecond: what is due is sent, then it sleeps.
                    while f64::from(sent) >= began.elapsed().as_secs_f64() * f64::from(per_second) {
                        thread::sleep(Duration::from_millis(1));
                    }
                    count.fetch_add(client.drain()? as u64, Ordering::Relaxed);
                    let seq = client.next_seq();
                    client
                        .publish(Uplink::Heartbeat, &codec::encode_packed(&heartbeat(seq, 1, now_ms()))?)?;
                    sent += 1;
                }
            }
            Ok(())
        })?;
        Ok(Self { stop, acknowledged, thread: Some(thread), began: Instant::now() })
    }

    /// Ends it; acknowledgements a second that came back.
    pub(crate) fn end(mut self) -> Result<f64> {
        let seconds = self.began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred thousand")]
        let acknowledged = self.acknowledged.load(Ordering::Relaxed) as f64;
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "the load's thread has panicked")??;
        }
        Ok(acknowledged / seconds)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its failure matters only to who asks for the end.
            let _ = thread.join();
        }
    }
}
