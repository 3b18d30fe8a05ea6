-- Every other table is scoped by organisation. Times are milliseconds since 1970; ids are text (UUID); flags are 0 or 1.
CREATE TABLE organizations (
    id          TEXT   NOT NULL PRIMARY KEY,
    slug        TEXT   NOT NULL UNIQUE,
    name        TEXT   NOT NULL,
    settings    TEXT   NOT NULL DEFAULT '{}',
    max_devices BIGINT,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);

-- The organisation that is always there.
INSERT INTO organizations (id, slug, name, created_at, updated_at)
VALUES ('00000000-0000-4000-8000-000000000001', 'default', 'Default',
        CAST(strftime('%s', 'now') AS BIGINT) * 1000, CAST(strftime('%s', 'now') AS BIGINT) * 1000);

-- Devices, users and service accounts of an organisation share one name space: this key holds it.
CREATE TABLE principal_names (
    org_id   TEXT NOT NULL REFERENCES organizations (id),
    name     TEXT NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('device', 'user', 'service')),
    owner_id TEXT NOT NULL,
    PRIMARY KEY (org_id, name)
);
