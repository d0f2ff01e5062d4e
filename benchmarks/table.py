"""Make the tables of the documents from results files, and say which targets are met.

`python benchmarks/table.py RESULTS.json …` prints a table of each file. `--write` puts these tables into benchmarks/README.md,
and the rows of SUMMARY into the README, between two markers each.
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
ROOT = Path(__file__).parents[1]
SUMMARY = (
    "one to one: 64 B, a call per message",
    "objects: small dicts, 1 → 1",
    "tasks: no-op, map",
    "ping pong: round trip, both awake, p50",
    "ping pong: put to a sleeping receiver, p50",
    "frames: 1 MiB, put + get, all bytes read",
    "frames: 6 MiB, loan + view, all bytes read",
    "idle: 4 idle consumers, share of a CPU",
)
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


def _ranked(by_peer: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what other queues reached, the best one first."""
    ours = ("shmq", "shmq.mp.Queue", "bare C", "numpy", "dumps + loads", "the slower of the two")
    others = (report for peer, report in by_peer.items() if peer not in ours and not report["trouble"])
    return sorted(others, key=lambda report: float(report["median"]))


def _best(ranked: list[dict[str, Any]]) -> str:
    return f"{ranked[0]['peer']} {_cell(ranked[0])}" if ranked else "–"


def _short_row(name: str, by_peer: dict[str, dict[str, Any]]) -> str:
    """Own value, best peer, standard library."""
    ranked = _ranked(by_peer)
    cells = name, _judged(by_peer.get("shmq"), ranked), _best(ranked), _cell(by_peer.get(_STDLIB))
    return f"| {' | '.join(cells)} |"


def _row(name: str, by_peer: dict[str, dict[str, Any]]) -> str:
    """Own value, baseline, best peer, standard library, all others; a row that is lost says so."""
    ranked = _ranked(by_peer)
    drop_in = by_peer.get("shmq.mp.Queue")
    baseline = by_peer.get("bare C") or by_peer.get("numpy") or by_peer.get("dumps + loads")
    others = [f"{report['peer']} {_cell(report)}" for report in ranked[1:] if report["peer"] != _STDLIB]
    others += [
        f"{peer} {_cell(report)}" for peer, report in by_peer.items() if report["trouble"] and peer not in ("shmq", "bare C")
    ]
    cells = (
        name,
        _judged(by_peer.get("shmq"), ranked) + (f", shmq.mp.Queue {_cell(drop_in)}" if drop_in else ""),
        _cell(baseline),
        _best(ranked),
        _cell(by_peer.get(_STDLIB)),
        ", ".join(others) or "–",
    )
    return f"| {' | '.join(cells)} |"


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the reports of each case that compares something: by the case's name, then by peer."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for report in document["results"]:
        rows.setdefault(f"{report['topology']}: {report['case']}".replace("_", " "), {})[report["peer"]] = report
    return {name: by_peer for name, by_peer in rows.items() if len(by_peer) > 1}


def measured_where(document: dict[str, Any]) -> str:
    """Return the machine, the commit and the day of a run."""
    about = document["machine"]
    changes = " with changes" if about["changed"] else ""
    return (
        f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, {about['python']}, "
        f"commit {about['commit'][:12]}{changes}, {about['date'][:10]}"
    )


def markdown(document: dict[str, Any]) -> str:
    """Return the table of all cases that compare something, and where it was measured."""
    rows = rows_of(document)
    baselines = {
        "startup: import": "In the row `import`, the column “bare C” is `import numpy`.",
        "objects: small dicts, 1 → 1": "In the row `objects`, the column “bare C” is dumps + loads of pickle.",
    }
    versions = ", ".join(f"{name} {number}" for name, number in document["machine"]["packages"].items())
    return "\n".join(
        [
            f"| work | shmq | bare C | best peer | `{_STDLIB}` | others |",
            "|---|---|---|---|---|---|",
            *(_row(name, by_peer) for name, by_peer in rows.items()),
            "",
            f"Medians of {document['repeat']} interleaved rounds of {document['seconds']} s; per message, frame, round "
            f"trip or call. Differences below {_TIE}× are ties. {measured_where(document)}. {versions}."
            + "".join(f" {text}" for name, text in baselines.items() if name in rows),
        ]
    )


def summary(documents: list[dict[str, Any]]) -> str:
    """Return the rows of SUMMARY, each from the first document that has it, and where these were measured."""
    rows: dict[str, str] = {}
    used = []
    for document in documents:
        found = {name: by_peer for name, by_peer in rows_of(document).items() if name in SUMMARY and name not in rows}
        rows.update((name, _short_row(name, by_peer)) for name, by_peer in found.items())
        if found:
            used.append(measured_where(document))
    missing = [name for name in SUMMARY if name not in rows]
    if missing:
        raise ValueError(f"no results of {', '.join(missing)}")
    return "\n".join(
        [
            f"| work | shmq | best peer | `{_STDLIB}` |",
            "|---|---|---|---|",
            *(rows[name] for name in SUMMARY),
            "",
            f"Medians; differences below {_TIE}× are ties. {'; '.join(used)}.",
        ]
    )


def insert(text: str, table: str) -> str:
    """Return the text with the table between its markers. Raises ValueError if it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END} in the text")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def write(documents: list[dict[str, Any]]) -> None:
    """Put the tables into the two documents of the checkout. Raises ValueError where one has no place for them."""
    texts = {ROOT / "README.md": summary(documents), ROOT / "benchmarks" / "README.md": "\n\n".join(map(markdown, documents))}
    written = {path: insert(path.read_text(), table) for path, table in texts.items()}
    for path, text in written.items():
        path.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the tables of the documents from results, and judge the targets.")
    parser.add_argument("results", type=Path, nargs="+", help="what run.py --json wrote")
    parser.add_argument(
        "--write", action="store_true", help="write them into README.md and benchmarks/README.md; default: print them"
    )
    arguments = parser.parse_args()
    documents = [json.loads(path.read_text()) for path in arguments.results]
    if arguments.write:
        try:
            write(documents)
        except ValueError as error:
            sys.exit(str(error))
    else:
        print("\n\n".join(map(markdown, documents)))
    words = {True: "met", False: "NOT MET", None: "?"}
    for path, document in zip(arguments.results, documents, strict=True):
        print(f"\n{path}")
        for verdict in verdicts(document):
            print(f"{words[verdict.met]:<8} {verdict.promise}: {verdict.measured}")


if __name__ == "__main__":
    main()
