"""Print the table of the gate's stages, how many tests passed, and which failed. Usage: stages.py FOLDER

FOLDER is what stage.sh wrote: stages.tsv and a log of each stage.
"""

import re
import sys
from collections import Counter
from pathlib import Path

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+::[^\n]*?|\S+\.py)(?: - .*)?$", re.MULTILINE)
COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped)\b")


def closing(log: str) -> Counter[str]:
    """The counts of each of pytest's closing lines in a log."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        if re.search(r"\d+ (passed|failed|errors?|skipped)\b.* in [\d.]+s", line):
            for number, what in COUNTS.findall(line):
                found["failed" if what.startswith("error") else what] += int(number)
    return found


def table(folder: Path) -> str:
    """The table, then the sum of all tests, then the names of those that failed."""
    seconds, statuses = Counter[str](), dict[str, str]()
    for row in (folder / "stages.tsv").read_text().splitlines():  # a stage may have run more than once
        name, took, status = row.split("\t")
        seconds[name] += int(took)
        statuses[name] = status if statuses.get(name, "0") == "0" else statuses[name]
    lines, failed, total = [], [], Counter[str]()
    for name, status in statuses.items():
        log = (folder / f"{name}.log").read_text(errors="replace")
        counts = closing(log)
        total += counts
        told = ", ".join(f"{counts[what]} {what}" for what in ("passed", "failed", "skipped") if counts[what])
        outcome = "ok" if status == "0" else f"FAILED ({status})"
        lines.append(
            f"{name:<14} {seconds[name] // 60:>3} min {seconds[name] % 60:>2} s   {outcome:<11} {told}".rstrip()
        )
        names = FAILED.findall(log)
        failed += names or ([f"{name}: the stage itself"] if status != "0" else [])
    lines += ["", f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped"]
    return "\n".join(lines + (["", "Failed:", *dict.fromkeys(failed)] if failed else []))


if __name__ == "__main__":
    print(table(Path(sys.argv[1])))
