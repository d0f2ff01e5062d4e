"""Make the table of the README from a results file, and say which targets are met.

`python benchmarks/table.py RESULTS.json [--readme README.md]`: the table goes between the two markers of the README.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from targets import verdicts

BEGIN = "<!-- benchmark table: begin -->"
END = "<!-- benchmark table: end -->"
_STDLIB = "multiprocessing.Queue"
_TIE = 1.3


def amount(value: float, report: dict[str, Any]) -> str:
    """Return a value in the unit that people compare."""
    if report["unit"] == "share":
        return f"{value * 100:.3g} %"
    if report["unit"] == "bytes":
        return f"{value / (1 << 20):.2f} MiB"
    if report["nbytes"]:
        return f"{report['nbytes'] / value:.3g} GB/s"
    for limit, scale, unit in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if value < limit:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e9:.3g} s"


def show(report: dict[str, Any]) -> str:
    """Return one report as a line: the median and the range, or what went wrong."""
    if report["trouble"]:
        return str(report["trouble"])
    middle, low, high = (amount(report[key], report) for key in ("median", "min", "max"))
    return f"{middle:>12}   ({low} to {high})"


def _cell(report: dict[str, Any] | None) -> str:
    if report is None:
        return "–"
    return report["trouble"].partition(":")[0] or amount(report["median"], report)


def _judged(own: dict[str, Any] | None, ranked: list[dict[str, Any]]) -> str:
    """Return shmq's cell: bold where it leads, marked where somebody is ahead by more than a tie."""
    if own is None or own["trouble"] or not ranked:
        return _cell(own)
    if own["median"] <= ranked[0]["median"]:
        return f"**{_cell(own)}**"
    return _cell(own) + (" (lost)" if own["median"] > _TIE * ranked[0]["median"] else "")


def _row(name: str, reports: list[dict[str, Any]]) -> str:
    """Own value, baseline, best peer, standard library, all others; a row that is lost says so."""
    by_peer = {report["peer"]: report for report in reports}
    own = by_peer.pop("shmq", None)
    drop_in = by_peer.pop("shmq.mp.Queue", None)
    baseline = by_peer.pop("bare C", None) or by_peer.pop("numpy", None) or by_peer.pop("dumps + loads", None)
    by_peer.pop("the slower of the two", None)
    ranked = sorted((report for report in by_peer.values() if not report["trouble"]), key=lambda r: float(r["median"]))
    best = f"{ranked[0]['peer']} {_cell(ranked[0])}" if ranked else "–"
    others = [f"{report['peer']} {_cell(report)}" for report in ranked[1:] if report["peer"] != _STDLIB]
    others += [f"{peer} {_cell(report)}" for peer, report in by_peer.items() if report["trouble"]]
    cells = (
        name,
        _judged(own, ranked) + (f", shmq.mp.Queue {_cell(drop_in)}" if drop_in else ""),
        _cell(baseline),
        best,
        _cell(by_peer.get(_STDLIB)),
        ", ".join(others) or "–",
    )
    return f"| {' | '.join(cells)} |"


def markdown(document: dict[str, Any]) -> str:
    """Return the table of all cases that compare something, and where it was measured."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for report in document["results"]:
        rows.setdefault(f"{report['topology']}: {report['case']}".replace("_", " "), []).append(report)
    compared = {name: reports for name, reports in rows.items() if len(reports) > 1}
    about = document["machine"]
    changes = " with changes" if about["changed"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return "\n".join(
        [
            f"| work | shmq | bare C | best peer | `{_STDLIB}` | others |",
            "|---|---|---|---|---|---|",
            *(_row(name, reports) for name, reports in compared.items()),
            "",
            f"Medians of {document['repeat']} interleaved rounds of {document['seconds']} s; per message, frame, round "
            f"trip or call. Differences below {_TIE}× are ties. {about['cpu']}, {about['cores']} cores, "
            f"Linux {about['kernel']}, {about['python']}, commit {about['commit'][:12]}{changes}, "
            f"{about['date'][:10]}. {versions}. "
            f"In the row `import`, the column “bare C” is `import numpy`; in the row `objects`, dumps + loads of pickle.",
        ]
    )


def insert(text: str, table: str) -> str:
    """Return the text with the table between its markers. Raises ValueError if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the text")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the README's table from results, and judge the targets.")
    parser.add_argument("results", type=Path, help="what run.py --json wrote")
    parser.add_argument("--readme", type=Path, help="write the table here, between its markers; default: print it")
    arguments = parser.parse_args()
    document = json.loads(arguments.results.read_text())
    table = markdown(document)
    if arguments.readme is None:
        print(table)
    else:
        try:
            arguments.readme.write_text(insert(arguments.readme.read_text(), table))
        except ValueError as error:
            sys.exit(f"{arguments.readme}: {error}")
    words = {True: "met", False: "NOT MET", None: "?"}
    for verdict in verdicts(document):
        print(f"{words[verdict.met]:<8} {verdict.promise}: {verdict.measured}")


if __name__ == "__main__":
    main()
