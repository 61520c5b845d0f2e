"use strict";
// Rows that have the same cells in some columns as one line: how many there are, and the mean of each metric.
const groups = (() => {
  const { byId, make, checkbox, scrolling, save } = dom;
  const { shown, interval, count, counted } = text;
  const MOST_LINES = 500;  // of a table; what is saved has all

  function split(by, rows) {
    const found = new Map();
    for (const row of rows) {
      const cells = by.map((each) => each.value(row));
      const key = JSON.stringify(cells);
      if (!found.has(key)) found.set(key, { cells, rows: [] });
      found.get(key).rows.push(row);
    }
    return [...found.values()];
  }

  // of the numbers among some values; sd: the standard deviation of a sample, null of one number
  function spread(values) {
    const numbers = values.filter((value) => typeof value === "number" && Number.isFinite(value));
    if (!numbers.length) return null;
    const mean = numbers.reduce((sum, each) => sum + each, 0) / numbers.length;
    const squares = numbers.reduce((sum, each) => sum + (each - mean) ** 2, 0);
    const sd = numbers.length > 1 ? Math.sqrt(squares / (numbers.length - 1)) : null;
    return { mean, sd: sd !== null && sd < 1e-12 * Math.abs(mean) ? 0 : sd, amount: numbers.length,
      low: numbers.reduce((a, b) => Math.min(a, b)), high: numbers.reduce((a, b) => Math.max(a, b)) };
  }

  const compare = (a, b) => a === b ? 0 : columns.isNothing(a) ? 1 : columns.isNothing(b) ? -1
    : typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  // table: of the rows; isLeftOut(row): no mean counts it; listen(): what is chosen here has changed
  function groupsTable(model, table, { isLeftOut, listen, file }) {
    const place = byId("groups");
    let by = [], sorted = { name: "", sign: 1 };
    const candidates = model.all.filter((each) => each.group !== "metric" && each.name !== "task_id" && each.name !== "run_dir");

    function showChoice() {
      byId("groups-choice").replaceChildren(...candidates.map((each) => checkbox(each.name, by.includes(each), (isOn) => {
        by = candidates.filter((other) => other === each ? isOn : by.includes(other));
        changed();
      })));
    }
    function changed() {
      listen();
      show();
    }

    function linesOf(metrics) {
      const lines = split(by, model.kept.filter((row) => !isLeftOut(row)));
      for (const line of lines) line.of = new Map(metrics.map((each) => [each, spread(line.rows.map(each.value))]));
      const metric = metrics.find((each) => each.name === sorted.name), at = by.findIndex((each) => each.name === sorted.name);
      const byCells = (a, b) => a.cells.map((cell, at) => compare(cell, b.cells[at])).find((order) => order) ?? 0;
      const first = metric ? (a, b) => compare(a.of.get(metric)?.mean ?? null, b.of.get(metric)?.mean ?? null)
        : sorted.name === "rows" ? (a, b) => a.rows.length - b.rows.length : at >= 0 ? (a, b) => compare(a.cells[at], b.cells[at]) : () => 0;
      return lines.sort((a, b) => sorted.sign * first(a, b) || byCells(a, b));
    }

    function head(name, isNumber) {
      const sign = sorted.name === name ? sorted.sign : 0;
      const press = make("button", { type: "button", class: "sort", "data-column": name, onclick: () => {
        sorted = { name, sign: sorted.name === name ? -sorted.sign : 1 };
        changed();
        [...place.querySelectorAll("th button")].find((button) => button.dataset.column === name)?.focus();
      } }, name, sign > 0 ? " ▲" : sign < 0 ? " ▼" : "");
      return make("th", { scope: "col", class: isNumber ? "number" : "", "aria-sort": sign > 0 ? "ascending" : sign < 0 ? "descending" : "none" }, press);
    }

    function cellOf(found) {
      if (!found) return make("td", { class: "number" });
      const [mean, sd] = interval(found.mean, found.sd);
      const said = `${counted(found.amount, "number")}, ${shown(found.low)} to ${shown(found.high)}`;
      return make("td", { class: "number", title: said }, mean, found.sd === null ? null : make("span", { class: "half" }, ` ± ${sd}`));
    }

    function amountOf(line) {
      const names = by.map((each, at) => `${each.name} = ${shown(line.cells[at])}`).join(", ");
      return make("td", { class: "number" }, make("button", { type: "button", class: "small", "aria-label": `Filter the rows: ${names}`, title: "Show these rows alone", onclick: () => {
        table.setFilters(by.map((each, at) => [each, `=${line.cells[at] ?? ""}`]));
        byId("table").scrollIntoView({ block: "nearest" });
      } }, count(line.rows.length)));
    }

    // other axes that differ within groups: their means are not of like with like
    function mixed(lines) {
      const others = model.all.filter((each) => (each.group === "axis" || each.name === "phase") && !by.includes(each));
      return others.filter((each) => lines.some(({ rows }) => rows.some((row) => each.value(row) !== each.value(rows[0])))).map((each) => each.name);
    }

    function show() {
      byId("groups-by").textContent = by.map((each) => each.name).join(", ");
      place.hidden = by.length === 0;
      if (place.hidden) return place.replaceChildren();
      const metrics = table.visible().filter((each) => each.isNumber && ["metric", "result"].includes(each.group) && !by.includes(each));
      const lines = linesOf(metrics), differing = mixed(lines);
      const notes = ["Means of the rows that the filter keeps, ± one standard deviation; the metrics are those that Columns shows."];
      if (differing.length) notes.push(`Within a group these differ, too: ${differing.join(", ")}.`);
      if (lines.length > MOST_LINES) notes.push(`The first ${count(MOST_LINES)} of ${count(lines.length)} groups.`);
      const saving = make("button", { type: "button", onclick: () => save(`groups_of_${file}`, "text/csv", csv(lines, metrics)) }, "Save groups as CSV");
      const heads = [...by.map((each) => head(each.name, each.isNumber)), head("rows", true), ...metrics.map((each) => head(each.name, true))];
      place.replaceChildren(make("div", { class: "bar" }, make("h3", {}, counted(lines.length, "group")), saving), make("p", { class: "quiet" }, notes.join(" ")),
        scrolling("Groups", make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines.slice(0, MOST_LINES).map((line) => make("tr", {},
          ...line.cells.map((cell, at) => make("td", { class: by[at].isNumber ? "number" : "" }, shown(cell))), amountOf(line), ...metrics.map((each) => cellOf(line.of.get(each)))))))));
    }

    function csv(lines, metrics) {
      const heads = [...by.map((each) => each.name), "rows", ...metrics.flatMap(({ name }) => [name, `${name}_sd`, `${name}_min`, `${name}_max`])];
      return columns.lines([heads, ...lines.map((line) => [...line.cells, line.rows.length, ...metrics.flatMap((each) => {
        const found = line.of.get(each);
        return [found?.mean, found?.sd, found?.low, found?.high];
      })])]);
    }

    return {
      show,
      said: () => [...by.map((each) => ["group", each.name]), ["groupsort", sorted.name && `${sorted.sign < 0 ? "-" : ""}${sorted.name}`]],
      take(parameters) {
        by = candidates.filter((each) => parameters.getAll("group").includes(each.name));
        const order = parameters.get("groupsort") ?? "";
        sorted = { name: order.replace(/^-/, ""), sign: order.startsWith("-") ? -1 : 1 };
        showChoice();
        show();
      },
    };
  }

  // the mean of some curves [steps, values], and its spread, where at least one is: [step, {mean, sd, ...}] each
  function meanCurve(curves, most) {
    const all = [...new Set(curves.flatMap(([steps]) => [...steps]))].sort((a, b) => a - b);
    return [...columns.sample(all, most)].map((step) => [step, spread(curves.map((curve) => at(curve, step)))]).filter(([, found]) => found);
  }

  // the value of a curve at a step, between two of its own by a straight line; null outside
  function at([steps, values], step) {
    const next = steps.findIndex((each) => each >= step);
    if (next < 0 || (next === 0 && steps[0] > step)) return null;
    if (steps[next] === step) return values[next];
    const share = (step - steps[next - 1]) / (steps[next] - steps[next - 1]);
    return values[next - 1] + share * (values[next] - values[next - 1]);
  }

  return { groupsTable, split, meanCurve };
})();
