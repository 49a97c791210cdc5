CREATE VIEW person AS
SELECT
    s."id",
    s."name",
    s."emailAddress",
    s."creditCard",
    s."city",
    s."state",
    s."dateTime",
    s."extra"
FROM (SELECT person AS s FROM events WHERE event_type = 0);

CREATE VIEW auction AS
SELECT
    s."id",
    s."itemName",
    s."description",
    s."initialBid",
    s."reserve",
    s."dateTime",
    s."expires",
    s."seller",
    s."category",
    s."extra"
FROM (SELECT auction AS s FROM events WHERE event_type = 1);

CREATE VIEW bid AS
SELECT
    s."auction",
    s."bidder",
    s."price",
    s."channel",
    s."url",
    s."dateTime",
    s."extra"
FROM (SELECT bid AS s FROM events WHERE event_type = 2);
