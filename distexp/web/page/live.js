// The page: an update a second, and what is drawn of it.

import { Table, act, button, byId, count, duration, get, gigabytes, keep, make, mark, notify, counted, post, roughly, shown, write } from "./parts.js";
import { curveChart, sparkline, updateSparkline } from "./charts.js";
import { chosenTasks, showTasks, watchTasks } from "./tasks.js";
import { openTask } from "./task.js";

if (location.search.includes("token=")) history.replaceState(null, "", location.pathname + location.hash);

const STATES = ["complete", "pruned", "assigned", "pending", "failed", "cancelled"];
const STATE_WORDS = { complete: "complete", pruned: "stopped early", assigned: "running", pending: "pending", failed: "failed", cancelled: "cancelled" };
const SILENT_S = 45;  // three heartbeats
const LONG_S = 30, LONG_TIMES = 3;  // a task that runs for longer than both should be looked at
const GONE_S = 60;  // a worker that has left is shown so long
const title = document.title;
let view = null;
let nowS = 0;
let gpus = new Map();

const link = () => { const element = make("button", { type: "button", class: "link" }); element.addEventListener("click", () => openTask(element.textContent)); return element; };

// -- progress

const phases = new Table(byId("phases"), [
  { title: "phase", make: () => make("span", {}, make("span"), " ", make("span", { class: "badge warn" })), update: (cell, each) => {
    const [name, held] = cell.firstChild.children;
    write(name, each.phase);
    write(held, each.held ? "held" : "");
    held.hidden = !each.held;
  } },
  { title: "done", class: "bar-cell", make: () => make("div", { class: "bar-of-states" }), update: (cell, each) => stateBar(cell.firstChild, each.tasks) },
  { title: "complete", class: "number", text: (each) => count((each.tasks.complete ?? 0) + (each.tasks.pruned ?? 0)) },
  { title: "running", class: "number", text: (each) => count(each.tasks.assigned ?? 0) },
  { title: "pending", class: "number", text: (each) => count(each.tasks.pending ?? 0) },
  { title: "failed", class: "number", text: (each) => count(each.tasks.failed ?? 0), },
], (each) => each.phase, (row, each) => mark(row, "class", each.held ? "bad" : null));

function stateBar(bar, tasks) {
  const total = STATES.reduce((sum, state) => sum + (tasks[state] ?? 0), 0) || 1;
  keep(bar, STATES.filter((state) => tasks[state]), (state) => state, (state) => make("span", { class: `state-${state}` }), (part, state) => {
    const width = `${(100 * tasks[state] / total).toFixed(2)}%`;
    if (part.style.width !== width) part.style.width = width;
  });
  mark(bar, "role", "img");
  mark(bar, "aria-label", STATES.filter((state) => tasks[state]).map((state) => `${count(tasks[state])} ${STATE_WORDS[state]}`).join(", ") || "no task");
}

// whether nothing runs, and all that is left waits for the user
function isStuck({ status, phases: all }) {
  const held = all.filter((each) => each.held).reduce((sum, each) => sum + (each.tasks.pending ?? 0), 0);
  return held > 0 && held === status.pending && !status.assigned;
}

function showProgress({ status, per_hour: perHour, eta_s: etaS, why_no_eta: whyNoEta }, problem) {
  const done = status.complete + status.pruned;
  write(byId("done"), status.total ? `${(Math.floor(1000 * done / status.total) / 10).toFixed(1)} %` : "no tasks");
  const rate = perHour === null ? "" : perHour >= 600 ? `${(perHour / 60).toFixed(0)} tasks/min` : `${shown(+perHour.toPrecision(3))} tasks/h`;
  const eta = problem ? "" : isStuck(view) ? "what is left is held" : status.done ? "nothing is left to run" : etaS === null ? (whyNoEta ? `ETA: ${whyNoEta}` : "") : `done in about ${duration(etaS)}${view.phases.some((each) => each.held) ? ", without what is held" : ""}`;
  write(byId("eta"), [`${count(done)} of ${count(status.total)} tasks`, rate, eta].filter(Boolean).join(" · "));
  document.title = `${status.total ? `${Math.floor(100 * done / status.total)} % · ` : ""}${title}`;
  stateBar(byId("bar"), status);
  keep(byId("counts"), STATES.filter((state) => status[state] || ["complete", "assigned", "pending", "failed"].includes(state)), (state) => state,
    (state) => {
      const press = button("", `Show tasks: ${STATE_WORDS[state]}`, () => showTasks({ state }));
      press.replaceChildren(make("i", { class: `state-${state}` }), make("b"), make("span", {}, ` ${STATE_WORDS[state]}`));
      return make("li", {}, press);
    },
    (item, state) => { write(item.querySelector("b"), count(status[state])); mark(item.firstChild, "aria-label", `${count(status[state])} ${STATE_WORDS[state]}: show these tasks`); });
  phases.show(view.phases);
}

