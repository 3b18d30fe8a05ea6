-- Whose live connections must end: written together with the change that ends them, read by every server process.
-- source: the process that has already seen to its own connections.
CREATE TABLE revocations (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     BIGINT NOT NULL,
    org_id TEXT   NOT NULL REFERENCES organizations (id),
    kind   TEXT   NOT NULL CHECK (kind IN ('device', 'person')),
    name   TEXT   NOT NULL,
    source TEXT   NOT NULL
);
