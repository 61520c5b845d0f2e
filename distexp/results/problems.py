"""Why a row does not count, and what would help, in one line. Pure."""

import difflib
import json
import re
from collections.abc import Hashable, Sequence

import msgspec

from distexp.results.compare import cell_forms, value_forms
from distexp.results.groups import Row
from distexp.results.matching import Matcher, Plan
from distexp.task import Value
from distexp.text import cell_text

MAX_EXPLAINED = 10_000  # rows without a phase that are compared with several phases, per look
MAX_RENAMED = 5  # columns in a hint
SHOWN_CHARS = 60  # of a cell in a message
YAML_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])
ALIKE = 0.8  # of two names, by difflib's measure: `learning_rate` and `learningRate`, not `lr` and `layers`


class Problem(msgspec.Struct):
    """Why some rows of a file do not count."""

    reason: str
    line: int  # of the first of them
    rows: int = 1

    def told(self, path: object) -> str:
        """Return the line that a user reads."""
        rows = "1 row does not count" if self.rows == 1 else f"{self.rows} rows do not count"
        return f"{path}:{self.line}: {rows}: {self.reason}"


class Explainer:
    """Says of rows that complete nothing why."""

    def __init__(self, matcher: Matcher, columns: Sequence[str]) -> None:
        """Explain by what `matcher` compares, for a file of these columns."""
        self._matcher, self._columns = matcher, columns
        self._budget = MAX_EXPLAINED

    def kind(self, row: Row) -> Hashable:
        """Return what rows have in common that do not count for one reason."""
        if all(cell.strip() == column for cell, column in zip(row, self._columns, strict=True)):
            return "header"
        phase = self._matcher.phase_of(row).strip()
        if not phase:
            return self._kind_without_phase(row)
        plans = self._matcher.plans_of(phase)
        if not plans:
            return "phase", phase
        return _kind(next((plan for plan in plans if plan.counts), plans[0]), row)

    def _kind_without_phase(self, row: Row) -> Hashable:
        plans = self._matcher.unphased
        if not plans:
            with_axis = [plan for plan in self._matcher.plans if plan.has_axis]
            best = min(with_axis, key=lambda plan: len(plan.missing), default=None)
            return ("axes",) if best is None else _kind(best, row)
        if len(plans) == 1:
            return _kind(plans[0], row)
        self._budget -= 1
        if self._budget < 0:
            return ("values",)
        names = {plan.mismatch(row)[0] for plan in plans}
        return _kind(plans[0], row) if len(names) == 1 else ("values",)

    def text(self, kind: Hashable, row: Row) -> str:
        """Return the reason in words, with what would help; `row` is the first of this kind."""
        match kind:
            case ("phase", str(phase)):
                return f"phase {_shown(phase)} is in no config; {self._rename_phase(phase, row)}"
            case ("column", str(phase), str(name)):
                plan = next(p for p in self._matcher.plans if p.group.phase == phase and name in p.missing)
                return f"no column `{name}`, which phase {phase} varies; {self._column_hint(plan, name)}"
            case ("assumed", str(phase), str(name)):
                return f"no column `{name}`, and phase {phase} assumes another value where there is none"
            case ("value", str(phase), str(name)):
                plan = next(p for p in self._matcher.plans if p.group.phase == phase and p.at.get(name))
                return _value_reason(plan, name, plan.mismatch(row)[1])
            case ("combination", str(phase)):
                return f"no task of {phase} has this combination of values"
            case "several":
                plans = [plan for plan in self._matcher.unphased if plan.found(lambda at: (row[at],), 1)[0]]
                names = ", ".join(sorted({plan.group.phase for plan in plans}))
                return f"it fits tasks of several phases ({names}); a column `phase` would say which"
            case ("axes",):
                return "no column is an axis of a phase, and there is no column `phase`"
            case "header":
                return "it is the header again"
            case "other":
                return "other reasons"
            case "again":
                return "a second row of a task; the first counts"
        return "no task of any phase has these values"

    def _rename_phase(self, phase: str, row: Row) -> str:
        rename = f"`{_renamed(('phase', phase))}`"
        plans = [plan for plan in self._matcher.plans if plan.counts]
        fits = {plan.group.phase for plan in plans if plan.found(lambda at: (row[at],), 1)[0]}
        if len(fits) == 1:
            return f"if its rows belong to {fits.pop()}, write {rename} there"
        return f"write {rename} into the phase that its rows belong to"

    def _column_hint(self, plan: Plan, name: str) -> str:
        used = {place for places in plan.at.values() for place in places}
        free = [column for place, column in enumerate(self._columns) if place not in used]
        if alike := _looks_like(name, free):
            return f"`{alike}` looks like it: `{_renamed((name, alike))}`"
        return (
            f"write `{_renamed((name, 'COLUMN'))}` into the phase if a column holds it by another name, "
            f"or `assume: {{{_as_yaml(name)}: VALUE}}` if all rows have one value of it"
        )


def _kind(plan: Plan, row: Row) -> Hashable:
    phase = plan.group.phase
    if plan.missing:
        return "column", phase, plan.missing[0]
    if plan.wrongly_assumed:
        return "assumed", phase, plan.wrongly_assumed[0]
    name, _ = plan.mismatch(row)
    if name and not plan.at[name]:
        return "assumed", phase, name
    return ("value", phase, name) if name else ("combination", phase)


