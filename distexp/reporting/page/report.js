"use strict";
// The report: what is chosen at its top, its sections, and its address.
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const { byId, make, table } = dom;
  const { count, time } = text;

  // -- what is chosen

  const bestOf = (metric) => report.lower.includes(metric) ? "lowest" : "highest";
  const chosen = { metric: report.metric, best: bestOf(report.metric), colour: "" };
  const fillChoice = (id, names) => byId(id).append(...names.map((name) => make("option", { value: name }, name)));
  fillChoice("metric", report.metrics);
  fillChoice("colour", [...new Set(report.phases.flatMap((phase) => phases.varied(phase).map(([axis]) => axis.name)))]);
  if (chosen.metric === null) document.querySelector(".controls").hidden = true;
  for (const id of ["metric", "best", "colour"]) {
    byId(id).addEventListener("change", () => {
      chosen[id] = byId(id).value;
      if (id === "metric") chosen.best = bestOf(chosen.metric);
      showChosen();
      showPhases();
      if (id !== "colour") parts.look(chosen.metric, chosen.best);
      write();
    });
  }
  function showChosen() { for (const id of ["metric", "best", "colour"]) byId(id).value = chosen[id] ?? ""; }

  function showPhases() {
    charts.forget(byId("phases"));
    byId("phases").replaceChildren(...report.phases.map((phase) => phases.card(phase, chosen, bestOf)));
  }

  // -- totals, failures, time, rows that do not count

  const TO_RETRY = "failed, to be tried again";

  function showTotals() {
    const { tasks, complete, pruned, seconds } = report.totals;
    const [failed, again] = ["failed", "pending"].map((state) => report.failures.filter((each) => each.state === state).reduce((sum, each) => sum + each.count, 0));
    const tiles = [[count(tasks), "tasks"], [tasks ? `${complete === tasks ? 100 : (Math.floor(1000 * complete / tasks) / 10).toFixed(1)} %` : "–", `complete (${count(complete)})`],
      [count(failed), again ? "failed for good" : "failed", failed > 0], ...(again ? [[count(again), TO_RETRY, true]] : []), ...(pruned ? [[count(pruned), "stopped early"]] : []), [count(tasks - complete - pruned), "without a row"], [time(seconds), "of computing"]];
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
          make("p", { class: "error" }, make("b", {}, `${count(group.count)} ${group.state === "pending" ? TO_RETRY : group.state}`), ` · ${group.cause}`, group.message ? `: ${group.message}` : ""),
          make("p", { class: "quiet" }, named),
          group.folder ? make("p", { class: "quiet" }, `log of ${group.tasks[0]}: ${group.folder}/log.txt`) : null,
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

  // -- rows, and what is drawn of them

  const model = columns.rows(report.columns, report.rows);
  const marked = new Set();
  let redraw = 0;
  const marks = {
    has: (row) => parts.hasCurve(row), isOn: (row) => marked.has(row), label: (row) => `Curve of ${parts.nameOf(row)}`,
    set(row, isOn) {
      if (isOn) marked.add(row);
      else marked.delete(row);
      parts.pick();
    },
  };
  const hasCurves = Boolean(report.curves?.tasks.length);
  const rowsOf = rowsTable(model, { marks: hasCurves ? marks : null, file: `${document.querySelector("h1").textContent}.csv`, listen: () => {
    write();
    clearTimeout(redraw);
    redraw = setTimeout(() => { parts.show(); grouped.show(); }, 150);  // not at every letter of a filter
  } });
  const stopped = new Set(report.pruned);
  const grouped = groups.groupsTable(model, rowsOf, { isLeftOut: (row) => stopped.has(row), listen: write, file: `${document.querySelector("h1").textContent}.csv` });
  const parts = explore(report, model, rowsOf, { listen: write, isMarked: (row) => marked.has(row) });

  // -- the address

  function write() {
    address.write([
      ["metric", chosen.metric !== report.metric && chosen.metric], ["best", chosen.best !== bestOf(chosen.metric) && chosen.best], ["colour", chosen.colour],
      ...rowsOf.said(), ...grouped.said(), ...parts.said(),
    ].map(([name, value]) => [name, value || ""]));
  }

  function take(parameters) {
    const metric = parameters.get("metric");
    chosen.metric = report.metrics.includes(metric) ? metric : report.metric;
    chosen.best = ["highest", "lowest"].includes(parameters.get("best")) ? parameters.get("best") : bestOf(chosen.metric);
    chosen.colour = [...byId("colour").options].some(({ value }) => value === parameters.get("colour")) ? parameters.get("colour") : "";
    showChosen();
    showPhases();
    rowsOf.take(parameters);
    grouped.take(parameters);
    parts.take(parameters, chosen.metric, chosen.best);
    parts.show();
  }

  // -- all of it

  showTotals();
  showRest();
  take(address.read());
  address.watch(take);
  for (const section of document.querySelectorAll("main section[id]:not(#tiles):not([hidden])")) {
    const link = make("a", { href: `#${encodeURIComponent(section.id)}` }, section.querySelector("h2").textContent);
    link.addEventListener("click", (event) => {  // the address keeps what is chosen
      event.preventDefault();
      section.scrollIntoView();
      section.setAttribute("tabindex", "-1");
      section.focus({ preventScroll: true });
    });
    byId("nav").append(link);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showPhases(); parts.show(); });
  document.documentElement.dataset.ready = "yes";
})();
