"""How a client of a suite tells the results of its cases: a line of JSON each."""

import json
import sys
import traceback


def tell(case, error=None, note=""):
    print(json.dumps({"case": case, "error": error, "note": note}), flush=True)


def run_cases(cases, asked, *args):
    """Runs those of `cases` (a dict of functions) that are asked for, each to its end."""
    for name in asked:
        try:
            note = cases[name](*args)
        except Exception as error:  # whatever it is, it is the case's result
            traceback.print_exc(file=sys.stderr)
            tell(name, f"{type(error).__name__}: {error}"[:500])
        else:
            tell(name, note=note or "")


def expect(wanted, found, what):
    if wanted != found:
        raise AssertionError(f"{what}: expected {wanted!r}, found {found!r}")