function showState(problem) {
  const { status } = view ?? {};
  const state = byId("state");
  const word = !view ? "no manager" : problem ? "at rest" : status.paused ? "paused" : status.done ? "done" : isStuck(view) ? "held" : "live";
  write(state, word);
  mark(state, "class", `badge ${word === "live" ? "good" : word === "done" ? "" : "warn"}`);
  const pause = byId("pause");
  pause.hidden = !view || Boolean(problem) || (status.done && !status.paused);
  write(pause, status?.paused ? "Resume" : "Pause");
}
byId("pause").addEventListener("click", () => view.status.paused ?
  act({ type: "resume" }, "resumed") : act({ type: "pause" }, "Paused: what runs goes on, nothing new is assigned."));

// -- what needs the user

const lastFailure = ({ failures: all }) => all.filter((each) => each.state === "failed").slice(0, 1).map((each) => `The last, ${each.task_id}: ${each.why.length > 300 ? `${each.why.slice(0, 300)} …` : each.why}`).join("");

const phaseOf = (taskId) => taskId.replace(/_[^_]+_[^_]+$/, "");

function slowWorkers(workers) {
  const speeds = workers.filter((each) => each.task && each.progress && each.task_s > 30 && each.progress[0] > 0)
    .map((each) => [each, each.progress[0] / each.task_s, phaseOf(each.task)]);
  return speeds.flatMap(([worker, speed, phase]) => {
    const others = speeds.filter(([other, , itsPhase]) => other !== worker && itsPhase === phase).map(([, its]) => its).sort((a, b) => a - b);
    const median = others[Math.floor(others.length / 2)];
    return others.length >= 2 && speed < median / 2 ? [[worker, median / speed]] : [];
  });
}

// tasks that run for much longer than their like have taken; those of a worker that is slow are said already
const isLong = (each) => each.task && each.usual_s && each.task_s > Math.max(LONG_S, LONG_TIMES * each.usual_s);

