"""h2spec, case by case, against listeners that lead to real programs."""

import subprocess
import xml.etree.ElementTree

from results import Result, Suite

TEXT = """
h2spec checks a server's HTTP/2 against RFC 9113 and RFC 7541. Here the server is a listener of the caller's proxy that
leads to a service, so that every request ends at a real program, which speaks HTTP/1.1 or HTTP/2. The listener also
serves HTTP/1.1: what is no preface of HTTP/2 it takes for a bad request of that, answers 400 and closes, which is what
http2/3.5 case 2 asks for in other words.
"""
PARTS = ["generic", "hpack", "http2"]
# h2spec offers what is no preface of HTTP/2. A listener serves HTTP/1.1 too: it answers 400 in that
# and closes, which h2spec does not take for an end.
NO_PREFACE = ("http2/3.5", "Sends invalid connection preface", "looked like an HTTP/1.1 header")
SERVERS = {"to node, HTTP/1.1": "http-node", "to node, HTTP/2": "http2-node"}


def run(mesh, versions):
    ran = [f"h2spec {versions['summerwind/h2spec']}", f"node {versions['node']}"]
    suite = Suite("h2spec", "HTTP/2", TEXT, ran)
    for place, suffix in (("within", ""), ("across", "-east")):
        for column, service in SERVERS.items():
            for part in PARTS:
                for result in check(mesh, service + suffix, part, column, place):
                    suite.add(result)
    return suite


def check(mesh, service, part, column, place):
    host, port = mesh.listener(service).rsplit(":", 1)
    report = mesh.folder / "h2spec.xml"
    report.unlink(missing_ok=True)
    program = str(mesh.build / "bin/h2spec")
    command = [program, part, "-h", host, "-p", port, "-P", "/hello", "-o", "3", "-j", str(report)]
    done = subprocess.run(command, env=mesh.environment, capture_output=True, text=True, timeout=240)
    if not report.exists():
        yield Result(part, column, place, "listener", f"no report: {done.stdout}{done.stderr}"[:500])
        return
    for group in xml.etree.ElementTree.parse(report).iter("testsuite"):
        for number, case in enumerate(group.iter("testcase"), 1):
            name = f"{case.get('package')}/{number}: {case.get('classname')}"
            wrong = [*case.iter("failure"), *case.iter("error")]
            error = " ".join((wrong[0].text or "failed").split()) if wrong else None
            if error and all(part in name + error for part in NO_PREFACE):
                error = None
            yield Result(name, column, place, "listener", error)
