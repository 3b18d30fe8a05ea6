//! Any text, read as a topic: one that prints as it was read, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::topic::Topic;

fuzz_target!(|text: &str| {
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), text);
    }
});
