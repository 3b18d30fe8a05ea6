-- The server was restored from a copy then, and this device has not shown since that it has nothing open of which the
-- server does not know: until then its redundancy group has no lease to give.
ALTER TABLE devices ADD COLUMN restored_at BIGINT;
UPDATE devices SET restored_at = (SELECT l.restored_at FROM redundancy_leases l
    WHERE l.org_id = devices.org_id AND l.name = devices.redundancy_group);
ALTER TABLE redundancy_leases DROP COLUMN restored_at;
