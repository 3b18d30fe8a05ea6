//! With what the next connection is made, after what has become of the ones before. Pure.
//!
//! A certificate that is refused must not keep the device away, and a bad network must not make a good certificate look bad. So
//! after a failure that may be the certificate's fault the token is tried, in turns with it; and a certificate is given up when it
//! was refused in words, or failed twice in a row where the token got through.

/// With what a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum With {
    /// The token.
    Token,
    /// The certificate that is configured.
    Certificate,
    /// A new one, which is tried out.
    Candidate,
}

/// Whether the certificate is why a connection did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The network is, or something else.
    Innocent,
    /// It may be.
    Possible,
    /// The other end has said so.
    Certain,
}

/// So many failures in a row that may be the certificate's fault, and it is.
const ENOUGH: u8 = 2;

/// What is thought of the certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Trial {
    doubts: u8,
    token_next: bool,
}

impl Trial {
    /// With what the next connection is to be made, where there are both.
    pub(crate) fn next(self) -> With {
        if self.token_next { With::Token } else { With::Certificate }
    }

    /// A connection did not come to where the server answers.
    pub(crate) fn failed(&mut self, with: With, blame: Blame) {
        match (with, blame) {
            (With::Token, _) => self.token_next = false,
            (With::Certificate, Blame::Possible) => self.doubts = self.doubts.saturating_add(1),
            (With::Certificate, Blame::Certain) => self.doubts = ENOUGH,
            (With::Certificate, Blame::Innocent) | (With::Candidate, _) => return,
        }
        self.token_next = with == With::Certificate;
    }

    /// The server has answered.
    pub(crate) fn answered(&mut self, with: With) {
        match with {
            With::Token => self.token_next = self.is_bad(),
            With::Certificate | With::Candidate => *self = Self::default(),
        }
    }

    /// Whether another one is needed.
    pub(crate) fn is_bad(self) -> bool {
        self.doubts >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_refused_is_followed_by_the_token_until_there_is_another() {
        let mut trial = Trial::default();
        assert_eq!(trial.next(), With::Certificate);
        trial.failed(With::Certificate, Blame::Certain);
        assert!(trial.is_bad());
        assert_eq!(trial.next(), With::Token);
        trial.answered(With::Token);
        assert_eq!(trial.next(), With::Token, "it was good the last time");
        trial.answered(With::Candidate);
        assert_eq!(trial, Trial::default());
    }

    #[test]
    fn a_network_that_is_away_says_nothing_about_the_certificate() {
        let mut trial = Trial::default();
        for _ in 0..10 {
            trial.failed(With::Certificate, Blame::Innocent);
            assert_eq!((trial.next(), trial.is_bad()), (With::Certificate, false));
        }
    }

    #[test]
    fn a_connection_that_breaks_is_doubted_once_and_believed_again_when_it_works() {
        let mut trial = Trial::default();
        trial.failed(With::Certificate, Blame::Possible);
        assert_eq!((trial.next(), trial.is_bad()), (With::Token, false));
        trial.answered(With::Token);
        assert_eq!(trial.next(), With::Certificate);
        trial.answered(With::Certificate);
        trial.failed(With::Certificate, Blame::Possible);
        assert!(!trial.is_bad());
        trial.answered(With::Token);
        trial.failed(With::Certificate, Blame::Possible);
        assert!(trial.is_bad(), "the token gets through, the certificate does not, twice");
    }

    #[test]
    fn neither_keeps_the_other_from_being_tried() {
        // The token was changed and the network is bad: the certificate has its turns all the same.
        let mut trial = Trial::default();
        trial.failed(With::Certificate, Blame::Certain);
        let mut tried = Vec::new();
        for _ in 0..6 {
            tried.push(trial.next());
            trial.failed(trial.next(), Blame::Certain);
        }
        assert_eq!(tried.iter().filter(|with| **with == With::Token).count(), 3, "{tried:?}");
    }
}
