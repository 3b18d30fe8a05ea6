-- One row that the readiness check rewrites, so that "ready" means that a write reached the disk.
CREATE TABLE store_probe (
    id BIGINT PRIMARY KEY,
    at BIGINT NOT NULL
);
INSERT INTO store_probe (id, at) VALUES (1, 0);
