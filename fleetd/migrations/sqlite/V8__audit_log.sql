-- Who changed what, or tried to, and from where. org_id is null where no organisation could be told (a failed login).
CREATE TABLE audit_log (
    id            TEXT   NOT NULL PRIMARY KEY,
    org_id        TEXT   REFERENCES organizations (id),
    at            BIGINT NOT NULL,
    actor         TEXT   NOT NULL,
    action        TEXT   NOT NULL,
    resource_type TEXT   NOT NULL,
    resource_id   TEXT   NOT NULL,
    outcome       TEXT   NOT NULL CHECK (outcome IN ('ok', 'refused')),
    details       TEXT   NOT NULL DEFAULT '{}',
    ip_address    TEXT,
    user_agent    TEXT
);
CREATE INDEX audit_log_by_time ON audit_log (org_id, at);
