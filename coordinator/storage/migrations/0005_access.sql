-- Who may call. Of every secret only the SHA-256 is here.
CREATE TABLE api_key (
    id         TEXT    PRIMARY KEY,         -- 12 hex digits
    name       TEXT    NOT NULL,
    owner      TEXT    NOT NULL,
    scopes     TEXT    NOT NULL,            -- words with commas
    hash       BLOB    NOT NULL,
    networks   TEXT    NOT NULL,            -- CIDR with commas; '': good from everywhere
    created_at INTEGER NOT NULL,            -- all times: microseconds since the epoch
    expires_at INTEGER NOT NULL,            -- 0: never
    used_at    INTEGER NOT NULL DEFAULT 0,  -- to the minute; 0: not yet
    revoked_at INTEGER NOT NULL DEFAULT 0   -- 0: it is good
) WITHOUT ROWID;

-- Tokens with which workers join.
CREATE TABLE invitation (
    id           TEXT    PRIMARY KEY,
    hash         BLOB    NOT NULL,
    name_pattern TEXT    NOT NULL,          -- of the workers that may join with it; '': any
    uses_left    INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    created_by   TEXT    NOT NULL,
    expires_at   INTEGER NOT NULL
) WITHOUT ROWID;

-- Certificates of workers; one that is over is removed.
CREATE TABLE certificate (
    serial     TEXT    PRIMARY KEY,         -- hex
    worker     TEXT    NOT NULL,            -- its subject
    name       TEXT    NOT NULL,            -- under which the worker joined
    issued_at  INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL DEFAULT 0   -- 0: it is good
) WITHOUT ROWID;
CREATE INDEX certificate_worker ON certificate (worker);

-- Whoever may see only his own lists them without a look at everybody's.
CREATE INDEX job_owner ON job (owner, number) WHERE owner <> 'local';
