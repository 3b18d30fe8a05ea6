-- Which devices are online. Without last_seen_at, which every heartbeat changes.
DROP INDEX device_state_online;
CREATE INDEX device_state_online ON device_state (device_id) WHERE online = 1;
