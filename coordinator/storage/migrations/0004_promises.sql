-- Retention counts from when the coordinator learnt of the end: the clock of a worker may be wrong by years.
ALTER TABLE job ADD COLUMN over_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN logs_expired INTEGER NOT NULL DEFAULT 0;  -- 1: no log of any attempt is kept any more
UPDATE job SET over_at = MAX(queued_at, MIN(finished_at, 1000000 * CAST(strftime('%s', 'now') AS INTEGER)))
    WHERE state = 5;
CREATE INDEX job_over ON job (logs_expired, over_at, log_position) WHERE state = 5;
DROP INDEX job_files;
CREATE INDEX job_files ON job (over_at) WHERE files = 1 AND state = 5;

-- What is done when a worker is lost, and what a worker must be able to do.
ALTER TABLE job ADD COLUMN abilities TEXT NOT NULL DEFAULT '';    -- words with commas
ALTER TABLE job ADD COLUMN losses TEXT NOT NULL DEFAULT '';       -- a JSON list, see coordinator.changes.Losses; '': keep
ALTER TABLE job ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;    -- attempts that were lost and followed by another
ALTER TABLE job ADD COLUMN late_end BLOB;                         -- of a lost attempt: what its worker said later
ALTER TABLE past_attempt ADD COLUMN late_end BLOB;
ALTER TABLE worker ADD COLUMN abilities TEXT NOT NULL DEFAULT '';
ALTER TABLE worker ADD COLUMN drain TEXT NOT NULL DEFAULT '';     -- a JSON list, see coordinator.changes.Drain
ALTER TABLE worker ADD COLUMN quarantine TEXT NOT NULL DEFAULT '';  -- the reason
CREATE INDEX job_missed ON job (number) WHERE outcome = 5 AND late_end IS NULL;
CREATE INDEX past_missed ON past_attempt (job) WHERE outcome = 5 AND late_end IS NULL;
