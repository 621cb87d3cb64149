-- What a job runs it by, its retries, and the files it needs and leaves.
ALTER TABLE job ADD COLUMN runtime TEXT NOT NULL DEFAULT 'command';
ALTER TABLE job ADD COLUMN workload TEXT NOT NULL DEFAULT '';
ALTER TABLE job ADD COLUMN workload_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN retry_on TEXT NOT NULL DEFAULT '';   -- causes with commas; '' for all
ALTER TABLE job ADD COLUMN retried INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN due_at INTEGER NOT NULL DEFAULT 0;   -- of the next attempt
ALTER TABLE job ADD COLUMN secrets TEXT NOT NULL DEFAULT '';    -- JSON pairs of variable and secret's name
ALTER TABLE job ADD COLUMN files INTEGER NOT NULL DEFAULT 0;    -- 1: rows of input or output are there; 2: they expired
CREATE INDEX job_family ON job (family, number) WHERE family <> 'native';
CREATE INDEX job_files ON job (finished_at) WHERE files = 1 AND state = 5;

-- Attempts that were followed by another.
CREATE TABLE past_attempt (
    job          INTEGER NOT NULL,
    stage        INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    worker       TEXT    NOT NULL,
    outcome      INTEGER NOT NULL,
    end_report   BLOB    NOT NULL,
    ledger_bytes INTEGER NOT NULL,
    log_position INTEGER NOT NULL,
    log_output   INTEGER NOT NULL,
    log_status   INTEGER NOT NULL,
    log_lost     INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, stage, attempt)
) WITHOUT ROWID;
CREATE INDEX past_log_arriving ON past_attempt (job) WHERE log_status = 1;

-- Stored bytes that a job needs.
CREATE TABLE input (
    job    INTEGER NOT NULL,
    digest TEXT    NOT NULL,
    PRIMARY KEY (job, digest)
) WITHOUT ROWID;
CREATE INDEX input_digest ON input (digest);

-- Files that the last attempt of a job left.
CREATE TABLE output (
    job         INTEGER NOT NULL,
    path        TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    modified_at INTEGER NOT NULL,
    PRIMARY KEY (job, path)
) WITHOUT ROWID;
CREATE INDEX output_digest ON output (digest);

-- Every version of every workload; the newest of a name counts, unless it was removed.
CREATE TABLE workload (
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    definition BLOB    NOT NULL,               -- a serialized hostler.v1.Workload
    script     TEXT    NOT NULL,               -- the digest of its script; '' for none
    removed    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE INDEX workload_script ON workload (script);

ALTER TABLE worker ADD COLUMN runtimes TEXT NOT NULL DEFAULT 'command';  -- with commas
ALTER TABLE worker ADD COLUMN workloads TEXT NOT NULL DEFAULT '';        -- JSON list of patterns; '' for all
