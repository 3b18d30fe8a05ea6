-- The newest heartbeat of each device on each day before its last one: where the day's chain of its rows ends (that of its
-- last day is in device_state). So every day is read by device, and none needs an index made when it is over.
CREATE TABLE heartbeat_heads (
    day       BIGINT NOT NULL,
    device_id TEXT   NOT NULL REFERENCES devices (id),
    last_row  BIGINT NOT NULL,
    PRIMARY KEY (day, device_id)
) WITHOUT ROWID;
INSERT INTO heartbeat_heads (day, device_id, last_row)
    SELECT day_before, device_id, row_before FROM device_state WHERE day_before IS NOT NULL AND row_before IS NOT NULL;
-- Days from before this, which have an index or may have gaps in their chains, are read as they are.
ALTER TABLE heartbeat_days ADD COLUMN chained BIGINT NOT NULL DEFAULT 1;
UPDATE heartbeat_days SET chained = 0
    WHERE sealed = 1 OR day <= (SELECT max(chain_broken_to) FROM device_state);
ALTER TABLE heartbeat_days DROP COLUMN sealed;
ALTER TABLE device_state DROP COLUMN day_before;
ALTER TABLE device_state DROP COLUMN row_before;
ALTER TABLE device_state DROP COLUMN chain_broken_to;
