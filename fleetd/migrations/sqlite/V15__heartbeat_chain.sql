-- Where a device's newest heartbeat lies: the day's table (as in heartbeat_days) and its row; each row there names the
-- device's row before it. The second pair is the newest of the day before that on which the device was heard.
ALTER TABLE device_state ADD COLUMN heartbeat_day BIGINT;
ALTER TABLE device_state ADD COLUMN heartbeat_row BIGINT;
ALTER TABLE device_state ADD COLUMN day_before BIGINT;
ALTER TABLE device_state ADD COLUMN row_before BIGINT;
-- Up to this day the chain may have gaps: the server's clock went back.
ALTER TABLE device_state ADD COLUMN chain_broken_to BIGINT;
-- Heartbeats from before have no chain: their days are read row by row until they are sealed.
UPDATE device_state SET chain_broken_to = (SELECT max(day) FROM heartbeat_days);
-- Lists and counts of devices in service.
CREATE INDEX devices_in_service ON devices (org_id, device_id) WHERE decommissioned_at IS NULL;
