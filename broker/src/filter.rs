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
    let begins_level = |at: usize| at == 0 || filter[at - 1] == b'/';
    let (mut f, mut t) = (0, 0);
    loop {
        // What is the same has no wildcard in it.
        let same = common_len(&filter[f..], &topic[t..]);
        (f, t) = (f + same, t + same);
        match filter.get(f) {
            None => return t == topic.len(),
            Some(b'#') => return begins_level(f),
            Some(b'+') if begins_level(f) => {
                f += 1;
                t += topic[t..].iter().take_while(|byte| **byte != b'/').count();
            }
            // `a/#` matches `a` as well.
            Some(b'/') if t == topic.len() => return filter.get(f + 1) == Some(&b'#'),
            _ => return false,
        }
    }
}

/// How many bytes at the beginning are the same.
fn common_len(a: &[u8], b: &[u8]) -> usize {
    let (a_words, b_words) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let words = 8 * a_words.iter().zip(b_words).take_while(|(a, b)| a == b).count();
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
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
