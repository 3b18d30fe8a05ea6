//! The beginning and the end of what a program writes. Memory does not grow with what lies between.

use std::collections::VecDeque;

/// Takes bytes, keeps the first and the last ones.
#[derive(Debug)]
pub(super) struct Capture {
    keep: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

/// What a program wrote, as text that can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    /// The beginning, a note about what is left out, and the end. Bytes that are no UTF-8 and control characters other
    /// than line ends and tabs are replaced.
    pub(crate) text: String,
    /// Whether something is left out.
    pub(crate) truncated: bool,
    /// How many bytes it wrote.
    pub(crate) total_bytes: u64,
}

impl Capture {
    /// For `keep` bytes of the beginning and `keep` of the end.
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let to_head = bytes.len().min(self.keep - self.head.len());
        let (head, rest) = bytes.split_at(to_head);
        self.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(self.keep)..];
        let too_many = (self.tail.len() + rest.len()).saturating_sub(self.keep);
        self.tail.drain(..too_many);
        self.tail.extend(rest);
    }

    pub(super) fn finish(mut self) -> Output {
        let left_out = self.total - self.head.len() as u64 - self.tail.len() as u64;
        if left_out == 0 {
            self.head.extend(&self.tail);
            return Output { text: showable(&self.head), truncated: false, total_bytes: self.total };
        }
        let mut text = showable(&self.head);
        text.push_str(&format!("\n[… {left_out} bytes left out …]\n"));
        text.push_str(&showable(self.tail.make_contiguous()));
        Output { text, truncated: true, total_bytes: self.total }
    }
}

/// The bytes as text of about the same length: one character of one byte stands for what cannot be shown, so that
/// garbage does not triple in size.
fn showable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '?',
            c => c,
        }));
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    // Windows line ends and progress bars leave carriage returns.
    text.replace("?\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(keep: usize, pieces: &[&[u8]]) -> Output {
        let mut capture = Capture::new(keep);
        pieces.iter().for_each(|piece| capture.take(piece));
        capture.finish()
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let output = written(4, &[b"ab", b"cdef", b"gh"]);
        assert_eq!((output.text.as_str(), output.truncated, output.total_bytes), ("abcdefgh", false, 8));
        assert_eq!(written(4, &[]).text, "");
    }

    #[test]
    fn beginning_and_end_are_kept_of_what_does_not_fit() {
        let output = written(4, &[b"abcdef", b"ghij"]);
        assert_eq!((output.text.as_str(), output.truncated), ("abcd\n[… 2 bytes left out …]\nghij", true));
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_one_by_one() {
        assert_eq!(written(99, &[b"a\xff\xfe\x1b[1m\r\nb\tc\xc3\xa4"]).text, "a???[1m\nb\tc\u{e4}");
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_was_asked_for(
            keep in 1_usize..40,
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let mut capture = Capture::new(keep);
            for piece in &pieces {
                capture.take(piece);
                prop_assert!(capture.head.len() <= keep && capture.tail.len() <= keep);
            }
            let all = pieces.concat();
            prop_assert_eq!(capture.total, all.len() as u64);
            prop_assert_eq!(&capture.head, &all[..all.len().min(keep)]);
            let tail = &all[all.len().min(keep)..];
            let tail = &tail[tail.len().saturating_sub(keep)..];
            prop_assert!(capture.tail.iter().eq(tail));
            prop_assert_eq!(capture.finish().truncated, all.len() > 2 * keep);
        }
    }
}
