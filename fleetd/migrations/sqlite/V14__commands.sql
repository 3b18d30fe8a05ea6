-- Commands, as docs/protocol.md tells. A row is never removed while its command is open.
CREATE TABLE commands (
    id                  TEXT   NOT NULL PRIMARY KEY,
    org_id              TEXT   NOT NULL REFERENCES organizations (id),
    device_id           TEXT   NOT NULL REFERENCES devices (id),
    type                TEXT   NOT NULL,
    payload             TEXT   NOT NULL,
    priority            BIGINT NOT NULL,
    timeout_seconds     BIGINT NOT NULL,
    notes               TEXT,
    -- Who asked: the actor as in the audit log, and the name whose operator/{user}/result hears of it.
    created_by          TEXT   NOT NULL,
    created_by_name     TEXT,
    created_at          BIGINT NOT NULL,
    expires_at          BIGINT NOT NULL,
    -- (created_by_name, reference, device_id) names one command, whichever credential it came with. request_hash tells the same body from another.
    reference           TEXT,
    request_hash        TEXT   NOT NULL,
    override_reason     TEXT,
    override_by         TEXT,
    override_at         BIGINT,
    -- Where it stands. revision rises with every change of the row.
    status              TEXT   NOT NULL,
    inferred            BIGINT NOT NULL DEFAULT 0,
    revision            BIGINT NOT NULL DEFAULT 1,
    held_reason         TEXT,
    progress_percent    BIGINT,
    result              TEXT,
    error               TEXT,
    reason              TEXT,
    acked_at            BIGINT,
    started_at          BIGINT,
    completed_at        BIGINT,
    -- The path it was first sent over ('mqtt', 'http'), and the state database that it was sent to.
    bound               TEXT CHECK (bound IN ('mqtt', 'http')),
    sent_state_id       TEXT,
    sent_at             BIGINT,
    last_sent_at        BIGINT,
    -- What the device has said: the highest report_seq that counted, and when it was last heard of this command.
    report_seq          BIGINT NOT NULL DEFAULT 0,
    heard_at            BIGINT,
    -- Requests to the device, repeated until it answers: when they were made and last sent.
    cancel_requested_at BIGINT,
    cancel_sent_at      BIGINT,
    override_sent_at    BIGINT,
    query_sent_at       BIGINT,
    -- To be queried before anything else is done with it: the server was restored from a copy.
    query_first         BIGINT NOT NULL DEFAULT 0,
    -- The nonce with which the device asks for its group's lease, and when it last asked.
    lease_nonce         BLOB,
    lease_asked_at      BIGINT,
    -- Devices that poll: polls since it was handed out.
    polls_since_sent    BIGINT NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX commands_by_reference ON commands (org_id, created_by_name, reference, device_id) WHERE reference IS NOT NULL;
CREATE INDEX commands_by_request ON commands (org_id, created_by_name, request_hash, created_at);
CREATE INDEX commands_by_org ON commands (org_id, created_at);
CREATE INDEX commands_by_device ON commands (device_id, created_at);
CREATE INDEX commands_open_by_org ON commands (org_id, device_id) WHERE status IN ('pending', 'sent', 'acked', 'held', 'running');
CREATE INDEX commands_open_expiry ON commands (expires_at) WHERE status IN ('pending', 'sent', 'acked', 'held', 'running');
CREATE INDEX commands_open ON commands (device_id) WHERE status IN ('pending', 'sent', 'acked', 'held', 'running');

-- Every step of every command, by both clocks. told: 0 until operator/{user}/result has it.
CREATE TABLE command_history (
    command_id TEXT   NOT NULL REFERENCES commands (id),
    revision   BIGINT NOT NULL,
    org_id     TEXT   NOT NULL REFERENCES organizations (id),
    status     TEXT   NOT NULL,
    at         BIGINT NOT NULL,
    device_at  BIGINT,
    report_seq BIGINT,
    detail     TEXT,
    told       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (command_id, revision)
);
CREATE INDEX command_history_untold ON command_history (at) WHERE told = 0;

-- Nothing disruptive from starts_at until ends_at: for one device, or for every device with a tag.
CREATE TABLE show_locks (
    id         TEXT   NOT NULL PRIMARY KEY,
    org_id     TEXT   NOT NULL REFERENCES organizations (id),
    device_id  TEXT REFERENCES devices (id),
    tag        TEXT,
    starts_at  BIGINT NOT NULL,
    ends_at    BIGINT NOT NULL,
    reason     TEXT   NOT NULL,
    created_by TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK ((device_id IS NULL) <> (tag IS NULL))
);
CREATE UNIQUE INDEX show_locks_by_device ON show_locks (device_id) WHERE device_id IS NOT NULL;
CREATE UNIQUE INDEX show_locks_by_tag ON show_locks (org_id, tag) WHERE tag IS NOT NULL;

-- What each device should be like, as it is sent on its `desired` topic. version rises when the content changes.
CREATE TABLE device_desired (
    device_id  TEXT   NOT NULL PRIMARY KEY REFERENCES devices (id),
    org_id     TEXT   NOT NULL REFERENCES organizations (id),
    version    BIGINT NOT NULL,
    -- The desired config alone, as people and `config` commands set it.
    config     TEXT   NOT NULL DEFAULT '{}',
    -- [[from, until], …] in ms, redundancy group, target release: as of this version.
    show_locks TEXT   NOT NULL DEFAULT '[]',
    -- For each of show_locks the first version that has it.
    lock_versions    TEXT NOT NULL DEFAULT '[]',
    redundancy_group TEXT,
    target_version   TEXT,
    updated_at BIGINT NOT NULL
);

-- When the device was last known to be connected by MQTT or exchange; its birth, its records and its will count.
ALTER TABLE device_state ADD COLUMN connected_at BIGINT;

-- One row for each redundancy group: whose turn it is to be disrupted.
CREATE TABLE redundancy_leases (
    org_id        TEXT   NOT NULL REFERENCES organizations (id),
    name          TEXT   NOT NULL,
    revision      BIGINT NOT NULL,
    -- The holder; all NULL while nobody has it.
    device_id     TEXT REFERENCES devices (id),
    command_id    TEXT REFERENCES commands (id),
    nonce         BLOB,
    granted_at    BIGINT,
    -- After a restore: nothing is granted until every member has given birth since then.
    restored_at   BIGINT,
    -- When an admin last released the group: what its members were at until then counts no more.
    released_at   BIGINT,
    PRIMARY KEY (org_id, name)
);
CREATE INDEX redundancy_leases_by_device ON redundancy_leases (device_id) WHERE device_id IS NOT NULL;
CREATE INDEX devices_by_group ON devices (org_id, redundancy_group) WHERE redundancy_group IS NOT NULL;
CREATE INDEX devices_gone ON devices (decommissioned_at) WHERE decommissioned_at IS NOT NULL;
