"""Write the table of covered rows in docs/security.md, from the names of the tests.

python tools/security_table.py            compare; exit code 1 where the page is not up to date
python tools/security_table.py --write    renew it
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "security.md"
ROWS = Path(__file__).with_name("security_rows.toml")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_NAME = re.compile(r"test_(D|E|G)(\d*)[a-z]?_")


def tests() -> Iterator[tuple[str, str]]:
    """The row and the file of every test whose name bears a row."""
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                match := _NAME.match(node.name)
            ):
                row = match[1] + match[2] if match[1] == "E" else match[1]
                yield row, str(file.relative_to(ROOT))


def table() -> str:
    """The rows in the order of the file; a row without tests says so."""
    rows = tomllib.loads(ROWS.read_text(encoding="utf-8"))
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row, file in tests():
        found[row][file] += 1
    if unknown := found.keys() - rows.keys():
        raise SystemExit(f"{ROWS.name} has no row {', '.join(sorted(unknown))}")
    lines = ["| row | case | tests | ASVS 5.0 |", "|---|---|---|---|"]
    for row, about in rows.items():
        files = found.get(row, {})
        told = "<br>".join(f"{count} in `{file}`" for file, count in sorted(files.items()))
        lines.append(
            f"| {row} | {about['title']} | {told or 'none yet'} | {', '.join(about['asvs'])} |"
        )
    return "\n".join(lines)


def renewed(page: str) -> str:
    """The page with the table of now between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    if arguments == ["--write"]:
        PAGE.write_text(renewed(page), encoding="utf-8")
        return 0
    if page != renewed(page):
        print("docs/security.md is not up to date: run python tools/security_table.py --write")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
