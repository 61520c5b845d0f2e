"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const { byId, make, table } = dom;
  const { shown, count, time } = text;
  const PAGE = 50;

  // -- what is chosen

  const chosen = { metric: report.metric, best: report.lower.includes(report.metric) ? "lowest" : "highest", colour: "" };
  const fillChoice = (id, names) => byId(id).append(...names.map((name) => make("option", { value: name }, name)));
  fillChoice("metric", report.metrics);
  fillChoice("colour", [...new Set(report.phases.flatMap((phase) => phases.varied(phase).map(([axis]) => axis.name)))]);
  if (chosen.metric === null) document.querySelector(".controls").hidden = true;
  for (const id of ["metric", "best", "colour"]) {
    byId(id).value = chosen[id] ?? "";
    byId(id).addEventListener("change", () => {
      chosen[id] = byId(id).value;
      if (id === "metric") chosen.best = byId("best").value = report.lower.includes(chosen.metric) ? "lowest" : "highest";
      showPhases();
    });
  }

  function showPhases() {
    charts.forget(byId("phases"));
    byId("phases").replaceChildren(...report.phases.map((phase) => phases.card(phase, chosen)));
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
