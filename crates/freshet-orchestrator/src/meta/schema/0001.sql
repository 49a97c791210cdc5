-- Version 1. Times are microseconds since 1970 in UTC; enums are their names in JSON.

create table runs (
    id          text primary key,
    project     text not null,
    environment text not null,
    command     text not null,
    started     integer not null,
    finished    integer,
    status      text not null,
    -- JSON: commits of earlier runs that this one finished first.
    recovered   text not null
) without rowid;
create index runs_by_start on runs (started desc);

create table tasks (
    run          text not null references runs (id) on delete cascade,
    model        text not null,
    position     integer not null,
    status       text not null,
    attempts     integer not null,
    started      integer,
    finished     integer,
    because      text,
    -- JSON: why it failed in the end.
    error        text,
    -- The build, where there was one; what has no column or table of its own is in `detail`.
    materialized text,
    incremental  integer,
    version      integer,
    number       integer,
    rows_written integer,
    rows_total   integer,
    bytes_read   integer,
    detail       text,
    primary key (run, model)
) without rowid;
create index tasks_by_model on tasks (model, finished desc);

create table edges (
    run      text not null references runs (id) on delete cascade,
    model    text not null,
    name     text not null,
    rows_in  integer not null,
    rows_out integer not null,
    dead     integer not null,
    filtered integer not null,
    primary key (run, model, name)
) without rowid;

create table files (
    run      text not null references runs (id) on delete cascade,
    model    text not null,
    position integer not null,
    source   text not null,
    file     text not null,
    status   text not null,
    records  integer not null,
    good     integer not null,
    dead     integer not null,
    bytes    integer not null,
    error    text,
    primary key (run, model, position)
) without rowid;

create table checks (
    run      text not null references runs (id) on delete cascade,
    model    text not null,
    position integer not null,
    name     text not null,
    rule     text not null,
    status   text not null,
    failures integer not null,
    rows     integer not null,
    value    real,
    message  text not null,
    sample   text not null,
    primary key (run, model, position)
) without rowid;

create table schema_diffs (
    run      text not null references runs (id) on delete cascade,
    model    text not null,
    position integer not null,
    file     text,
    changes  text not null,
    primary key (run, model, position)
) without rowid;

create table dead_letters (
    run    text not null references runs (id) on delete cascade,
    model  text not null,
    source text not null,
    rule   text not null,
    count  integer not null,
    primary key (run, model, source, rule)
) without rowid;

-- Each attempt that failed, those that a later one made good included.
create table errors (
    run       text not null references runs (id) on delete cascade,
    model     text not null,
    attempt   integer not null,
    at        integer not null,
    code      text not null,
    kind      text not null,
    message   text not null,
    hint      text,
    location  text,
    retryable integer not null,
    primary key (run, model, attempt)
) without rowid;

-- How far each model has consumed its inputs, as of the intent `number`.
create table progress (
    model  text primary key,
    number integer not null
) without rowid;

create table progress_inputs (
    model   text not null references progress (model) on delete cascade,
    input   text not null,
    version integer not null,
    primary key (model, input)
) without rowid;

create table consumed (
    model          text not null references progress (model) on delete cascade,
    source         text not null,
    split          text not null,
    version        text not null,
    size           integer,
    modified       integer,
    captured       text not null,
    interval_start text,
    interval_end   text,
    digest         text,
    corrections    integer not null,
    primary key (model, source, split)
) without rowid;

-- What the nodes of the project were when they were last built, for `state:modified`.
create table project_state (
    environment text primary key,
    state       text not null
) without rowid;
