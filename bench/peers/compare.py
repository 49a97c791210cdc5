"""Compares two results row by row: ours with a header and commas, theirs without and with bars.

Numbers are equal where they agree to nine digits: averages are doubles in one, decimals in the other.
"""

import csv
import sys


def value(text):
    try:
        return float(text)
    except ValueError:
        return text.removesuffix(" 00:00:00").removesuffix("T00:00:00")


def equal(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1.0) or round(a, 2) == round(b, 2)
    return a == b


ours_path, theirs_path = sys.argv[1:3]
with open(ours_path, newline="") as file:
    # An empty line is a row of one null.
    ours = [[value(text) for text in row or [""]] for row in csv.reader(file)][1:]
with open(theirs_path) as file:
    theirs = [[value(text) for text in line.rstrip("\n").split("|")] for line in file]
if len(ours) != len(theirs):
    sys.exit(f"{len(ours)} rows of ours, {len(theirs)} of theirs")
for number, (a, b) in enumerate(zip(ours, theirs), 1):
    if len(a) != len(b) or not all(map(equal, a, b)):
        sys.exit(f"row {number} differs: {a} and {b}")
