-- Which sequence numbers of a device's state database are committed, as JSON [[lo, hi], …]. Outlives the records.
CREATE TABLE record_states (
    device_id TEXT   NOT NULL REFERENCES devices (id),
    state_id  TEXT   NOT NULL,
    org_id    TEXT   NOT NULL REFERENCES organizations (id),
    committed TEXT   NOT NULL,
    first_at  BIGINT NOT NULL,
    last_at   BIGINT NOT NULL,
    revision  BIGINT NOT NULL,
    PRIMARY KEY (device_id, state_id)
);

-- Records that could not be understood, cut to a bounded size, the newest few of each device.
CREATE TABLE poison_records (
    device_id   TEXT   NOT NULL REFERENCES devices (id),
    state_id    TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    org_id      TEXT   NOT NULL REFERENCES organizations (id),
    topic       TEXT   NOT NULL,
    received_at BIGINT NOT NULL,
    reason      TEXT   NOT NULL,
    size_bytes  BIGINT NOT NULL,
    raw         BLOB   NOT NULL,
    PRIMARY KEY (device_id, state_id, seq)
);
CREATE INDEX poison_records_by_time ON poison_records (device_id, received_at);

-- What devices reported about commands, as it came.
CREATE TABLE command_reports (
    device_id   TEXT   NOT NULL REFERENCES devices (id),
    state_id    TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    org_id      TEXT   NOT NULL REFERENCES organizations (id),
    received_at BIGINT NOT NULL,
    ts          BIGINT NOT NULL,
    command_id  TEXT   NOT NULL,
    report_seq  BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    body        TEXT   NOT NULL,
    PRIMARY KEY (device_id, state_id, seq)
);
CREATE INDEX command_reports_by_command ON command_reports (command_id, report_seq);

CREATE TABLE device_events (
    device_id   TEXT   NOT NULL REFERENCES devices (id),
    state_id    TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    org_id      TEXT   NOT NULL REFERENCES organizations (id),
    received_at BIGINT NOT NULL,
    ts          BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    details     TEXT,
    PRIMARY KEY (device_id, state_id, seq)
);
CREATE INDEX device_events_by_time ON device_events (received_at);

-- One row for each line. A batch is one record: (device_id, state_id, seq) names it, line counts within it.
CREATE TABLE log_records (
    device_id   TEXT   NOT NULL REFERENCES devices (id),
    state_id    TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    line        BIGINT NOT NULL,
    org_id      TEXT   NOT NULL REFERENCES organizations (id),
    received_at BIGINT NOT NULL,
    ts          BIGINT NOT NULL,
    unit        TEXT   NOT NULL,
    level       TEXT   NOT NULL,
    message     TEXT   NOT NULL,
    fields      TEXT,
    PRIMARY KEY (device_id, state_id, seq, line)
);
CREATE INDEX log_records_by_device ON log_records (device_id, received_at);
CREATE INDEX log_records_by_time ON log_records (received_at);
