-- Somebody else knows the password, or it lies in a file: until it is changed the account can do nothing else.
ALTER TABLE users ADD COLUMN must_change_password INTEGER NOT NULL DEFAULT 0;
