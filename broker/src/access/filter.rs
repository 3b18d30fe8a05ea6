//! Topic names and topic filters as MQTT defines them: what is well formed, and which filter covers which.

/// Longest topic name or topic filter that the broker takes, in bytes. MQTT allows 65,535; ours need fewer than 256.
pub const MAX_TOPIC_BYTES: usize = 1024;

/// True if `topic` may stand in a PUBLISH or a will by the rules of MQTT, and is at most [`MAX_TOPIC_BYTES`] long.
///
/// A topic that fails this is a malformed packet, whoever sends it; whether a sound one may be used is another question.
#[must_use]
pub fn valid_topic(topic: &str) -> bool {
    let is_fine = |byte: u8| !matches!(byte, b'+' | b'#' | b'\0');
    !topic.is_empty() && topic.len() <= MAX_TOPIC_BYTES && topic.bytes().all(is_fine)
}

/// True if `filter` may stand in a SUBSCRIBE by the rules of MQTT, and is at most [`MAX_TOPIC_BYTES`] long: `+` fills a
/// whole level, `#` fills the last one.
#[must_use]
pub fn valid_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_TOPIC_BYTES || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_last = levels.peek().is_none();
        let sound = match level {
            "+" => true,
            "#" => is_last,
            other => !other.contains(['+', '#']),
        };
        if !sound {
            return false;
        }
    }
    true
}

/// True if every topic that `filter` can match is matched by `allowed` as well. Both must be valid filters.
#[must_use]
pub(super) fn covers(allowed: &str, filter: &str) -> bool {
    // A wildcard in the first level never matches a topic that starts with `$`.
    if filter.starts_with('$') && allowed.starts_with(['+', '#']) {
        return false;
    }
    let (mut allowed, mut filter) = (allowed.split('/'), filter.split('/'));
    loop {
        match (allowed.next(), filter.next()) {
            (Some("#"), _) | (None, None) => return true,
            // `+` covers any single level, but not `#`, which may stand for several or none.
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(own), Some(level)) if own == level => {}
            _ => return false,
        }
    }
}
