-- Version 2. Files that held nothing are in the ledger too, and are read again once they hold something.

alter table consumed add column empty integer not null default 0;
