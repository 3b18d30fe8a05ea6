-- The audit log becomes a chain that only grows: `number` counts without gaps, `hash` covers the entry and the hash of the
-- entry before it (`audit_hash`, a function of fleetd's own). Entries from before are chained in the order in which they
-- were added. See docs/audit.md.
CREATE TABLE audit_chain (
    number        INTEGER NOT NULL PRIMARY KEY,
    id            TEXT    NOT NULL,
    org_id        TEXT    REFERENCES organizations (id),
    at            BIGINT  NOT NULL,
    actor         TEXT    NOT NULL,
    action        TEXT    NOT NULL,
    resource_type TEXT    NOT NULL,
    resource_id   TEXT    NOT NULL,
    outcome       TEXT    NOT NULL CHECK (outcome IN ('ok', 'refused')),
    details       TEXT    NOT NULL,
    ip_address    TEXT,
    user_agent    TEXT,
    hash          TEXT    NOT NULL CHECK (length(hash) = 64)
);

-- One step for each entry: nothing is gathered, however many there are.
WITH RECURSIVE chain (number, old, hash) AS (
    SELECT 0, 0, ''
    UNION ALL
    SELECT c.number + 1, o.rowid,
           audit_hash(c.hash, c.number + 1, o.id, o.org_id, o.at, o.actor, o.action, o.resource_type, o.resource_id,
                      o.outcome, o.details, o.ip_address, o.user_agent)
    FROM chain c CROSS JOIN audit_log o
    WHERE o.rowid = (SELECT min(n.rowid) FROM audit_log n WHERE n.rowid > c.old)
)
INSERT INTO audit_chain (number, id, org_id, at, actor, action, resource_type, resource_id, outcome, details,
                         ip_address, user_agent, hash)
SELECT c.number, o.id, o.org_id, o.at, o.actor, o.action, o.resource_type, o.resource_id, o.outcome, o.details,
       o.ip_address, o.user_agent, c.hash
FROM chain c CROSS JOIN audit_log o WHERE o.rowid = c.old;

-- Where there were entries, the log says itself from where on it was chained as it was written.
INSERT INTO audit_chain (number, id, org_id, at, actor, action, resource_type, resource_id, outcome, details, hash)
SELECT number, id, NULL, at, 'system', 'audit.chain', 'audit_log', '', 'ok', details,
       audit_hash(before, number, id, NULL, at, 'system', 'audit.chain', 'audit_log', '', 'ok', details, NULL, NULL)
FROM (SELECT number + 1 AS number, hash AS before, json_object('entries_before', number) AS details,
             CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS at,
             substr(u, 1, 8) || '-' || substr(u, 9, 4) || '-4' || substr(u, 14, 3) || '-8' || substr(u, 18, 3) || '-'
             || substr(u, 21, 12) AS id
      FROM (SELECT number, hash, lower(hex(randomblob(16))) AS u FROM audit_chain ORDER BY number DESC LIMIT 1));

DROP TABLE audit_log;
ALTER TABLE audit_chain RENAME TO audit_log;
CREATE INDEX audit_log_by_org ON audit_log (org_id, number, at);

CREATE TRIGGER audit_log_is_not_changed BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log only grows: an entry is not changed'); END;
CREATE TRIGGER audit_log_is_not_cut BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log only grows: an entry is not deleted'); END;
