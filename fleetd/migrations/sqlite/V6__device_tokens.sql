-- The SHA-256 of a device's token. 'current' is the one in use; 'pending' is announced by a rotation and takes its
-- place when it is first used.
CREATE TABLE device_tokens (
    org_id       TEXT   NOT NULL REFERENCES organizations (id),
    device_id    TEXT   NOT NULL REFERENCES devices (id),
    slot         TEXT   NOT NULL CHECK (slot IN ('current', 'pending')),
    token_sha256 TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    PRIMARY KEY (device_id, slot)
);
CREATE INDEX device_tokens_by_hash ON device_tokens (token_sha256);
