-- What a job is found by, which workers it may run on, and what it repeats.
ALTER TABLE job ADD COLUMN tags TEXT NOT NULL DEFAULT '';      -- JSON pairs, sorted; '' for none
ALTER TABLE job ADD COLUMN wanted TEXT NOT NULL DEFAULT '';    -- a selector over workers; '' for any
ALTER TABLE job ADD COLUMN retry_of TEXT NOT NULL DEFAULT '';  -- the id of another job
ALTER TABLE job ADD COLUMN asked BLOB;                         -- a serialized hostler.v1.JobSpec; NULL: it was a command
