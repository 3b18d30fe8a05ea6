//! Topic names and topic filters of MQTT, as text.
//!
//! What a filter may look like, and who may use it, is the business of [`access`](crate::access).

/// True if a message on `topic` is for a subscriber of `filter`. Topics that begin with `$` match no filter that
/// begins with a wildcard.
pub(crate) fn matches(filter: impl AsRef<[u8]>, topic: impl AsRef<[u8]>) -> bool {
    // In bytes, as it is done for every message and subscription.
    let (filter, topic) = (filter.as_ref(), topic.as_ref());
    if topic.first() == Some(&b'$') && matches!(filter.first(), Some(b'+' | b'#')) {
        return false;
    }
    let ends_level = |at: usize| matches!(filter.get(at), None | Some(b'/'));
    // What is the same at the beginning has no wildcard.
    let (a, b) = (filter.as_chunks::<8>().0, topic.as_chunks::<8>().0);
    let same = 8 * a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let begin = filter[..same].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (mut f, mut t) = (begin, begin);
    loop {
        // At the beginning of a level of both, or behind the topic's last one.
        match filter.get(f) {
            Some(b'#') if ends_level(f + 1) => return true,
            Some(b'+') if t <= topic.len() && ends_level(f + 1) => {
                f += 1;
                t += topic[t..].iter().take_while(|byte| **byte != b'/').count();
            }
            _ => {
                while let Some(byte) = filter.get(f).filter(|byte| **byte != b'/') {
                    if topic.get(t) != Some(byte) {
                        return false;
                    }
                    (f, t) = (f + 1, t + 1);
                }
            }
        }
        match (filter.get(f), topic.get(t)) {
            (None, None) => return t == topic.len(),
            (Some(_), Some(b'/') | None) if t <= topic.len() => (f, t) = (f + 1, t + 1),
            _ => return false,
        }
    }
}

/// True if some topic matches both filters.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(x), Some(y)) if x == y => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// The text that every topic matching `filter` begins with.
pub(crate) fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']) {
        // `a/#` matches `a` as well.
        Some(at) if filter.as_bytes()[at] == b'#' => filter[..at].trim_end_matches('/'),
        Some(at) => &filter[..at],
        None => filter,
    }
}

#[cfg(test)]
mod tests;
