-- The latest that is known of each device: its connection, its last birth, its last heartbeat, its reported config.
-- Kept apart from the heartbeats themselves, so that their retention does not touch it.
CREATE TABLE device_state (
    device_id         TEXT   NOT NULL PRIMARY KEY REFERENCES devices (id),
    org_id            TEXT   NOT NULL REFERENCES organizations (id),
    -- Connection. will_at: when the last birth's connection was said to be lost; cleared by any later sign of life.
    online            BIGINT NOT NULL DEFAULT 0,
    last_seen_at      BIGINT,
    will_at           BIGINT,
    interval_seconds  BIGINT NOT NULL DEFAULT 60,
    transport         TEXT,
    ip_address        TEXT,
    -- The last birth.
    state_id          TEXT,
    connection        BIGINT,
    birth_at          BIGINT,
    birth             TEXT,
    agent_version     TEXT,
    app_version       TEXT,
    -- The newest heartbeat, by the time at which it was taken (heartbeat_at); last_heartbeat is when it arrived.
    last_heartbeat    BIGINT,
    heartbeat_at      BIGINT,
    cpu_percent       DOUBLE PRECISION,
    mem_percent       DOUBLE PRECISION,
    disk_free_gb      DOUBLE PRECISION,
    temperature_c     DOUBLE PRECISION,
    uptime_seconds    BIGINT,
    recording_active  BIGINT NOT NULL DEFAULT 0,
    mixer_active      BIGINT NOT NULL DEFAULT 0,
    degradation_level BIGINT NOT NULL DEFAULT 0,
    live              BIGINT,
    outbox_depth      BIGINT,
    commands_digest   BLOB,
    -- The config that the device says it runs with.
    reported_version  BIGINT,
    reported_config   TEXT,
    reported_errors   TEXT,
    reported_at       BIGINT
);
CREATE INDEX device_state_online ON device_state (online, last_seen_at);
CREATE INDEX device_state_by_org ON device_state (org_id);
