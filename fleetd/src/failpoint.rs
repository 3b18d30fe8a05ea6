//! Where a test may kill the server in the path of a command, a backup or a restore; see [`protocol::failpoint`].

/// Every place in the path of a command, by name.
pub const ALL: &[&str] = &[
    SENT_BEFORE_COMMIT,
    SENT_AFTER_COMMIT,
    SENT_AFTER_PUBLISH,
    REQUEST_AFTER_COMMIT,
    REQUEST_AFTER_PUBLISH,
    LEASE_BEFORE_COMMIT,
    LEASE_AFTER_COMMIT,
    LEASE_AFTER_PUBLISH,
    DESIRED_AFTER_PUBLISH,
    REPORTS_BEFORE_COMMIT,
    REPORTS_AFTER_COMMIT,
    TOKEN_BEFORE_COMMIT,
    TOKEN_AFTER_COMMIT,
    RESULT_AFTER_PUBLISH,
    RESULT_AFTER_TOLD,
    OPERATOR_BEFORE_ANSWER,
    CREATE_BEFORE_COMMIT,
    CREATE_AFTER_COMMIT,
    CHANGE_BEFORE_COMMIT,
    CHANGE_AFTER_COMMIT,
];

/// A command is about to be marked as sent.
pub const SENT_BEFORE_COMMIT: &str = "sent_before_commit";
/// It is marked, and not published.
pub const SENT_AFTER_COMMIT: &str = "sent_after_commit";
/// It is published, for the first time or again.
pub const SENT_AFTER_PUBLISH: &str = "sent_after_publish";
/// A cancel, override or query is noted, and not published.
pub const REQUEST_AFTER_COMMIT: &str = "request_after_commit";
/// It is published.
pub const REQUEST_AFTER_PUBLISH: &str = "request_after_publish";
/// A lease is about to be given.
pub const LEASE_BEFORE_COMMIT: &str = "lease_before_commit";
/// It is given, and its device does not know.
pub const LEASE_AFTER_COMMIT: &str = "lease_after_commit";
/// Its device is told.
pub const LEASE_AFTER_PUBLISH: &str = "lease_after_publish";
/// A desired state is published.
pub const DESIRED_AFTER_PUBLISH: &str = "desired_after_publish";
/// Reports of a device are about to be committed.
pub const REPORTS_BEFORE_COMMIT: &str = "reports_before_commit";
/// They are committed, and the device does not know.
pub const REPORTS_AFTER_COMMIT: &str = "reports_after_commit";
/// A device came with its new token, which is about to become the only one.
pub const TOKEN_BEFORE_COMMIT: &str = "token_before_commit";
/// It is the only one.
pub const TOKEN_AFTER_COMMIT: &str = "token_after_commit";
/// Results are published, and would be published again.
pub const RESULT_AFTER_PUBLISH: &str = "result_after_publish";
/// They are marked as told.
pub const RESULT_AFTER_TOLD: &str = "result_after_told";
/// What an operator asked for is done, and the operator was not answered.
pub const OPERATOR_BEFORE_ANSWER: &str = "operator_before_answer";
/// A command for one device is about to be created.
pub const CREATE_BEFORE_COMMIT: &str = "create_before_commit";
/// It is created, and nobody was told.
pub const CREATE_AFTER_COMMIT: &str = "create_after_commit";
/// A cancel or override is about to be noted.
pub const CHANGE_BEFORE_COMMIT: &str = "change_before_commit";
/// It is noted, and nobody was told.
pub const CHANGE_AFTER_COMMIT: &str = "change_after_commit";

/// The places of a backup, by name.
pub const BACKUP: &[&str] = &[BACKUP_AFTER_SNAPSHOT, BACKUP_AFTER_PACKING, BACKUP_AFTER_RENAME];

/// The database is copied, and nothing of it packed.
pub const BACKUP_AFTER_SNAPSHOT: &str = "backup_after_snapshot";
/// The file is whole, and has not got its name.
pub const BACKUP_AFTER_PACKING: &str = "backup_after_packing";
/// It has its name.
pub const BACKUP_AFTER_RENAME: &str = "backup_after_rename";

/// The places of a restore, by name; at [`RESTORE_AFTER_MOVE`] it comes by several times.
pub const RESTORE: &[&str] = &[
    RESTORE_AFTER_UNPACKING,
    RESTORE_AFTER_MARKING,
    RESTORE_BEFORE_DECISION,
    RESTORE_AFTER_DECISION,
    RESTORE_AFTER_MOVE,
    RESTORE_AFTER_SWAP,
];

/// Everything is unpacked beside the old data.
pub const RESTORE_AFTER_UNPACKING: &str = "restore_after_unpacking";
/// The new database knows that it was restored.
pub const RESTORE_AFTER_MARKING: &str = "restore_after_marking";
/// What has to move is written down, and does not count yet.
pub const RESTORE_BEFORE_DECISION: &str = "restore_before_decision";
/// It counts, and nothing has moved.
pub const RESTORE_AFTER_DECISION: &str = "restore_after_decision";
/// One part has moved.
pub const RESTORE_AFTER_MOVE: &str = "restore_after_move";
/// Everything has moved.
pub const RESTORE_AFTER_SWAP: &str = "restore_after_swap";
