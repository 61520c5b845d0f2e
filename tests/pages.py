"""Read our own pages: fenced blocks, tables, code spans, links."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PAGES = tuple(
    sorted(
        path.relative_to(PROJECT).as_posix()
        for pattern in ("*.md", "llms.txt", "docs/*.md", "benchmarks/*.md", ".github/**/*.md")
        for path in PROJECT.glob(pattern)
    )
)


def page(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {heading!r}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table line that is neither head nor rule."""
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    rules = {index for index, line in enumerate(tables) if re.fullmatch(r"\|[-|]+\|", line)}
    heads = {index - 1 for index in rules}
    kept = [line for index, line in enumerate(tables) if index not in rules | heads]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def spans(text: str) -> list[str]:
    """The code spans outside of fenced blocks."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [two or one for two, one in re.findall(r"``(.+?)``|`([^`]+)`", prose)]


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