function attentionItems({ problem, view: told }) {
  const items = [];
  const add = (key, what, why, fix, actions = []) => items.push({ key: `${problem ? "at rest" : "live"} ${key}`, what, why, fix, actions });  // each has its own buttons
  if (!told) return [{ key: "manager", what: "No manager answers.", why: problem, fix: "The page goes on by itself as soon as one does.", actions: [] }];
  const { status, workers } = told;
  if (problem) add("manager", "No manager runs in this folder: this is what its files say.", "", status.done ? "" : "Start one with `distexp run`; this page then goes on by itself.");
  if (status.paused) add("paused", "The sweep is paused.", "What runs goes on; nothing new is assigned.", "", [["Resume", () => act({ type: "resume" }, "resumed")]]);
  for (const each of told.phases.filter((phase) => phase.held)) {
    const fix = problem ? "Fix the cause, then `distexp run` tries it again." : "Fix the cause, then resume: workers import the code anew.";
    const resume = problem ? [] : [["Resume", () => act({ type: "resume" }, "resumed")]];
    add(`held ${each.phase}`, `Phase ${each.phase} ${problem ? "was" : "is"} held.`, each.held, fix, [...resume, ["Show its tasks", () => showTasks({ phase: each.phase })]]);
  }
  for (const [folder, why] of Object.entries(told.unwritable))
    add(`file ${folder}`, `${folder}/final_results.csv cannot be written.`, why, "Its tasks wait, and go on by themselves once it can be.");
  for (const each of workers.filter((worker) => worker.excluded))
    add(`excluded ${each.worker}`, `Worker ${each.worker} gets no more tasks.`, each.excluded, "Look at its log, fix what differs on its machine, then restart it.",
      each.connected && !each.drained ? [["Let it leave", () => act({ type: "drain", worker_id: each.worker }, "It leaves.")]] : []);
  if (!status.workers && !status.done && !problem) add("nobody", "No worker is connected.", "", "Start one with `distexp worker`.");
  for (const each of workers.filter((worker) => worker.task && worker.age_s > SILENT_S))
    add(`silent ${each.worker}`, `Worker ${each.worker} has been silent for ${duration(each.age_s)}.`, `It runs ${each.task}, which goes back to the queue if it stays so.`, "");
  const slow = slowWorkers(workers);
  for (const [each, times] of slow)
    add(`slow ${each.worker}`, `Worker ${each.worker} is slow.`, `Others of its phase make ${times.toFixed(1)} times as many steps in the same time.`, "Something else may compute on its device.");
  for (const each of workers.filter((worker) => isLong(worker) && !slow.some(([its]) => its === worker)))
    add(`long ${each.worker} ${each.task}`, `Task ${each.task} is taking long.`, `It has run on ${each.worker} for ${duration(each.task_s)}; tasks like it took about ${duration(each.usual_s)}.`,
      "It may hang, or its worker is slow: see whether its log goes on.", [["Show its log", () => openTask(each.task)]]);
  for (const each of workers.filter((worker) => worker.other_commit))
    add(`commit ${each.worker}`, `Worker ${each.worker} runs code of another commit.`, each.git_commit.slice(0, 10), "Update its clone, then restart it.");
  if (status.failed)
    add("failed", `${counted(status.failed, "task")} failed for good.`, lastFailure(told), problem ? "`distexp run --retry-failed` runs them again." : "", [["Show them", () => showTasks({ state: "failed" })],
      ...(problem ? [] : [["Run them again", () => act({ type: "requeue", failed: true }, "They run again.")]])]);
  return items;
}

function showAttention(update) {
  const items = attentionItems(update);
  byId("attention").hidden = !items.length;
  write(document.querySelector("nav a[href='#attention']"), `Attention (${items.length})`);
  keep(byId("attention").querySelector("ul"), items, (item) => item.key,
    (item) => make("li", {}, make("div", {}, make("b"), make("span"), make("p", { class: "quiet" })),
      make("div", { class: "actions" }, ...item.actions.map(([text, press]) => button(text, `${text}: ${item.what}`, press)))),
    (element, item) => {
      const [what, why, fix] = element.firstChild.children;
      write(what, item.what);
      write(why, item.why ? ` ${item.why}` : "");
      write(fix, item.fix);
    });
}

// -- workers

const memory = (each) => each.gpu ? each.gpu.used_mib + each.gpu.free_mib : 0;
const doing = (each) => each.excluded && !each.task ? "excluded" : each.task ? "" : each.drained ? "leaves" : each.connected ? "idle" : "gone";
const workers = new Table(byId("workers-table"), [
  { title: "worker", text: (each) => each.worker },
  { title: "task", class: "id", make: () => make("span", {}, link(), make("span")), update: (cell, each) => {
    const [press, other] = cell.firstChild.children;
    press.hidden = !each.task;
    write(press, each.task ?? "");
    write(other, doing(each));
  } },
  { title: "for", class: "number", text: (each) => roughly(each.task_s) },
  { title: "step", class: "number", text: (each) => each.progress ? each.progress[1] === null ? shown(each.progress[0]) : `${shown(each.progress[0])} / ${shown(each.progress[1])}` : "" },
  { title: "metrics", class: "metrics", text: (each) => Object.entries(each.metrics).map(([name, value]) => `${name}=${shown(value)}`).join(" ") },
  { title: "last minutes", class: "gpu", make: sparkline, update: (cell, each) => {
    mark(cell, "class", each.gpu ? "gpu" : "gpu none");
    updateSparkline(cell.firstChild, gpus.get(each.worker) ?? [], memory(each), nowS);
  } },
  { title: "memory GB", class: "number gpu", text: (each) => each.gpu ? `${gigabytes(each.gpu.used_mib)} / ${gigabytes(memory(each))}` : "" },
  { title: "busy", class: "number gpu", text: (each) => each.gpu && each.gpu.utilization_pct !== null ? `${each.gpu.utilization_pct} %` : "" },
  { title: "device", class: "wide", text: (each) => each.device },
  { title: "done", class: "number", text: (each) => count(each.completed) },
  { title: "failed", class: "number", text: (each) => each.failed ? count(each.failed) : "" },
  { title: "heard", class: "number wide", text: (each) => each.age_s < 20 ? "just now" : `${roughly(each.age_s)} ago` },
  { title: "", class: "actions", make: (each) => {
    const element = button("Drain", `Drain ${each.worker}`, () => act({ type: "drain", worker_id: each.worker }, `${each.worker} leaves after its task.`));
    mark(element, "title", "Let it leave after its current task");
    return element;
  }, update: (cell, each) => { cell.firstChild.hidden = !each.connected || each.drained; } },
], (each) => each.worker, (row, each) => mark(row, "class", each.excluded ? "bad" : !each.connected || each.age_s > SILENT_S || isLong(each) ? "warn" : null));

