"""Write a software bill of materials: CycloneDX 1.6 JSON, every package of requirements.lock.

    python tools/sbom.py [--output FILE]

Names, versions and hashes are the lock's, so the bill says what an installation from the lock may
contain, on any platform. Licences are those that the packages state, where they are installed here.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

ROOT = Path(__file__).parent.parent
_PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^ ;\\]+)\s*(;(?P<marker>.*))?"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package of a lock file."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{re.sub('[-_.]+', '-', self.name).lower()}@{self.version}"


def pinned(lock: str) -> Iterator[Pinned]:
    """The packages of a lock file. Raises ValueError on a requirement that is not pinned."""
    for requirement in lock.replace("\\\n", " ").splitlines():
        if not requirement.strip() or requirement.startswith("#"):
            continue
        found = _PINNED.match(requirement)
        hashes = tuple(_HASH.findall(requirement))
        if found is None or not hashes:
            raise ValueError(f"not pinned, or without a hash: {requirement[:80]}")
        marker = found["marker"].partition("--hash")[0].strip() if found["marker"] else None
        yield Pinned(found["name"], found["version"], marker, hashes)


def bill(lock: str, project: dict[str, Any]) -> dict[str, Any]:
    """The same lock gives the same bill, byte for byte."""
    name, version = project["name"], project.get("version", "0")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"pkg:pypi/{name}@{version}",
                "name": name,
                "version": version,
            }
        },
        "components": [_component(package) for package in pinned(lock)],
    }


def _component(package: Pinned) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        # One for each file that may be installed: a wheel a platform, and the source.
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{package.name}/{package.version}/",
                "hashes": [{"alg": "SHA-256", "content": one} for one in package.hashes],
            }
        ],
    }
    if package.marker:
        component["properties"] = [{"name": "python:marker", "value": package.marker}]
    if licence := _licence(package):
        component["licenses"] = [licence]
    return component


def _licence(package: Pinned) -> dict[str, Any] | None:
    try:
        said = metadata(package.name)
    except PackageNotFoundError:
        return None
    if said["Version"] != package.version:
        return None
    if expression := said["License-Expression"]:
        return {"expression": expression}
    classified = [
        text.rpartition(" :: ")[2]
        for text in said.get_all("Classifier", [])
        if text.startswith("License :: ")
    ]
    named = classified[0] if classified else (said["License"] or "").strip().partition("\n")[0]
    return {"license": {"name": named}} if named else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="file; without it the bill goes to stdout")
    chosen = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    written = bill((ROOT / "requirements.lock").read_text("utf-8"), project)
    text = json.dumps(written, indent=2) + "\n"
    if chosen.output is None:
        sys.stdout.write(text)
    else:
        chosen.output.write_text(text, encoding="utf-8")
        sys.stderr.write(f"{len(written['components'])} packages in {chosen.output}\n")


if __name__ == "__main__":
    main()
