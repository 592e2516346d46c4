"""Starts a mesh, runs the suites against it and writes what they found.

    run.py --isthmus FILE --build DIR [--pages DIR] [--state NAME] [--suite NAME]...

`install` has put what it needs into the build directory. Exits 1 if anything failed.
"""

import argparse
import pathlib
import signal
import sys

import programs
import suite_grpc
import suite_h2spec
import suite_http
import suite_websocket
from mesh import Mesh
from versions import find_versions

SUITES = {
    "grpc": suite_grpc,
    "websocket": suite_websocket,
    "h2spec": suite_h2spec,
    "http": suite_http,
}


def main():
    asked = arguments()
    # However it ends, the mesh is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("run.py: stopped"))
    names = asked.suite or list(SUITES)
    versions = find_versions(asked.build, asked.isthmus)
    programs.select(names)
    suites = []
    with Mesh(asked.isthmus, asked.build, asked.state) as mesh:
        for name in names:
            suites.append(SUITES[name].run(mesh, versions))
            if asked.pages:
                asked.pages.mkdir(parents=True, exist_ok=True)
                (asked.pages / f"{name}.md").write_text(suites[-1].page())
    for suite in suites:
        print("\n".join([f"\n# {suite.title}", *suite.tables()]))
    failed = [result for suite in suites for result in suite.failed()]
    count = sum(len(suite.results) for suite in suites)
    print(f"\n{count - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not count else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isthmus", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=lambda text: pathlib.Path(text).resolve(), required=True)
    parser.add_argument("--pages", type=pathlib.Path)
    parser.add_argument("--state", default="mesh", help="folder of the mesh, in the build directory")
    parser.add_argument("--suite", action="append", choices=SUITES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
