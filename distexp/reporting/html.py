"""The page of a report: one HTML file with its data, its style and plotly.js in it.

It asks the network for nothing, and says so to the browser (its Content-Security-Policy).
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

PARTS = Path(__file__).parent / "page"
SCRIPTS = (
    *("dom.js", "text.js", "charts.js", "phases.js"),
    *("address.js", "columns.js", "rows_table.js", "groups.js", "parallel.js", "explore.js", "report.js"),
)  # each uses those before it
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
_OUT_OF_SCRIPTS = {  # a cell must neither end the element that holds it nor open another
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def make_page(report: Mapping[str, Any], *, title: str, made: str) -> str:
    """Return the text of the page.

    Args:
        title: What the page is called, the name of the folder, say.
        made: When and where, shown below the title.
    """
    from plotly.offline import get_plotlyjs  # half a second, which no other verb has to spend

    parts = {
        "POLICY": _POLICY,
        "TITLE": html.escape(title),
        "MADE": html.escape(made),
        "STYLE": _read("page.css"),
        "DATA": embedded(report),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": "\n".join(map(_read, SCRIPTS)),
    }
    page = []
    for piece in _read("page.html").split("@@"):  # in one pass: no part is searched for the next one's mark
        page.append(parts.get(piece, piece))
    return "".join(page)


def embedded(value: Any) -> str:
    """Return JSON that may stand inside a script element, whatever its texts hold."""
    text = msgspec.json.encode(value).decode(errors="replace")
    for character, escape in _OUT_OF_SCRIPTS.items():
        text = text.replace(character, escape)
    return text


def _read(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
