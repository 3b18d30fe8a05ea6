//! Bugs that the simulation must find: each is one line of the drivers around the real code, done wrong.

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The server acknowledges before it commits.
    AckBeforeCommit,
    /// The agent does not write `running` to its disk before the effect.
    RunningNotJournalled,
    /// The server sends a command again that its device has answered.
    AnsweredSentAgain,
    /// The agent forgets a record when the broker has it.
    ForgottenAtReceipt,
    /// The server forgets over a restart what it has committed.
    DedupeForgotten,
    /// A power cut takes the last write to the journal back.
    JournalNotSynced,
    /// What was cut off in the middle is begun anew.
    CutOffRunsAgain,
    /// Whatever was cut off is said not to have happened.
    ProbeSaysNotDone,
    /// The server gives a lease that somebody has.
    LeaseTwice,
    /// A restored server trusts what its copy says of open commands.
    QueryFirstForgotten,
    /// A restored server gives leases as if nothing had been forgotten.
    RestoreGivesLease,
    /// A report moves a command wherever it says.
    EndOverwritten,
    /// The last look at the application is not taken: what was seen before counts.
    StaleLook,
    /// An older copy of the device's state goes on under its old name.
    OldCopyUnnoticed,
    /// The server says `go`, and writes the lease down never.
    LeaseNotWritten,
    /// The server gives its word on a command before `sent` is committed.
    SentBeforeCommit,
    /// A thinned record is not told of.
    ThinnedSilently,
    /// Records are sent before the device's disk has it that they may have been.
    ReleaseNotWritten,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::AckBeforeCommit,
        Self::RunningNotJournalled,
        Self::AnsweredSentAgain,
        Self::ForgottenAtReceipt,
        Self::DedupeForgotten,
        Self::JournalNotSynced,
        Self::CutOffRunsAgain,
        Self::ProbeSaysNotDone,
        Self::LeaseTwice,
        Self::QueryFirstForgotten,
        Self::RestoreGivesLease,
        Self::EndOverwritten,
        Self::StaleLook,
        Self::OldCopyUnnoticed,
        Self::LeaseNotWritten,
        Self::SentBeforeCommit,
        Self::ThinnedSilently,
        Self::ReleaseNotWritten,
    ];

    /// The name on a command line.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

impl std::str::FromStr for Bug {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|bug| bug.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.into_iter().map(Self::name).collect();
            format!("unknown bug; one of {}", names.join(", "))
        })
    }
}
