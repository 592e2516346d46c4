"""The versions of what takes part, as they stand on the pages."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess

HERE = pathlib.Path(__file__).resolve().parent

def find_versions(build, isthmus):
    found = {"python": platform.python_version()}
    for package in importlib.metadata.distributions():
        found[package.metadata["Name"]] = package.version
    lock = json.loads((build / "node/package-lock.json").read_text())
    for path, package in lock["packages"].items():
        if path.startswith("node_modules/"):
            found[path.removeprefix("node_modules/")] = package["version"]
    for folder in ("websocket/go", "h2spec"):
        for line in (HERE / folder / "go.mod").read_text().splitlines():
            if line.startswith("require github.com/"):
                _, module, version = line.split()
                version = version.removeprefix("v").removesuffix("+incompatible")
                found[module.removeprefix("github.com/")] = version
    found["node"] = said("node", "--version").lstrip("v")
    found["curl"] = said("curl", "--version").split()[1]
    found["go"] = said("go", "version").split()[2].removeprefix("go")
    found["isthmus"] = said(str(isthmus), "--version").split()[-1]
    return found


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
