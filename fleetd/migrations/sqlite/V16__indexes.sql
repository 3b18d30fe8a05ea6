-- Which devices are online. Without last_seen_at, which every heartbeat changes.
DROP INDEX device_state_online;
CREATE INDEX device_state_online ON device_state (device_id) WHERE online = 1;
-- With all that a page or a count of devices in service asks for, so that what is skipped or counted is not looked up.
DROP INDEX devices_in_service;
CREATE INDEX devices_in_service ON devices (org_id, device_id, id, decommissioned_at) WHERE decommissioned_at IS NULL;
