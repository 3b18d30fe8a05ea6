-- One row for each refresh token given out; only the SHA-256 is kept. A token is used once: the next one of the
-- same family takes its place, and a second use ends the whole family.
CREATE TABLE refresh_tokens (
    id            TEXT   NOT NULL PRIMARY KEY,
    org_id        TEXT   NOT NULL REFERENCES organizations (id),
    user_id       TEXT   NOT NULL REFERENCES users (id),
    family_id     TEXT   NOT NULL,
    token_sha256  TEXT   NOT NULL UNIQUE,
    token_version BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL,
    used_at       BIGINT
);
CREATE INDEX refresh_tokens_by_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_by_expiry ON refresh_tokens (expires_at);
