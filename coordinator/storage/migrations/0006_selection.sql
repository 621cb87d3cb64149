-- What a job is found by, which workers it may run on, and what it repeats.
ALTER TABLE job ADD COLUMN tags TEXT NOT NULL DEFAULT '';      -- JSON pairs, sorted; '' for none
ALTER TABLE job ADD COLUMN wanted TEXT NOT NULL DEFAULT '';    -- a selector over workers; '' for any
ALTER TABLE job ADD COLUMN retry_of TEXT NOT NULL DEFAULT '';  -- the id of another job
ALTER TABLE job ADD COLUMN asked BLOB;                         -- a serialized hostler.v1.JobSpec; NULL: it was a command

-- What a worker's own policy takes, as it said last.
ALTER TABLE worker ADD COLUMN policy TEXT NOT NULL DEFAULT '';
ALTER TABLE worker ADD COLUMN named_only INTEGER NOT NULL DEFAULT 0;

-- Workers that have refused a job, by their own policy.
ALTER TABLE job ADD COLUMN barred TEXT NOT NULL DEFAULT '';    -- ids with commas
