//! Somebody who listens all the time and tells afterwards what there was to hear.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::{Client, Outcome, PATIENCE};
use crate::wire::Received;

#[derive(Clone, Debug)]
pub struct Heard {
    pub topic: String,
    pub payload: String,
    pub retain: bool,
}

pub struct Witness {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    pub fn start(mut client: Client) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, until) = (heard.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                match client.wait(Duration::from_millis(20)) {
                    Outcome::Packet(packet @ Received::Publish { .. }) => {
                        let message = client.accept(packet);
                        let (payload, retain) = (message.text(), message.retain);
                        into.lock().unwrap().push(Heard { topic: message.topic, payload, retain });
                    }
                    Outcome::Packet(_) | Outcome::Silence => {}
                    Outcome::Closed => return,
                }
            }
        });
        Self { heard, stop, thread: Some(thread) }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until something was heard; false if it was not for a long time.
    pub fn waits_for(&self, is_it: impl Fn(&Heard) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.heard.lock().unwrap().iter().any(&is_it) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
