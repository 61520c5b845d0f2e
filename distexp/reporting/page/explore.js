"use strict";
// Any column against any other, parallel coordinates and learning curves, of the rows that pass the table's filter.
const explore = (() => {
  const { make, choice, checkbox } = dom;
  const { shown, count, counted, cut } = text;
  const { plain, clipped } = charts;
  const MOST_DOTS = 5000, MOST_LINES = 2000, MOST_CATEGORIES = 10;

  // a colour per row, by a column: a ramp for numbers (of few values: with a name each), else one of ten;
  // order: the values of an axis as the config has them, so that one has the same colour in all charts
  function colouring(each, rows, order = []) {
    if (!each) return { of: () => charts.colour("--accent"), legend: null };
    const known = new Set();
    for (const row of rows) known.add(each.value(row));
    const values = [...known].filter((cell) => !columns.isNothing(cell));
    const grey = charts.colour("--quiet");
    const isNumeric = each.isNumber && values.every((cell) => typeof cell === "number");
    if (isNumeric && values.length > MOST_CATEGORIES) {
      const by = columns.isLog(each, values) ? Math.log : (number) => number;
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const of = (row) => { const cell = each.value(row); return typeof cell === "number" ? charts.onRamp((by(cell) - by(low)) / (by(high) - by(low))) : grey; };
      const middle = by === Math.log ? Math.sqrt(low * high) : (low + high) / 2;
      return { of, legend: charts.legend(each.name, [[shown(low), charts.onRamp(0)], [shown(+middle.toPrecision(3)), charts.onRamp(0.5)], [shown(high), charts.onRamp(1)]]) };
    }
    if (isNumeric) values.sort((a, b) => a - b);
    else values.sort((a, b) => order.indexOf(a) - order.indexOf(b) || String(a).localeCompare(String(b), "en", { numeric: true }));
    const shades = new Map(charts.coloursFor(values.length, isNumeric).map((shade, at) => [values[at], at < MOST_CATEGORIES ? shade : grey]));
    const entries = [...shades].slice(0, MOST_CATEGORIES).map(([cell, shade]) => [shown(cell), shade]);
    if (values.length > MOST_CATEGORIES) entries.push([`${count(values.length - MOST_CATEGORIES)} more`, grey]);
    return { of: (row) => shades.get(each.value(row)) ?? grey, legend: charts.legend(each.name, entries) };
  }

  function explore(report, model, table, { listen, isMarked }) {
    const sections = { explore: dom.byId("explore"), curves: dom.byId("curves") };
    const pruned = new Set(report.pruned);
    const phaseOf = columns.unpack(report.phase_of);
    const withRows = report.phases.map((phase, at) => at).filter((at) => report.phases[at].complete || report.pruned.length);
    const task = model.named("task_id");
    const nameOf = (row) => task?.value(row) || `row ${row + 1}`;
    const axesOf = (at) => phases.varied(report.phases[at]).map(([axis]) => axis.columns.map(model.named).find((each) => each)).filter((each) => each);
    const firstAxis = () => {
      const axes = report.phases.length ? axesOf(withRows[0] ?? 0) : [];
      return axes.find((each) => each.isNumber) ?? axes[0] ?? model.named("seed") ?? model.all[0];
    };
    const usual = (metric) => ({ phase: String(withRows[0] ?? 0), x: firstAxis()?.name ?? "", y: metric ?? "", by: "",
      logx: "", logy: "", curve: report.curves?.metrics.find((name) => name === metric) ?? report.curves?.metrics.at(-1) ?? "", which: "best", curveby: "", curvemean: "" });
    let chosen = usual(report.metric), metric = report.metric, best = "highest";

    const names = (usable = () => true) => model.all.filter((each) => usable(each)).map((each) => [each.name, each.name]);
    function set(key) {
      return (value) => {
        chosen[key] = value;
        if (key === "x" || key === "y") chosen[`log${key}`] = "";
        listen();
        show();
      };
    }

    const orderOf = (each) => report.phases.flatMap(({ axes }) => axes).find((axis) => axis.columns.includes(each?.name))?.values;

    // -- scatter and parallel coordinates

    const ofPhase = () => withRows.length > 1 ? model.kept.filter((row) => phaseOf[row] === Number(chosen.phase)) : model.kept;

    function isLog(key, each, rows) {
      if (!each?.isNumber) return false;
      if (chosen[`log${key}`]) return chosen[`log${key}`] === "yes";
      const values = new Set();
      for (const row of rows) if (typeof each.value(row) === "number") values.add(each.value(row));
      return columns.isLog(each, [...values]);
    }

    function scatter(rows, x, y, colour) {
      const some = columns.sample(rows, MOST_DOTS);
      const logs = { x: isLog("x", x, some), y: isLog("y", y, some) };
      const draw = (plot) => {
        const there = [...some].filter((row) => !columns.isNothing(x.value(row)) && !columns.isNothing(y.value(row)))
          .sort((a, b) => pruned.has(b) - pruned.has(a));  // dimmed ones below
        const said = [...new Set([x, y, colour.column])].filter((each) => each);
        const trace = {
          x: there.map(x.value), y: there.map(y.value), type: "scatter", mode: "markers", hoverinfo: "text",
          text: there.map((row) => [nameOf(row), ...said.map((each) => `${each.name} = ${shown(each.value(row))}`), ...(pruned.has(row) ? ["stopped early"] : [])].map((words) => clipped(words, 60)).join("<br>")),
          marker: { color: there.map(colour.of), size: there.length > 500 ? 5 : 7, opacity: there.map((row) => pruned.has(row) ? 0.25 : 0.75), symbol: there.map((row) => pruned.has(row) ? "circle-open" : "circle") },
        };
        const axis = (each, log) => {
          const values = [...new Set(there.map(each.value))];
          if (each.isNumber) {
            const isFew = values.length <= 12 && each.group !== "metric";
            const ticks = isFew ? { tickmode: "array", tickvals: values, ticktext: values.map((value) => clipped(shown(value))) } : log ? { dtick: 1 } : {};
            return { title: each.name, type: log ? "log" : "linear", ...ticks };
          }
          const order = orderOf(each)?.filter((value) => values.includes(value)) ?? [];
          const array = order.length === values.length ? order : values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
          return { title: each.name, type: "category", categoryorder: "array", categoryarray: array, range: [-0.5, array.length - 0.5], ...(array.length <= 20 ? { tickvals: array, ticktext: array.map((value) => clipped(value)) } : { nticks: 10 }) };
        };
        charts.draw(plot, [trace], axis(x, logs.x), axis(y, logs.y));
      };
      const notes = [some.length < rows.length ? `${count(some.length)} of ${count(rows.length)} rows, evenly spread.` : ""];
      if (some.some((row) => pruned.has(row))) notes.push("Rings are rows that were stopped early.");
      const card = charts.card(`${y.name} against ${x.name}`, draw, { note: notes.join(" ").trim(), legend: colour.legend });
      card.classList.add("wide");
      const boxes = [["x", x], ["y", y]].filter(([, each]) => each.isNumber).map(([key, each]) => checkbox(`log ${cut(each.name, 20)}`, logs[key], (isOn) => set(`log${key}`)(isOn ? "yes" : "no")));
      card.querySelector(".chart-head").after(make("div", { class: "bar" }, ...boxes));
      return card;
    }

    function coordinates(rows, colourBy) {
      const axes = axesOf(Number(chosen.phase));
      const last = model.named(phases.metricOf(report.phases[Number(chosen.phase)], metric));
      if (!axes.length || !last) return null;
      const some = columns.sample(rows, MOST_LINES);
      const by = colourBy ?? last;
      const colour = colouring(by, [...some].filter((row) => !pruned.has(row)), orderOf(by));
      const drawn = [...axes.filter((each) => each !== last), last];
      const notes = [`A line per row. ${matchMedia("(pointer: coarse)").matches ? "" : "Draw a range on an axis of numbers to filter."}`];
      if (some.length < rows.length) notes.push(`${count(some.length)} of ${count(rows.length)} rows, evenly spread.`);
      if (some.some((row) => pruned.has(row))) notes.push("Thin grey lines were stopped early.");
      const look = { colour: colour.of, isDimmed: (row) => pruned.has(row), say: (row) => [nameOf(row), ...drawn.map((each) => `${each.name} = ${shown(each.value(row))}`)].join("  ·  ") };
      const choose = (each, low, high) => table.setFilters([[each, `${low}..${high}`]]);
      const card = charts.card(`All of ${report.phases[Number(chosen.phase)].name}, by ${by.name}`, parallel.drawing(drawn, some, look, choose), { note: notes.join(" "), legend: colour.legend });
      card.classList.add("wide");
      return card;
    }

    function showExplore() {
      const place = sections.explore;
      place.hidden = model.amount === 0 || metric === null;
      if (place.hidden) return;
      const rows = ofPhase();
      const shownOf = chosen.y === metric || !model.named(chosen.y) ? phases.metricOf(report.phases[Number(chosen.phase)], metric) : chosen.y;
      const [x, y, by] = [model.named(chosen.x), model.named(shownOf), model.named(chosen.by)];
      const controls = make("div", { class: "controls" },
        ...(withRows.length > 1 ? [choice("Phase", withRows.map((at) => [String(at), report.phases[at].name]), chosen.phase, set("phase"))] : []),
        choice("Right", names(), x?.name ?? "", set("x")), choice("Up", names(), y?.name ?? "", set("y")), choice("Colour", [["", "none"], ...names()], chosen.by, set("by")));
      const said = make("p", { class: "quiet" }, model.kept.length < model.amount ? `The ${counted(rows.length, "row")} that the filter of the table keeps.` : `${counted(rows.length, "row")}. The filter of the table below holds here, too.`);
      const drawn = [];
      if (rows.length && x && y) drawn.push(scatter(rows, x, y, { ...colouring(by, rows, orderOf(by)), column: by }), ...[coordinates(rows, by)].filter((each) => each));
      swap(place, make("h2", {}, "Explore"), said, controls, drawn.length ? make("div", { class: "charts" }, ...drawn) : make("p", { class: "quiet" }, "No row to draw."));
    }

    // new content for a section; what had the focus has it again
    function swap(place, ...children) {
      const focused = place.contains(document.activeElement) ? [...place.querySelectorAll("select, input, button")].indexOf(document.activeElement) : -1;
      charts.forget(place);
      place.replaceChildren(...children);
      if (focused >= 0) place.querySelectorAll("select, input, button")[focused]?.focus();
    }

    // -- learning curves

    const curves = new Map((report.curves?.tasks ?? []).map((each) => [each.row, each.metrics]));

    function rowsOfCurves() {
      if (chosen.which === "marked") return [...curves.keys()].filter(isMarked);
      const kept = new Set(model.kept);
      const there = [...curves.keys()].filter((row) => kept.has(row));
      const goal = model.named(metric);
      if (chosen.which === "all" || !goal) return there;
      const sign = best === "lowest" ? 1 : -1;
      return there.filter((row) => !pruned.has(row) && typeof goal.value(row) === "number").sort((a, b) => sign * (goal.value(a) - goal.value(b))).slice(0, 10);
    }

    function curveChart(rows) {
      const by = model.named(chosen.curveby);
      const colour = by ? colouring(by, rows, orderOf(by)) : null;
      const qualities = charts.coloursFor(rows.length, false);
      const isFew = rows.length <= MOST_CATEGORIES;
      const shade = (row, at) => colour ? colour.of(row) : isFew ? qualities[at] : charts.colour("--accent");
      const legend = colour ? colour.legend : isFew ? charts.legend("task", rows.map((row, at) => [nameOf(row), shade(row, at)])) : null;
      const axes = [{ title: "step" }, { title: chosen.curve, type: chosen.logc === "yes" ? "log" : "linear" }];
      if (by && chosen.curvemean === "yes") return wide(charts.card(`Mean ${chosen.curve} over steps by ${by.name}`, (plot) => charts.draw(plot, meanTraces(by, rows, colour.of), ...axes),
        { legend, note: "The band: one standard deviation of the curves that reach a step; between their points they count as straight lines." }));
      const draw = (plot) => {
        const traces = rows.map((row, at) => {
          const [steps, values] = curves.get(row)[chosen.curve];
          return { x: steps, y: values, type: "scatter", mode: steps.length > 1 ? "lines" : "markers", line: { color: shade(row, at), width: rows.length > 30 ? 1 : 1.5 }, marker: { color: shade(row, at) },
            opacity: pruned.has(row) ? 0.35 : rows.length > 30 ? 0.6 : 0.9, hoverinfo: "text",
            text: steps.map((step, point) => `${clipped(nameOf(row), 60)}<br>step ${shown(step)}<br>${plain(chosen.curve)} ${shown(values[point])}${pruned.has(row) ? "<br>stopped early" : ""}`) };
        });
        charts.draw(plot, traces, ...axes);
      };
      return wide(charts.card(`${chosen.curve} over steps`, draw, { legend }));
    }

    function wide(card) {
      card.classList.add("wide");
      return card;
    }

    // a line and its band for each value of a column
    function meanTraces(by, rows, shadeOf) {
      return groups.split([by], rows).flatMap(({ cells: [cell], rows: same }) => {
        const points = groups.meanCurve(same.map((row) => curves.get(row)[chosen.curve]), report.curves.points);
        const shade = shadeOf(same[0]), x = points.map(([step]) => step);
        const side = (sign) => points.map(([, { mean, sd }]) => mean + sign * (sd ?? 0));
        const said = points.map(([step, { mean, sd, amount }]) => `${plain(by.name)} = ${clipped(shown(cell), 60)}<br>step ${shown(step)}<br>${plain(chosen.curve)} ${text.withInterval(mean, sd)}<br>${text.counted(amount, "curve")}`);
        return [
          { x: [...x, ...[...x].reverse()], y: [...side(1), ...side(-1).reverse()], type: "scatter", mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: shade, opacity: 0.15, hoverinfo: "skip" },
          { x, y: points.map(([, { mean }]) => mean), type: "scatter", mode: x.length > 1 ? "lines" : "markers", line: { color: shade, width: 2 }, marker: { color: shade }, hoverinfo: "text", text: said },
        ];
      });
    }

    function showCurves() {
      const place = sections.curves;
      place.hidden = curves.size === 0;
      if (place.hidden) return;
      const { folders, points, cut: isCut } = report.curves;
      const rows = rowsOfCurves().filter((row) => chosen.curve in curves.get(row));
      const some = curves.size < folders ? `Holds the curves of ${count(curves.size)} of the ${counted(folders, "row")} with a run folder (the best of each phase, and others evenly spread${isCut ? "; the page has no room for more" : ""})`
        : `Holds the curves of ${counted(curves.size, "row")}`;
      const controls = make("div", { class: "controls" }, choice("Curve of", report.curves.metrics.map((name) => [name, name]), chosen.curve, set("curve")),
        choice("Tasks", [["best", `10 best by ${metric}`], ["all", "all that the filter keeps"], ["marked", "those ticked in the table"]], chosen.which, set("which")),
        choice("Colour", [["", "task"], ...names()], chosen.curveby, set("curveby")),
        ...(chosen.curveby ? [checkbox("mean of each colour", chosen.curvemean === "yes", (isOn) => set("curvemean")(isOn ? "yes" : ""))] : []), checkbox("log", chosen.logc === "yes", (isOn) => set("logc")(isOn ? "yes" : "")));
      swap(place, make("h2", {}, "Learning curves"), make("p", { class: "quiet" }, `${some}, at most ${points} points each; metrics.csv in the run folder has all.`), controls,
        rows.length ? make("div", { class: "charts" }, curveChart(rows)) : make("p", { class: "quiet" }, chosen.which === "marked" ? "Tick tasks in the first column of the table." : "No such curve."));
    }

    function show() { showExplore(); showCurves(); }

    return {
      show,
      // a task was ticked, or no longer is
      pick() {
        chosen.which = [...curves.keys()].some(isMarked) ? "marked" : "best";
        listen();
        showCurves();
      },
      hasCurve: (row) => curves.has(row), nameOf,
      // the metric that all charts show, and whether its highest or lowest is best
      look(metricNow, bestNow) {
        if (chosen.y === (metric ?? "")) chosen.y = metricNow ?? "";
        if (curves.size && chosen.curve !== metricNow && report.curves.metrics.includes(metricNow)) chosen.curve = metricNow;
        [metric, best] = [metricNow, bestNow];
        show();
      },
      said() {
        const plainly = usual(metric);
        return Object.keys(plainly).concat("logc").filter((key) => (chosen[key] ?? "") !== (plainly[key] ?? "")).map((key) => [key, chosen[key]]);
      },
      take(parameters, metricNow, bestNow) {
        [metric, best] = [metricNow, bestNow];
        chosen = usual(metric);
        for (const key of [...Object.keys(chosen), "logc"]) if (parameters.has(key)) chosen[key] = parameters.get(key);
        if (!(Number(chosen.phase) in report.phases)) chosen.phase = usual(metric).phase;
        if (report.curves && !report.curves.metrics.includes(chosen.curve)) chosen.curve = usual(metric).curve;
      },
    };
  }

  return explore;
})();
