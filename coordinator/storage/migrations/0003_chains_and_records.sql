-- A chain: a serialized hostler.v1.JobSpec with the pinned stages and what is common to them; NULL for other jobs.
ALTER TABLE job ADD COLUMN chain BLOB;

-- What others run and have noted here.
CREATE TABLE record (
    owner      TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    containers TEXT    NOT NULL,               -- a JSON list
    at         INTEGER NOT NULL,
    PRIMARY KEY (owner, id)
) WITHOUT ROWID;
CREATE INDEX record_at ON record (owner, at);

ALTER TABLE job ADD COLUMN start_by INTEGER NOT NULL DEFAULT 0;  -- its program must have started by then; 0: no limit
