"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const PAGE = 50;

  // -- small things: every text of a row enters the page by textContent alone

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
    return element;
  }

  const shown = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return value;
    if (Number.isInteger(value)) return String(value);
    const size = Math.abs(value);
    return size >= 1e-3 && size < 1e6 ? String(+value.toPrecision(5)) : value.toExponential(3);
  };
  // a mean and half its interval, both to the digits that the interval supports: two of its own
  function interval(mean, half) {
    if (half === null || half === 0) return [half === 0 ? shown(mean) : String(+mean.toPrecision(4)), half];
    const decimals = Math.max(0, 1 - Math.floor(Math.log10(half)));
    if (decimals > 7 || Math.abs(mean) >= 1e6) return [shown(mean), Number(half).toPrecision(2)];
    return [mean.toFixed(decimals), half.toFixed(decimals)];
  }
  const withInterval = (mean, half) => { const [m, h] = interval(mean, half); return half === null ? m : `${m} ± ${h}`; };
  const count = (number) => number.toLocaleString("en-US");
  const time = (seconds) => {
    if (seconds < 100) return `${+seconds.toPrecision(2)} s`;
    if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
    return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
  };
  // plotly reads some HTML in its texts
  const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const clipped = (text) => plain(text.length > 16 ? `${text.slice(0, 15)}…` : text);
  const table = (heads, rows) => make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map(([head, isNumber]) => make("th", isNumber ? { class: "number" } : {}, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, at) =>
      cell instanceof Node && cell.tagName === "TD" ? cell : make("td", heads[at][1] ? { class: "number" } : {}, cell))))));

  // -- what is chosen

  let metric = report.metric;
  let best = report.lower.includes(metric) ? "lowest" : "highest";
  const choice = byId("metric");
  for (const name of report.metrics) choice.append(make("option", { value: name }, name));
  if (metric !== null) choice.value = metric;
  else document.querySelector(".controls").hidden = true;
  byId("best").value = best;
  choice.addEventListener("change", () => {
    metric = choice.value;
    best = byId("best").value = report.lower.includes(metric) ? "lowest" : "highest";
    showPhases();
  });
  byId("best").addEventListener("change", () => { best = byId("best").value; showPhases(); });

  // -- charts, drawn when plotly is there (tables do not wait for its 5 MB) and they come into sight

  const pending = new Map();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || !pending.has(entry.target)) continue;
      pending.get(entry.target)();
      pending.delete(entry.target);
      watcher.unobserve(entry.target);
    }
  }, { rootMargin: "300px" });

  window.addEventListener("plotly", () => { for (const plot of pending.keys()) watcher.observe(plot); });

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function layout(x, y) {
    const axis = { exponentformat: "e", gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true, fixedrange: true, ticklabeloverflow: "allow" };
    return {
      margin: { l: 52, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--quiet") },
      showlegend: false, hovermode: "closest", hoverlabel: { align: "left" },
      xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y },
    };
  }
  const CONFIG = { displayModeBar: false };
  const resizer = new ResizeObserver((entries) => {  // of a chart: a window's own event comes too early, or never
    for (const { target } of entries) if (target.matches(".js-plotly-plot")) Plotly.Plots.resize(target);
  });

  // by which runs the values of a chart are compared, where it is not by all of them
  function noteOf({ axes, runs, of, absent }) {
    const what = axes.length === 1 ? "value" : "pair";
    const notes = [];
    if (of === 0) return "Each dot is one combination: these values share no runs to compare them by.";
    if (runs < of) notes.push(`Compares the ${count(runs)} of ${count(of)} runs that every ${what} has (${count(of - runs)} missing).`);
    if (absent) notes.push(`${count(absent)} ${what}${absent === 1 ? " has" : "s have"} no number and ${absent === 1 ? "is" : "are"} left out.`);
    return notes.join(" ");
  }

  function chart(title, found, draw) {
    const note = noteOf(found);
    const noteLine = note ? make("p", { class: "quiet note" }, note) : null;
    if (found.runs === 0 && found.of) return make("div", { class: "chart" }, make("h3", {}, title), make("p", { class: "quiet" },
      `Nothing to compare yet: no run (one choice of the other values, and seed) has finished for every ${found.axes.length === 1 ? "value" : "pair"}.`));
    const plot = make("div", { class: "plot" });
    resizer.observe(plot);
    pending.set(plot, () => draw(plot));
    if (window.Plotly) watcher.observe(plot);
    return make("div", { class: "chart" }, make("h3", {}, title), ...(noteLine ? [noteLine] : []), plot);
  }

  // whether the values are more evenly apart in their logarithms, as in 1, 2, 4, 8
  function isGeometric(numbers) {
    const sorted = [...new Set(numbers)].sort((a, b) => a - b);
    if (sorted.length < 3 || sorted[0] <= 0) return false;
    const spread = (list) => {
      const steps = list.slice(1).map((each, at) => each - list[at]);
      return Math.max(...steps) / Math.min(...steps);
    };
    return spread(sorted.map(Math.log)) < spread(sorted);
  }

  function lineChart(axis, points) {
    const values = points.map(([at]) => axis.values[at]);
    const means = points.map(([, [mean]]) => mean);
    const halves = points.map(([, [, half]]) => half ?? 0);
    const words = points.map(([at, [mean, half, seeds]]) => `${plain(axis.name)} = ${clipped(axis.values[at])}<br>` +
      `${plain(metric)} ${withInterval(mean, half)}<br>${seeds} seed${seeds === 1 ? "" : "s"}`);
    return (plot) => {
      const numbers = values.map(Number);
      const isLog = axis.numeric && isGeometric(numbers);
      const few = points.length <= 12;
      const ticks = few ? { tickmode: "array", tickvals: axis.numeric ? numbers : values.map((_, at) => at), ticktext: values.map(clipped) } : {};
      const x = axis.numeric ? numbers : values.map((_, at) => at);
      const order = axis.numeric ? x.map((_, at) => at).sort((a, b) => x[a] - x[b]) : x.map((_, at) => at);
      const sorted = (list) => order.map((at) => list[at]);
      const trace = {
        x: sorted(x), y: sorted(means), text: sorted(words), hoverinfo: "text", type: "scatter",
        mode: axis.numeric ? (points.length <= 40 ? "lines+markers" : "lines") : "markers",
        line: { color: colour("--accent"), width: 2 }, marker: { color: colour("--accent"), size: 8 },
        error_y: { type: "data", array: sorted(halves), color: colour("--accent"), thickness: 1.5, width: points.length <= 40 ? 5 : 0 },
      };
      const isWide = !axis.numeric ? { range: [-0.5, values.length - 0.5] } : {};
      Plotly.newPlot(plot, [trace], layout(
        { title: { text: plain(axis.name), standoff: 8 }, type: isLog ? "log" : "linear", ...ticks, ...isWide },
        { title: { text: plain(metric), standoff: 8 } }), CONFIG);
    };
  }

  function dotChart(axis, dots) {
    return (plot) => {
      const ticks = axis.numeric || axis.values.length > 12 ? {} : { tickmode: "array", tickvals: axis.values.map((_, at) => at), ticktext: axis.values.map(clipped) };
      const x = dots.map(([at]) => axis.numeric ? Number(axis.values[at]) : at);
      const isLog = axis.numeric && Math.min(...x) > 0 && Math.max(...x) / Math.min(...x) >= 100;
      const trace = {
        x, y: dots.map(([, mean]) => mean), type: "scatter", mode: "markers", hoverinfo: "text",
        text: dots.map(([at, mean]) => `${plain(axis.name)} = ${clipped(axis.values[at])}<br>${plain(metric)} ${shown(mean)}`),
        marker: { color: colour("--accent"), size: 7, opacity: 0.7 },
      };
      Plotly.newPlot(plot, [trace], layout(
        { title: { text: plain(axis.name), standoff: 8 }, type: isLog ? "log" : "linear", ...ticks },
        { title: { text: plain(metric), standoff: 8 } }), CONFIG);
    };
  }

  function inOrder(axis) {  // the places of its values: numbers ascending, others as the config has them
    const places = axis.values.map((_, at) => at);
    return axis.numeric ? places.sort((a, b) => axis.values[a] - axis.values[b]) : places;
  }

  function heatMap(rightAxis, upAxis, means) {
    const [columns, lines] = [inOrder(rightAxis), inOrder(upAxis)];
    const z = lines.map((y) => columns.map((x) => means[y][x]));
    const right = { ...rightAxis, values: columns.map((at) => rightAxis.values[at]) };
    const up = { ...upAxis, values: lines.map((at) => upAxis.values[at]) };
    return (plot) => {
      const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
      const cells = right.values.length * up.values.length;
      const gap = cells <= 400 ? 2 : 0;  // between so many cells, gaps would be most of the picture
      const trace = {
        type: "heatmap", z, x: right.values.map((_, at) => at), y: up.values.map((_, at) => at), xgap: gap, ygap: gap,
        colorscale: isDark ? [[0, "#1d2b45"], [0.5, "#3f72c4"], [1, "#d4e5ff"]] : [[0, "#e6effc"], [0.5, "#6f9fe6"], [1, "#123f8c"]],
        colorbar: { thickness: 10, outlinewidth: 0, len: 1 }, hoverongaps: false, hoverinfo: "text",
        hovertext: z.map((row, y) => row.map((mean, x) => mean === null ? "" :
          `${plain(right.name)} = ${clipped(right.values[x])}<br>${plain(up.name)} = ${clipped(up.values[y])}<br>${plain(metric)} ${shown(mean)}`)),
      };
      if (cells <= 40) {
        trace.texttemplate = "%{text}";
        const decimals = 2 - Math.floor(Math.log10(Math.max(...z.flat().map(Math.abs))));  // 3 digits of the largest
        const text = (mean) => decimals >= 0 && decimals <= 6 ? mean.toFixed(decimals) : String(+mean.toPrecision(3));
        trace.text = z.map((row) => row.map((mean) => mean === null ? "" : text(mean)));
      }
      const ticks = (axis) => {  // of many values, every so many-th
        const every = Math.ceil(axis.values.length / (axis.values.length <= 20 ? 20 : 6));
        const places = axis.values.map((_, at) => at).filter((at) => at % every === 0);
        return { tickmode: "array", tickvals: places, ticktext: places.map((at) => clipped(axis.values[at])) };
      };
      Plotly.newPlot(plot, [trace], layout(
        { title: { text: plain(right.name), standoff: 8 }, ...ticks(right), showgrid: false },
        { title: { text: plain(up.name), standoff: 8 }, ...ticks(up), showgrid: false }), CONFIG);
    };
  }

  // -- phases

  function bestTable(phase, shownOf) {
    const varied = phase.axes.map((axis, at) => [axis, at]).filter(([axis]) => axis.values.length > 1);
    const heads = [["", true], [metric, true], ...varied.map(([axis]) => [axis.name, axis.numeric]), ["seeds", true]];
    const rows = shownOf[best].map(([place, [mean, half, seeds]], rank) => [
      rank + 1,
      make("td", { class: "number" }, interval(mean, half)[0], half === null ? null : make("span", { class: "half" }, ` ± ${interval(mean, half)[1]}`)),
      ...varied.map(([axis, at]) => axis.values[place[at]]), seeds < phase.seeds ? `${seeds} of ${phase.seeds}` : seeds]);
    return make("div", { class: "scroll" }, table(heads, rows));
  }

  // tasks that were stopped early are in no mean: they stand here
  function earlyStopping({ metric: name, rungs, best: points }) {
    const heads = [["rung", true], ["tasks", true], ["stopped", true], [`best ${name}`, true]];
    const parts = [make("h3", {}, "Early stopping"), make("div", { class: "scroll" }, table(heads, rungs.map((rung) => rung.map(shown))))];
    if (points.length < 2) return parts;
    const plot = make("div", { class: "plot" });
    pending.set(plot, () => Plotly.newPlot(plot,
      [{ x: points.map(([x]) => x), y: points.map(([, y]) => y), type: "scatter", mode: "lines", line: { shape: "hv", color: colour("--accent"), width: 2 } }],
      layout({ title: { text: "steps of all tasks", standoff: 8 } }, { title: { text: plain(name), standoff: 8 } }), CONFIG));
    if (window.Plotly) watcher.observe(plot);
    return [...parts, make("div", { class: "charts" }, make("div", { class: "chart" }, make("h3", {}, `Best ${name} so far`), plot))];
  }

  function phaseCard(phase) {
    const card = make("section", { class: "card", id: `phase-${phase.name}` }, make("h2", {}, phase.name),
      make("p", { class: "quiet" }, `${count(phase.complete)} of ${count(phase.tasks)} tasks complete · ${time(phase.seconds)} · `,
        make("code", {}, phase.experiment), ` · ${phase.where}`));
    const shownOf = phase.shown[metric];
    if (!shownOf) {
      card.append(make("p", { class: "quiet" }, phase.complete ? `No row of this phase has a number in ${metric}.` : "No row yet."));
      return card;
    }
    card.append(make("p", { class: "quiet" }, "Means; bars and ± are 95 % intervals over seeds."));
    const charts = make("div", { class: "charts" });
    for (const found of shownOf.axes) {
      const axis = phase.axes[found.axes[0]];
      charts.append(chart(`${metric} by ${axis.name}`, found, found.dots ? dotChart(axis, found.dots) : lineChart(axis, found.points)));
    }
    for (const found of shownOf.maps) {
      const [right, up] = found.axes.map((at) => phase.axes[at]);
      charts.append(chart(`${metric} by ${right.name} and ${up.name}`, found, heatMap(right, up, found.means)));
    }
    if (phase.halving) card.append(...earlyStopping(phase.halving));
    card.append(charts, make("h3", {}, `Best combinations: ${best} mean ${metric}`), bestTable(phase, shownOf));
    return card;
  }

  function showPhases() {
    for (const plot of document.querySelectorAll("#phases .js-plotly-plot")) Plotly.purge(plot);
    pending.clear();
    watcher.disconnect();
    resizer.disconnect();
    byId("phases").replaceChildren(...report.phases.map(phaseCard));
  }

  // -- totals, failures, time, rows that do not count

  function showTotals() {
    const { tasks, complete, pruned, seconds } = report.totals;
    const failed = report.failures.filter((each) => each.state === "failed").reduce((sum, each) => sum + each.count, 0);
    const tiles = [[count(tasks), "tasks"], [tasks ? `${complete === tasks ? 100 : (Math.floor(1000 * complete / tasks) / 10).toFixed(1)} %` : "–", `complete (${count(complete)})`],
      [count(failed), "failed", failed > 0], ...(pruned ? [[count(pruned), "stopped early"]] : []), [count(tasks - complete - pruned), "without a row"], [time(seconds), "of computing"]];
    byId("tiles").append(...tiles.map(([value, label, isBad]) => make("div", { class: isBad ? "tile bad" : "tile" }, make("b", {}, value), make("span", {}, label))));
  }

  function fill(id, ...tables) {
    const section = byId(id);
    section.hidden = false;
    section.querySelectorAll(".scroll").forEach((place, at) => { if (tables[at]) place.append(tables[at]); });
  }

  function showRest() {
    if (report.failures.length) {
      const section = byId("failures");
      section.hidden = false;
      section.append(...report.failures.map((group) => {
        const named = group.tasks.join(", ") + (group.count > group.tasks.length ? `, and ${count(group.count - group.tasks.length)} more` : "");
        return make("div", { class: "failure" },
          make("p", { class: "error" }, make("b", {}, `${count(group.count)} ${group.state}`), ` · ${group.cause}`, group.message ? `: ${group.message}` : ""),
          make("p", { class: "quiet" }, named),
          make("p", { class: "quiet" }, `log of ${group.tasks[0]}: ${group.folder}/log.txt`),
          group.error.includes("\n") ? make("details", {}, make("summary", {}, `What ${group.tasks[0]} said`), make("pre", {}, group.error)) : null);
      }));
    }
    if (report.workers.length) {
      fill("time",
        table([["phase"], ["rows", true], ["time", true], ["each", true]], report.phases.map((phase) =>
          [phase.name, count(phase.complete), time(phase.seconds), phase.complete ? time(phase.seconds / phase.complete) : ""])),
        table([["worker"], ["host"], ["device"], ["rows", true], ["time", true]], report.workers.map(([worker, host, device, rows, seconds]) =>
          [worker, host, device, count(rows), time(seconds)])));
    }
    if (report.problems.length) {
      fill("problems", table([["file"], ["line", true], ["reason"], ["rows", true]], report.problems.map(([file, line, reason, rows]) =>
        [file, line, reason, count(rows)])));
    }
  }

  // -- the table of all rows: a page of it at a time

  const columns = report.columns.map((column) => ({ ...column, at: column.numbers ? null : column.at ?? Array.from({ length: report.rows }, (_, row) => row), filter: "" }));
  const value = (column, row) => column.numbers ? column.numbers[row] : column.texts[column.at[row]];
  let order = Uint32Array.from({ length: report.rows }, (_, row) => row);
  let kept = order;
  let sorted = null;
  let page = 0;

  function matcher(column) {
    const text = column.filter.trim();
    const [, sign, rest] = /^(<=|>=|<|>|=|!=)?\s*(.*)$/s.exec(text);
    const bound = Number(rest);
    const isOrder = sign && sign !== "=" && sign !== "!=";
    if (isOrder && rest === "") return null;  // still being typed
    if (isOrder && !Number.isNaN(bound)) {
      const holds = { "<": (a) => a < bound, ">": (a) => a > bound, "<=": (a) => a <= bound, ">=": (a) => a >= bound }[sign];
      return (cell) => cell !== null && cell !== "" && holds(Number(cell));
    }
    if (sign && !isOrder) {
      const isEqual = (cell) => cell !== null && (String(cell) === rest || (rest !== "" && typeof cell === "number" && cell === bound));
      return sign === "=" ? isEqual : (cell) => !isEqual(cell);
    }
    const part = text.toLowerCase();
    return part === "" ? null : (cell) => cell !== null && String(cell).toLowerCase().includes(part);
  }

  function filterRows() {
    kept = order;
    for (const column of columns) {
      const test = matcher(column);
      if (!test) continue;
      if (column.numbers) kept = kept.filter((row) => test(column.numbers[row]));
      else {
        const passes = column.texts.map(test);  // each different text once
        kept = kept.filter((row) => passes[column.at[row]]);
      }
    }
    page = 0;
    showRows();
  }

  function sortRows(column) {
    const isSame = sorted && sorted.column === column;
    sorted = { column, sign: isSame ? -sorted.sign : 1 };
    const ranks = new Float64Array(report.rows);
    const texts = column.numbers ? null : column.texts.map((text, at) => [text, at]).sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }));
    if (texts) {
      const places = new Float64Array(texts.length);
      texts.forEach(([text, at], rank) => { places[at] = text === "" ? NaN : rank; });
      for (let row = 0; row < report.rows; row++) ranks[row] = places[column.at[row]];
    } else for (let row = 0; row < report.rows; row++) ranks[row] = typeof column.numbers[row] === "number" ? column.numbers[row] : NaN;
    order = Uint32Array.from({ length: report.rows }, (_, row) => row).sort((a, b) => {
      const x = ranks[a], y = ranks[b];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;  // empty ones last
      return sorted.sign * (x - y) || a - b;
    });
    filterRows();
    showHead();
  }

  const visible = () => columns.filter((column) => !column.constant || byId("constant").checked || column.filter);

  function showHead() {
    const names = make("tr"), filters = make("tr");
    for (const column of visible()) {
      const isSorted = sorted && sorted.column === column;
      const button = make("button", { type: "button" }, column.name, isSorted ? (sorted.sign > 0 ? " ▲" : " ▼") : "");
      button.addEventListener("click", () => sortRows(column));
      names.append(make("th", { class: column.numbers ? "number" : "", "aria-sort": isSorted ? (sorted.sign > 0 ? "ascending" : "descending") : "none" }, button));
      const input = make("input", { type: "search", "aria-label": `Filter ${column.name}`, placeholder: "filter", "data-column": column.name });
      input.value = column.filter;
      input.addEventListener("input", () => { column.filter = input.value; filterRows(); });
      filters.append(make("th", { class: "filter" }, input));
    }
    document.querySelector("#table thead").replaceChildren(names, filters);
  }

  function showRows() {
    const pages = Math.max(1, Math.ceil(kept.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const chosen = visible();
    document.querySelector("#table tbody").replaceChildren(...Array.from(kept.subarray(page * PAGE, (page + 1) * PAGE), (row) =>
      make("tr", {}, ...chosen.map((column) => {
        const cell = value(column, row);
        return make("td", { class: column.numbers ? "number" : "", title: cell ?? "" }, shown(cell));
      }))));
    byId("count").textContent = kept.length === report.rows ? `${count(report.rows)} rows` : `${count(kept.length)} of ${count(report.rows)} rows`;
    byId("page").textContent = `${count(page + 1)} / ${count(pages)}`;
    byId("back").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
  }

  byId("back").addEventListener("click", () => { page -= 1; showRows(); });
  byId("next").addEventListener("click", () => { page += 1; showRows(); });
  byId("constant").addEventListener("change", () => { showHead(); showRows(); });

  // -- all of it

  showTotals();
  showPhases();
  showRest();
  showHead();
  showRows();
  for (const section of document.querySelectorAll("main section[id]:not(#tiles):not([hidden])"))
    byId("nav").append(make("a", { href: `#${encodeURIComponent(section.id)}` }, section.querySelector("h2").textContent));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPhases);
  document.documentElement.dataset.ready = "yes";
})();