def header_reason(matcher: Matcher, columns: Sequence[str]) -> str:
    """Return why the rows below these columns are no rows of this sweep, with what would help."""
    names = ", ".join(columns)[:SHOWN_CHARS]
    parameters = sorted({name for plan in matcher.plans for name in plan.at})
    if len(columns) == 1 and ("|" in names or len({*parameters} & {*columns[0].split()}) > 1):
        return f"does not separate its cells by commas, semicolons or tabs ({names}); save it with commas"
    alike = [(name, column) for name in parameters if (column := _looks_like(name, columns))]
    if alike:
        rename = _renamed(*alike[:MAX_RENAMED])
        return (
            f"has no column called as a parameter of this sweep; `{alike[0][1]}` looks like one: `{rename}`"
        )
    hint = "write one, or say in the phase what its columns are called: `renamed_from: {PARAMETER: [COLUMN]}`"
    return f"has a first line that names no parameter of this sweep ({names}); if that is no header, {hint}"


def _renamed(*pairs: tuple[str, str]) -> str:
    """Return the setting for a phase in which these parameters had those names earlier."""
    names = ", ".join([f"{_as_yaml(name)}: [{_as_yaml(earlier)}]" for name, earlier in pairs])
    return f"renamed_from: {{{names}}}"


def _as_yaml(name: str) -> str:
    """Return the name as a text of YAML, in quotes where it would be read as something else."""
    is_plain = re.fullmatch(r"[A-Za-z_][\w./-]*", name, re.ASCII) and name.lower() not in YAML_WORDS
    return name if is_plain else json.dumps(name, ensure_ascii=False)


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= SHOWN_CHARS else cell[:SHOWN_CHARS] + "...")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _looks_like(name: str, columns: Sequence[str]) -> str:
    """Return the column whose name is the most like this one's; empty when none is."""
    by_plain = {_plain(column): column for column in reversed(columns) if _plain(column)}
    last_parts = {_plain(re.split(r"[./]", column)[-1]): column for column in reversed(columns)}
    found = by_plain.get(_plain(name)) or last_parts.get(_plain(name)) or _short_for(name, columns)
    close = difflib.get_close_matches(_plain(name), by_plain, 1, ALIKE)
    return found or (by_plain[close[0]] if close else "")


def _short_for(name: str, columns: Sequence[str]) -> str:
    """Return the column whose initials the name is, or the other way round: `learning_rate` for `lr`."""
    own = _initials(name)
    for column in columns:
        if (len(own) > 1 and own == _plain(column)) or (len(name) > 1 and _initials(column) == _plain(name)):
            return column
    return ""


def _initials(name: str) -> str:
    words = re.findall(r"[A-Za-z][a-z0-9]*", name)
    return "".join([word[0] for word in words]).casefold() if len(words) > 1 else ""


def _value_reason(plan: Plan, name: str, cell: str) -> str:
    """Return why the cell holds no value of the parameter, and which it may be meant to hold."""
    phase = plan.group.phase
    if not cell.strip():
        assumed = plan.group.rule.assume.get(name)
        if name in plan.group.rule.assume:
            return f"{name} is empty, so it counts as {cell_text(assumed)}, which no task of {phase} has"
        return f"{name} is empty, and tasks of {phase} differ in it"
    if len(several := plan.fitting(name, cell)) > 1:
        texts = " or ".join([repr(value) for value in several[:3]])
        return f"{name} is {_shown(cell)}, which may be {texts} of {phase}; write it as the config does"
    so_far = " so far" if plan.group.is_growing else ""
    return f"{name} is {_shown(cell)}, which no task of {phase} has{so_far}{_value_hint(plan, name, cell)}"


def _value_hint(plan: Plan, name: str, cell: str) -> str:
    text = cell.strip()
    values = plan.values(name)
    alike = [value for value in values if isinstance(value, str) and value.casefold() == text.casefold()]
    same = [value for value in values if isinstance(value, str) and _is_same_number(value, text)]
    rounded = [value for value in values if type(value) in (int, float) and _is_rounded(value, text)]
    if len(alike) == 1:
        return f"; {alike[0]!r} is written otherwise"
    if len(same) == 1:
        return f"; the text {same[0]!r} is the same number: restore how it was written"
    if len(rounded) == 1:
        return f"; it looks like {cell_text(rounded[0])}, rounded as spreadsheets do: restore its digits"
    if any(form[0] == "float" for value in values for form in value_forms(value)) and "," in text:
        return "; numbers need a decimal point"
    return ""


def _is_same_number(value: str, text: str) -> bool:
    numbers = {form for form in cell_forms(value) if form[0] == "float"}
    return not numbers.isdisjoint(cell_forms(text))


def _is_rounded(value: Value, text: str) -> bool:
    if not isinstance(value, int | float) or (isinstance(value, int) and "e" not in text.lower()):
        return False
    digits = re.sub(r"[eE].*|[^0-9]", "", text).lstrip("0")
    try:
        return 2 <= len(digits) <= 15 and float(f"{value:.{len(digits)}g}") == float(text)
    except ValueError:
        return False
