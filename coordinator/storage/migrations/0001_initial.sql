-- Every job that was ever accepted, with its moving parts in place.
CREATE TABLE job (
    number       INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    owner        TEXT    NOT NULL,
    family       TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    key          TEXT,                        -- idempotency key; NULL for none
    digest       BLOB,                        -- of the spec, when there is a key
    pin          TEXT    NOT NULL,            -- the worker it must run on; '' for any
    labels       TEXT    NOT NULL,            -- JSON pairs, sorted; '' for none
    priority     INTEGER NOT NULL,
    slots        INTEGER NOT NULL,
    work         BLOB    NOT NULL,            -- a serialized hostler.v1.Work
    queued_at    INTEGER NOT NULL,            -- all times: microseconds since the epoch
    state        INTEGER NOT NULL,
    outcome      INTEGER NOT NULL DEFAULT 0,
    stage        INTEGER NOT NULL DEFAULT 0,
    attempt      INTEGER NOT NULL DEFAULT 0,
    worker       TEXT    NOT NULL DEFAULT '',
    sequence     INTEGER NOT NULL DEFAULT 0,
    assigned_at  INTEGER NOT NULL DEFAULT 0,
    started_at   INTEGER NOT NULL DEFAULT 0,
    finished_at  INTEGER NOT NULL DEFAULT 0,
    stop_grace   REAL,                        -- NULL: no stop was asked for
    stop_by      TEXT    NOT NULL DEFAULT '',
    survivors    TEXT    NOT NULL DEFAULT '',
    exit_code    INTEGER,
    signal       TEXT    NOT NULL DEFAULT '',
    cause        TEXT    NOT NULL DEFAULT '',
    error        TEXT    NOT NULL DEFAULT '',
    end_report   BLOB,                        -- a serialized hostler.v1.End
    version      INTEGER NOT NULL DEFAULT 1,
    ledger_bytes INTEGER NOT NULL DEFAULT -1, -- -1: not known
    log_position INTEGER NOT NULL DEFAULT 0,
    log_output   INTEGER NOT NULL DEFAULT 0,  -- bytes the program wrote, of what is held
    log_status   INTEGER NOT NULL DEFAULT 1,  -- hostler.jobs.LogStatus
    log_lost     INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX job_key ON job (owner, key) WHERE key IS NOT NULL;
CREATE INDEX job_open ON job (number) WHERE state < 5;
CREATE INDEX job_log_arriving ON job (number) WHERE state = 5 AND log_status = 1;
CREATE INDEX job_name ON job (name, number) WHERE name <> '';

-- One row for all transitions of one job in one commit.
CREATE TABLE event (
    number  INTEGER PRIMARY KEY,
    job     INTEGER NOT NULL,
    kinds   TEXT    NOT NULL,                 -- words, in order, with commas
    at      INTEGER NOT NULL,
    stage   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    worker  TEXT    NOT NULL,
    detail  TEXT    NOT NULL
);
CREATE INDEX event_job ON event (job, number);

-- The whole ledger of an attempt whose log was short enough to come with its report.
CREATE TABLE ledger (
    job     INTEGER NOT NULL,
    stage   INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    frames  BLOB    NOT NULL,
    PRIMARY KEY (job, stage, attempt)
) WITHOUT ROWID;

-- Where the pieces of a longer ledger are in the log segments.
CREATE TABLE extent (
    job      INTEGER NOT NULL,
    stage    INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    position INTEGER NOT NULL,
    segment  INTEGER NOT NULL,
    place    INTEGER NOT NULL,                -- byte offset in the segment
    length   INTEGER NOT NULL,
    PRIMARY KEY (job, stage, attempt, position)
) WITHOUT ROWID;
CREATE INDEX extent_segment ON extent (segment);

CREATE TABLE worker (
    id         TEXT    PRIMARY KEY,
    name       TEXT    NOT NULL,
    host       TEXT    NOT NULL,
    version    TEXT    NOT NULL,
    labels     TEXT    NOT NULL,
    slots      INTEGER NOT NULL,
    boot_id    TEXT    NOT NULL,
    journal_id TEXT    NOT NULL,
    generation INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,              -- of the latest assignment
    seen_at    INTEGER NOT NULL
) WITHOUT ROWID;

-- One row: who may write. Every write transaction checks it.
CREATE TABLE leader (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
);
INSERT INTO leader (one, epoch) VALUES (1, 0);
