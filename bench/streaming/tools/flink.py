"""Runs one query on a Flink cluster by its SQL gateway and waits for its end.

    flink.py GATEWAY REST STATE SETUP QUERY SINK PIDS

SETUP holds the tables, QUERY a SELECT, SINK the options of the table that it goes to. STATE is the
state backend. PIDS are the cluster's processes, with commas. Prints one object of JSON: seconds in
which the job ran, CPU seconds and peak memory of the processes, whether it failed and why.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

TICKS = os.sysconf("SC_CLK_TCK")


def call(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        # A stack of causes: the last one says it.
        reason = text.rsplit("Caused by: ", 1)[-1].split("\\n\\tat", 1)[0]
        raise SystemExit(f"{url}: {error.code} {reason[:2000]}") from None


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def forget_peaks(pids):
    for pid in pids:
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")


def peak_mib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            total += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return total / 1024


class Session:
    def __init__(self, gateway, properties):
        self.base = f"{gateway}/v1/sessions"
        handle = call(self.base, {"properties": properties})["sessionHandle"]
        self.base = f"{self.base}/{handle}"

    def run(self, statement):
        """Runs a statement; what it answered."""
        operation = call(f"{self.base}/statements", {"statement": statement})["operationHandle"]
        while True:
            state = call(f"{self.base}/operations/{operation}/status")["status"]
            if state in ("FINISHED", "ERROR", "CANCELED"):
                return call(f"{self.base}/operations/{operation}/result/0")
            time.sleep(0.02)


def main():
    gateway, rest, state, setup, query, sink, pids = sys.argv[1:]
    pids = [int(pid) for pid in pids.split(",")]
    session = Session(
        gateway, {"state.backend.type": state, "table.local-time-zone": "UTC"}
    )
    for statement in open(setup).read().split(";\n"):
        if statement.strip():
            session.run(statement)
    forget_peaks(pids)
    cpu = cpu_seconds(pids)
    query = open(query).read()
    answer = session.run(f"CREATE TABLE sink WITH ({sink}) AS {query}")
    job = answer["jobID"]
    while True:
        time.sleep(0.05)
        known = call(f"{rest}/jobs/{job}")
        if known["state"] in ("FINISHED", "FAILED", "CANCELED"):
            break
    times = known["timestamps"]
    result = {
        "seconds": (times[known["state"]] - times["RUNNING"]) / 1000,
        "cpu_seconds": cpu_seconds(pids) - cpu,
        "peak_mib": peak_mib(pids),
        "checkpoints": call(f"{rest}/jobs/{job}/checkpoints")["counts"]["completed"],
    }
    if known["state"] != "FINISHED":
        failures = json.dumps(call(f"{rest}/jobs/{job}/exceptions"))
        result["failure"] = failures.rsplit("Caused by: ", 1)[-1].split("\\n\\tat", 1)[0][:2000]
    print(json.dumps(result))


main()
