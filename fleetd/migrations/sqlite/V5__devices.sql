-- What is known of a device by registration and by hand. What it says of itself (heartbeats) is kept elsewhere.
-- A row is never removed: decommissioned_at ends it, and a later registration of the same id revives it.
CREATE TABLE devices (
    id                   TEXT   NOT NULL PRIMARY KEY,
    org_id               TEXT   NOT NULL REFERENCES organizations (id),
    device_id            TEXT   NOT NULL,
    name                 TEXT   NOT NULL,
    approval             TEXT   NOT NULL CHECK (approval IN ('approved', 'awaiting')),
    maintenance          BIGINT NOT NULL DEFAULT 0,
    platform             TEXT,
    arch                 TEXT   NOT NULL,
    serial_number        TEXT,
    mac_address          TEXT,
    registered_version   TEXT,
    target_version       TEXT,
    update_channel       TEXT   NOT NULL DEFAULT 'stable',
    capabilities         TEXT   NOT NULL DEFAULT '{}',
    location             TEXT,
    tags                 TEXT   NOT NULL DEFAULT '[]',
    metadata             TEXT   NOT NULL DEFAULT '{}',
    notes                TEXT,
    redundancy_group     TEXT,
    reenrollment_allowed BIGINT NOT NULL DEFAULT 0,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    decommissioned_at    BIGINT,
    revision             BIGINT NOT NULL DEFAULT 1,
    UNIQUE (org_id, device_id)
);

-- The tags again, one row each, so that a list can be filtered by one.
CREATE TABLE device_tags (
    org_id    TEXT NOT NULL REFERENCES organizations (id),
    device_id TEXT NOT NULL REFERENCES devices (id),
    tag       TEXT NOT NULL,
    PRIMARY KEY (device_id, tag)
);
CREATE INDEX device_tags_by_tag ON device_tags (org_id, tag);
