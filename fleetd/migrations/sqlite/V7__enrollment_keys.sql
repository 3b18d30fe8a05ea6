-- Keys that let a device register itself. uses counts devices, not requests.
CREATE TABLE enrollment_keys (
    id               TEXT   NOT NULL PRIMARY KEY,
    org_id           TEXT   NOT NULL REFERENCES organizations (id),
    key_prefix       TEXT   NOT NULL,
    key_sha256       TEXT   NOT NULL UNIQUE,
    max_uses         BIGINT,
    uses             BIGINT NOT NULL DEFAULT 0,
    require_approval BIGINT NOT NULL DEFAULT 0,
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT,
    revoked_at       BIGINT
);
CREATE INDEX enrollment_keys_by_org ON enrollment_keys (org_id);
