-- Raw heartbeats lie in one table for each day of arrival (UTC), heartbeats_YYYYMMDD, made by the server when the day
-- comes near and dropped whole. This is the list of them. aggregated_id: rows up to it are in the roll-ups.
CREATE TABLE heartbeat_days (
    day           BIGINT NOT NULL PRIMARY KEY,
    sealed        BIGINT NOT NULL DEFAULT 0,
    aggregated_id BIGINT NOT NULL DEFAULT 0
);

-- Sums from which averages follow, for each device and hour or day (UTC) in which heartbeats were taken.

CREATE TABLE rollups_hourly (
    device_id TEXT NOT NULL REFERENCES devices (id),
    starts_at BIGINT NOT NULL,
    org_id TEXT NOT NULL REFERENCES organizations (id),
    samples BIGINT NOT NULL,
    recording_ms BIGINT NOT NULL,
    mixer_ms BIGINT NOT NULL,
    cpu_percent_n BIGINT NOT NULL,
    cpu_percent_sum DOUBLE PRECISION,
    cpu_percent_min DOUBLE PRECISION,
    cpu_percent_max DOUBLE PRECISION,
    mem_percent_n BIGINT NOT NULL,
    mem_percent_sum DOUBLE PRECISION,
    mem_percent_min DOUBLE PRECISION,
    mem_percent_max DOUBLE PRECISION,
    disk_free_gb_n BIGINT NOT NULL,
    disk_free_gb_sum DOUBLE PRECISION,
    disk_free_gb_min DOUBLE PRECISION,
    disk_free_gb_max DOUBLE PRECISION,
    temperature_c_n BIGINT NOT NULL,
    temperature_c_sum DOUBLE PRECISION,
    temperature_c_min DOUBLE PRECISION,
    temperature_c_max DOUBLE PRECISION,
    load_1_n BIGINT NOT NULL,
    load_1_sum DOUBLE PRECISION,
    load_1_min DOUBLE PRECISION,
    load_1_max DOUBLE PRECISION,
    PRIMARY KEY (device_id, starts_at)
);
CREATE INDEX rollups_hourly_by_time ON rollups_hourly (starts_at);

CREATE TABLE rollups_daily (
    device_id TEXT NOT NULL REFERENCES devices (id),
    starts_at BIGINT NOT NULL,
    org_id TEXT NOT NULL REFERENCES organizations (id),
    samples BIGINT NOT NULL,
    recording_ms BIGINT NOT NULL,
    mixer_ms BIGINT NOT NULL,
    cpu_percent_n BIGINT NOT NULL,
    cpu_percent_sum DOUBLE PRECISION,
    cpu_percent_min DOUBLE PRECISION,
    cpu_percent_max DOUBLE PRECISION,
    mem_percent_n BIGINT NOT NULL,
    mem_percent_sum DOUBLE PRECISION,
    mem_percent_min DOUBLE PRECISION,
    mem_percent_max DOUBLE PRECISION,
    disk_free_gb_n BIGINT NOT NULL,
    disk_free_gb_sum DOUBLE PRECISION,
    disk_free_gb_min DOUBLE PRECISION,
    disk_free_gb_max DOUBLE PRECISION,
    temperature_c_n BIGINT NOT NULL,
    temperature_c_sum DOUBLE PRECISION,
    temperature_c_min DOUBLE PRECISION,
    temperature_c_max DOUBLE PRECISION,
    load_1_n BIGINT NOT NULL,
    load_1_sum DOUBLE PRECISION,
    load_1_min DOUBLE PRECISION,
    load_1_max DOUBLE PRECISION,
    PRIMARY KEY (device_id, starts_at)
);
CREATE INDEX rollups_daily_by_time ON rollups_daily (starts_at);