function showWorkers() {
  const present = view.workers.filter((each) => each.connected || each.task || each.age_s < GONE_S);
  for (const each of present) {
    if (!each.gpu) continue;
    const samples = gpus.get(each.worker) ?? [];
    if (!samples.length || nowS - samples.at(-1)[0] >= 5) samples.push([nowS, each.gpu.used_mib, each.gpu.utilization_pct]);
    if (samples.length > 130) samples.splice(0, samples.length - 130);
    gpus.set(each.worker, samples);
  }
  const sorted = [...present].sort((a, b) => a.worker.localeCompare(b.worker, "en", { numeric: true }));
  mark(byId("workers-table"), "data-gpus", present.some((each) => each.gpu) || null);
  write(byId("workers-note"), !view.status.workers ? "No worker is connected." : view.status.workers > present.length ? `${count(present.length)} of ${count(view.status.workers)}, those that run a task first.` :
    `${counted(view.status.workers, "worker")} connected, ${count(present.filter((each) => each.task).length)} busy.`);
  workers.show(sorted);
  byId("workers-table").hidden = !present.length;
}

// -- failures, searches

const failures = new Table(byId("failures-table"), [
  { title: "times", class: "number", text: (each) => count(each.count) },
  { title: "cause", class: "long", text: (each) => each.why },
  { title: "last", text: (each) => each.at_utc && `${each.at_utc.slice(11, 16)} UTC` },
  { title: "task", class: "id", make: link, update: (cell, each) => write(cell.firstChild, each.task_id) },
  { title: "worker", text: (each) => each.worker },
  { title: "now", text: (each) => STATE_WORDS[each.state] ?? each.state },
], (each) => each.why.replace(/\d+/g, "#"));

function showFailures(problem) {
  byId("failures").hidden = !view.failures.length;
  write(byId("failures-note"), problem ? "How tasks without a row failed last, by the manager's journal." : "Attempts that failed, and workers that were lost, since the manager began; the latest of each cause.");
  failures.show(view.failures);
}

async function showSearches() {
  const found = await get("/searches");
  byId("searches").hidden = !found.length;
  keep(byId("searches").querySelector(".list"), found, (each) => `${each.phase} ${each.metric}`, (each) => {
    const element = make("div", {}, make("h3", {}, each.phase), make("div", { class: "scroll", role: "region", "aria-label": `Rungs of ${each.phase}`, tabindex: 0 }, make("table")));
    element.table = new Table(element.querySelector("table"), [
      { title: "rung", class: "number", text: (rung) => shown(rung.rung) },
      { title: "tasks there", class: "number", text: (rung) => count(rung.tasks) },
      { title: "stopped there", class: "number", text: (rung) => count(rung.stopped) },
      { title: `best ${each.metric}`, class: "number", text: (rung) => shown(rung.best) },
      { title: "of task", class: "id", make: link, update: (cell, rung) => write(cell.firstChild, rung.best_task) },
    ], (rung) => String(rung.rung));
    return element;
  }, (element, each) => element.table.show(each.rungs));
}

// -- curves of running and chosen tasks

const metricChoice = byId("curve-metric");
metricChoice.addEventListener("change", () => { metricChoice.chosen = metricChoice.value; showCurves(); });

