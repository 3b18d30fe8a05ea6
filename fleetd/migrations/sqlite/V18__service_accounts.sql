-- Service accounts are accounts without a password and without an address: password_hash is empty, and email, which must be
-- there and unique, is 'service:' and the id, which is no address.
ALTER TABLE users ADD COLUMN kind TEXT NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'service'));
CREATE INDEX users_by_org ON users (org_id, kind, username);
-- Whose connections end because a key has expired.
CREATE INDEX api_keys_by_expiry ON api_keys (expires_at);
