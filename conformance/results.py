"""What the suites found: tables for people, and the pages of docs/conformance."""

import dataclasses
import json


@dataclasses.dataclass
class Result:
    case: str
    # What is called by what, such as "node to python".
    column: str
    # "within" one cluster or "across" two.
    place: str
    # The way in which the client came to its proxy.
    entry: str
    error: str | None = None
    note: str = ""


class Suite:
    """The results of one suite, and what stands above them on its page."""

    def __init__(self, name, title, text, versions):
        self.name, self.title, self.text, self.versions = name, title, text, versions
        self.results = []

    def add(self, result):
        self.results.append(result)
        outcome = f"FAILED: {result.error}" if result.error else f"ok {result.note}".rstrip()
        print(f"{self.name:9} {result.place:6} {result.entry:15} {result.column:22} "
              f"{result.case}: {outcome}", flush=True)

    def add_lines(self, asked, output, column, place, entry, ended, note=""):
        """The lines of a client (see report.py); a case without one has failed."""
        found = {}
        for line in output.splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                found[told["case"]] = told
        for case in asked:
            told = found.get(case, {"error": f"no result: {ended}", "note": ""})
            self.add(Result(case, column, place, entry, told["error"], told["note"] or note))

    def failed(self):
        return [result for result in self.results if result.error]

    def tables(self):
        """A table for each place: a row for each case, a column for each pair."""
        lines = []
        for place in unique(result.place for result in self.results):
            here = [result for result in self.results if result.place == place]
            columns = unique(result.column for result in here)
            lines += ["", f"## {PLACES[place]}", ""]
            lines += [row(["case", *columns]), row(["---"] * (len(columns) + 1))]
            for case in unique(result.case for result in here):
                cells = [
                    cell([r for r in here if (r.case, r.column) == (case, column)])
                    for column in columns
                ]
                lines.append(row([case, *cells]))
        return lines

    def page(self):
        lines = [f"# {self.title}", "", "<!-- Written by `make conformance`. -->", ""]
        lines += [self.text.strip(), "", "Run with " + ", ".join(self.versions) + "."]
        lines += self.tables()
        if self.failed():
            lines += ["", "## What failed", ""]
        for result in self.failed():
            error = " ".join(result.error.split()).replace("|", "\\|")
            where = f"{result.case}, {result.column}, {result.place}, {result.entry}"
            lines.append(f"- {where}: `{error.replace('`', chr(39))}`")
        return "\n".join(lines) + "\n"


PLACES = {"within": "Within a cluster", "across": "Across clusters, through a gateway"}


def unique(values):
    return list(dict.fromkeys(values))


def row(cells):
    return "| " + " | ".join(cells) + " |"


def cell(results):
    failed = [result.entry for result in results if result.error]
    if not results:
        return "-"
    if not failed:
        return "ok"
    return "FAILED" if len(failed) == len(results) else "FAILED: " + ", ".join(failed)
