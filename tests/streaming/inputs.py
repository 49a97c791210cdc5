#!/usr/bin/env python3
"""Makes the inputs of the cases anew, those of `nexmark/` apart (see README.md).

Chance is a generator of our own, so that every version of Python makes the same files.
"""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
# 2026-01-01 00:00:00 UTC, in milliseconds. A multiple of every window's size.
START = 1_767_225_600_000
MINUTE = 60_000


class Chance:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) * limit) >> 64

    def pick(self, values):
        return values[self.below(len(values))]

    def often(self, one_in):
        return self.below(one_in) == 0


def time(millis):
    seconds, millis = divmod(millis - START, 1000)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3_600)
    minutes, seconds = divmod(seconds, 60)
    assert 0 <= days < 31
    return f"2026-01-{1 + days:02} {hours:02}:{minutes:02}:{seconds:02}.{millis:03}"


def shuffled(chance, rows, bound):
    """Rows in order of arrival: each comes up to `bound` milliseconds after its time."""
    arrival = [(row["_at"] + chance.below(bound), number, row) for number, row in enumerate(rows)]
    return [row for _, _, row in sorted(arrival)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            row = {name: value for name, value in row.items() if not name.startswith("_")}
            file.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")


def trade(chance, number, at):
    price = None if chance.often(15) else (chance.below(20_000) - 500) / 100
    return {
        "id": number,
        "symbol": None if chance.often(25) else chance.pick(["AAA", "BBB", "CCC", "D,\"é"]),
        "venue": chance.pick(["north", "south"]),
        "price": price,
        "qty": None if chance.often(20) else chance.below(9) + 1,
        "ts": time(at),
        "_at": at,
    }


def trades(chance, count, span, gap=None):
    """Trades over `span`, with none in `gap`, some of them exactly on a window's border."""
    rows = []
    for number in range(count):
        at = START + chance.below(span)
        if chance.often(10):
            at -= at % MINUTE
        if gap and gap[0] <= at - START < gap[1]:
            at += gap[1] - gap[0]
        rows.append((at, number))
    rows.sort()
    return [trade(chance, number + 1, at) for number, (at, _) in enumerate(rows)]


def windows():
    chance = Chance(1)
    rows = trades(chance, 400, 30 * MINUTE, gap=(11 * MINUTE + 20_000, 17 * MINUTE))
    # A session's gap is two minutes: these two are exactly that far apart, the third a little more.
    for offset, venue in [(40, "north"), (42, "north"), (44, "south")]:
        at = START + offset * MINUTE + (1 if venue == "south" else 0)
        row = trade(chance, len(rows) + 1, at)
        rows.append(row | {"symbol": "AAA", "venue": venue, "price": 10.25, "qty": 2})
    write(HERE / "windows/input/trades.ndjson", shuffled(chance, rows, 5_000))


def late():
    """Three phases of arrival. Late rows are an hour behind, or behind some of their windows only."""
    chance = Chance(2)
    number = 0
    for phase in range(3):
        rows = []
        for _ in range(60):
            number += 1
            at = START + phase * 10 * MINUTE + chance.below(10 * MINUTE - 10_000)
            rows.append(trade(chance, number, at))
        rows = shuffled(chance, rows, 4_000)
        if phase > 0:
            for offset in [-9 * MINUTE, -3 * MINUTE, -61_000, -60_000, -59_999, -30_000]:
                number += 1
                at = START + phase * 10 * MINUTE + offset
                # Before the rest: what the phase itself brings makes no difference to them.
                rows.insert(0, trade(chance, number, at))
        write(HERE / f"late/input/trades.{phase}.ndjson", rows)


def updating():
    chance = Chance(3)
    rows = []
    for number in range(300):
        at = START + number * 1_000 + chance.below(900)
        rows.append(
            {
                "order_id": 1 + chance.below(120),
                "customer": chance.pick(["ann", "bob", "cy", "dee", None]),
                "country": chance.pick(["CH", "DE", "FR"]),
                "status": chance.pick(["new", "paid", "sent"]),
                # A double where every sum of a few hundred is exact.
                "weight": None if chance.often(12) else chance.below(80) / 8,
                "amount": (chance.below(40_000) - 2_000) / 100,
                "units": chance.below(5),
                "ts": time(at),
                "_at": at,
            }
        )
    write(HERE / "updating/input/orders.ndjson", shuffled(chance, rows, 4_000))
    more = []
    for number in range(60):
        at = START + number * 5_000 + chance.below(4_000)
        more.append(
            {
                "order_id": 1_000 + number // 2,
                "customer": chance.pick(["ann", "eve"]),
                "country": "IT",
                "status": "new",
                "weight": 1.5,
                "amount": (chance.below(1_000)) / 100,
                "units": 1,
                "ts": time(at),
                "_at": at,
            }
        )
    write(HERE / "updating/input/web_orders.ndjson", shuffled(chance, more, 4_000))
    big = []
    for number in range(80):
        at = START + number * 1_000
        digits = chance.below(10**18) * 10**4 + chance.below(10**4)
        sign = "-" if chance.often(3) else ""
        big.append(
            {
                "account": chance.pick(["a", "b", "c"]),
                "balance": f"{sign}{digits // 10_000}.{digits % 10_000:04}",
                "rate": f"0.{chance.below(10**6):06}",
                "ts": time(at),
                "_at": at,
            }
        )
    write(HERE / "updating/input/balances.ndjson", shuffled(chance, big, 3_000))


def joins():
    chance = Chance(4)
    customers = [
        {"id": number, "name": f"customer {number}", "city": chance.pick(["Bern", "Lyon", "Ulm"])}
        for number in range(5, 41)
    ]
    at = START
    for customer in customers:
        at += chance.below(20_000)
        customer |= {"ts": time(at), "_at": at}
    orders, shipments = [], []
    for number in range(1, 201):
        at = START + chance.below(20 * MINUTE)
        order = {
            "order_id": number,
            # Nobody knows customers 1 to 4, and 37 to 40 order nothing.
            "customer_id": None if chance.often(30) else 1 + chance.below(36),
            "currency": chance.pick(["EUR", "USD", "GBP", "XXX"]),
            "amount": (100 + chance.below(20_000)) / 100,
            "ts": time(at),
            "_at": at,
        }
        orders.append(order)
        for part in range(chance.pick([0, 1, 1, 1, 2])):
            # From a minute before the order to six after it; the interval is nought to four.
            sent = at - MINUTE + chance.below(7 * MINUTE)
            sent = chance.pick([sent, sent, sent, at, at + 4 * MINUTE])
            shipments.append(
                {
                    "shipment_id": 10 * number + part,
                    "order_id": number,
                    "carrier": chance.pick(["post", "van"]),
                    "ts": time(max(sent, START)),
                    "_at": max(sent, START),
                }
            )
    rates = []
    for currency, first in [("EUR", 0), ("USD", 3 * MINUTE), ("GBP", 6 * MINUTE)]:
        at = START + first
        while at < START + 20 * MINUTE:
            rates.append(
                {
                    "currency": currency,
                    "rate": f"{1 + chance.below(4_000) / 10_000:.4f}",
                    "ts": time(at),
                    "_at": at,
                }
            )
            at += 30_000 + chance.below(4 * MINUTE)
    # One order exactly when a version begins, one a millisecond before it.
    version = next(rate for rate in rates if rate["currency"] == "USD")
    orders[0] |= {"currency": "USD", "ts": version["ts"], "_at": version["_at"]}
    orders[1] |= {"currency": "USD", "ts": time(version["_at"] - 1), "_at": version["_at"] - 1}
    for name, rows in [
        ("orders", sorted(orders, key=lambda row: row["_at"])),
        ("shipments", sorted(shipments, key=lambda row: row["_at"])),
        ("rates", sorted(rates, key=lambda row: row["_at"])),
        ("customers", customers),
    ]:
        write(HERE / f"joins/input/{name}.ndjson", shuffled(chance, rows, 4_000))


if __name__ == "__main__":
    windows()
    late()
    updating()
    joins()
