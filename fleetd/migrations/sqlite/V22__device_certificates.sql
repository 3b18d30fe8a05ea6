-- Certificates that this server has signed for devices, until some time after they have expired. What is not here lets nobody in.
-- sha256: of the whole certificate; key_sha256: of its public key.
CREATE TABLE device_certificates (
    serial     TEXT   NOT NULL PRIMARY KEY,
    org_id     TEXT   NOT NULL REFERENCES organizations (id),
    device_id  TEXT   NOT NULL REFERENCES devices (id),
    sha256     TEXT   NOT NULL UNIQUE,
    key_sha256 TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX device_certificates_by_device ON device_certificates (device_id, created_at);
-- Whose connections end because a certificate has expired.
CREATE INDEX device_certificates_by_expiry ON device_certificates (expires_at);