async function showCurves() {
  const running = (view?.workers ?? []).filter((each) => each.task).map((each) => each.task);
  const names = [...new Set([...chosenTasks(), ...running])].slice(0, 24);
  const [found, own] = names.length ? await Promise.all([get("/curves", { task: names }), get("/metrics")]) : [{}, {}];
  const metrics = [...new Set(Object.values(found).flatMap((curves) => Object.keys(curves)))];
  keep(metricChoice, metrics, (name) => name, (name) => make("option", { value: name }, name), () => {});
  const first = [metricChoice.chosen, ...names.map((name) => own[phaseOf(name)])].find((name) => metrics.includes(name));
  if (first) metricChoice.value = first;
  metricChoice.parentElement.hidden = !metrics.length;
  const metric = metricChoice.value;
  const lines = names.map((name, at) => ({ name, hue: at % 8, points: found[name]?.[metric] ?? [] })).filter((line) => line.points.length);
  const place = byId("curve-chart");
  const nothing = names.length ? "These tasks have reported no number yet." : "No task runs. Tick tasks in the table below to draw their curves.";
  place.replaceChildren(lines.length ? curveChart(lines, `${metric} of ${counted(lines.length, "task")} by step`, place.clientWidth) : make("p", { class: "quiet" }, nothing));
  keep(byId("curve-legend"), lines, (line) => line.name, () => make("li", {}, make("i"), link(), make("span", { class: "quiet" })), (item, line) => {
    mark(item.firstChild, "class", `hue${line.hue}`);
    write(item.children[1], line.name);
    write(item.lastChild, shown(line.points.at(-1)[1]));
  });
}

// -- the report

let reportNumber = 0;
async function makeReport() {
  const press = byId("make-report"), note = byId("report-note");
  press.disabled = true;
  write(note, "Making the charts …");
  try {
    const { error } = await post("/report");
    if (error) return write(note, error);
    const old = byId("report-place").firstChild;
    const frame = make("iframe", { title: "Charts of all rows", sandbox: "allow-scripts allow-downloads", src: `/report?n=${reportNumber += 1}` });
    byId("report-place").append(frame);
    frame.addEventListener("load", () => old?.remove());
    write(note, `Made at ${new Date().toLocaleTimeString()}.`);
    write(press, "Make them again");
  } catch (error) {
    write(note, error.message);
  } finally {
    press.disabled = false;
  }
}
byId("make-report").addEventListener("click", makeReport);
setInterval(() => { if (byId("repeat-report").checked && !document.hidden && !byId("make-report").disabled) makeReport(); }, 60_000);

// -- what is in sight: only that is kept up to date

const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) seen.add(target.id);
    else seen.delete(target.id);
  }
});
for (const section of document.querySelectorAll("main section")) watcher.observe(section);

// -- an update a second, while the page is seen

let source = null;
let updates = 0;
function take(event) {
  const began = performance.now();
  const update = JSON.parse(event.data);
  ({ view } = update);
  nowS = update.at_s;
  showState(update.problem);
  showAttention(update);
  if (view) {
    showProgress(view, update.problem);
    showWorkers();
    showFailures(update.problem);
    watchTasks(view, Boolean(update.problem), seen.has("tasks"));
  }
  for (const link of document.querySelectorAll("nav a")) mark(link, "hidden", byId(link.hash.slice(1)).hidden);
  updates += 1;
  document.documentElement.dataset.ready = updates;
  document.documentElement.dataset.tookMs = (performance.now() - began).toFixed(1);
}

async function listen() {
  source?.close();
  source = null;
  if (document.hidden) return;
  try {
    gpus = new Map(Object.entries(await get("/gpus")));
  } catch (error) {
    notify(error.message, true);
  }
  source = new EventSource("/events");
  source.addEventListener("message", take);
  source.addEventListener("open", () => notify(""));
  source.addEventListener("error", () => {
    write(byId("state"), "not connected");
    mark(byId("state"), "class", "badge warn");
    notify("The page's server does not answer: it ends with `distexp run`. `distexp web` serves the page anew.", true);
  });
}
document.addEventListener("visibilitychange", listen);
listen();

async function again(everyMs, isDue, step) {
  try {
    if (!document.hidden && isDue()) await step();
  } catch { /* the state says so already */ }
  setTimeout(() => again(everyMs, isDue, step), everyMs);
}
setTimeout(() => again(3000, () => seen.has("curves") && view, showCurves), 300);
setTimeout(() => again(10_000, () => view, showSearches), 600);
document.addEventListener("chosen", () => showCurves().catch(() => {}));
