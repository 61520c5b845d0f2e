// The table of tasks: filtered, sorted and cut into pages by the manager.

import { Table, act, button, byId, count, get, make, mark, notify, counted, shown, write } from "./parts.js";
import { openTask } from "./task.js";

const PAGE = 100;
const LEAST_MS = 2000;  // between two questions that nobody has asked by hand
const SHARE = 50;  // so many times as long as a question takes the manager is between two of them: 2 % of a core
const AXES = 6;  // parameters with a column of their own
const OPEN = ["pending", "assigned"], AGAIN = ["failed", "cancelled", "pruned"];
const STATES = { "": "all", pending: "pending", assigned: "running", complete: "complete", failed: "failed", cancelled: "cancelled", pruned: "stopped early", withdrawn: "withdrawn" };

const form = byId("filters");
const asked = { state: "", phase: "", filter: "", sort: "", offset: 0 };
for (const [name, value] of new URLSearchParams(location.search)) if (Object.hasOwn(asked, name)) asked[name] = value;  // not the token
asked.offset = Number(asked.offset) || 0;
const chosen = new Set();
let axes = null;
let total = 0;
let atRest = false;
let signature = "", shownSignature = null, nextMs = 0, number = 0;

export const chosenTasks = () => [...chosen];

for (const [value, name] of Object.entries(STATES)) form.elements.state.append(make("option", { value }, name));
form.elements.phase.append(make("option", { value: "" }, "all"));

// -- the table

const isOpen = (task) => OPEN.includes(task.state);
const lastLine = (error) => error.trim().split("\n").at(-1);

function heading(name, title, kind = "") {
  return () => {
    const sign = asked.sort === name || (name === "task" && !asked.sort) ? 1 : asked.sort === `-${name}` ? -1 : 0;
    const press = make("button", { type: "button", class: "sort" }, title, sign > 0 ? " ▲" : sign < 0 ? " ▼" : "");
    press.addEventListener("click", () => { asked.sort = asked.sort === name ? `-${name}` : name; asked.offset = 0; ask(true, name); });
    return make("th", { class: kind, scope: "col", "aria-sort": sign > 0 ? "ascending" : sign < 0 ? "descending" : "none", "data-sort": name }, press);
  };
}

function columns() {
  const isNumber = (name) => axes.numbers.has(name) ? "number" : "";
  return [
    { class: "check-cell", head: () => make("th", { scope: "col" }, make("span", { class: "hidden-text" }, "curve")), make: (task) => {
      const box = make("input", { type: "checkbox", "aria-label": `Draw the curve of ${task.task_id}` });
      box.checked = chosen.has(task.task_id);
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(task.task_id);
        else chosen.delete(task.task_id);
        document.dispatchEvent(new Event("chosen"));
      });
      return box;
    } },
    { head: heading("task", "task"), class: "id", make: (task) => make("button", { type: "button", class: "link", onclick: () => openTask(task.task_id) }, task.task_id) },
    { head: heading("state", "state"), make: () => make("span", { class: "badge" }), update: (cell, task) => {
      write(cell.firstChild, STATES[task.state] ?? task.state);
      mark(cell.firstChild, "class", `badge of-${task.state}`);
    } },
    ...axes.names.map((name) => ({ head: heading(name, name, isNumber(name)), class: isNumber(name), text: (task) => shown(name === "seed" ? task.seed : task.config[name]) })),
    { head: heading("attempts", "attempts", "number"), class: "number", text: (task) => task.attempts || "" },
    { head: heading("worker", "worker"), text: (task) => task.worker },
    { head: heading("error", "error"), class: "long", text: (task) => task.error ? lastLine(task.error) : "" },
    { class: "actions", head: () => make("th", { scope: "col" }, make("span", { class: "hidden-text" }, "actions")), make: (task) => make("span", {}, ...taskButtons(task.task_id)), update: (cell, task) => showButtons(cell.firstChild.children, task) },
  ];
}

export function taskButtons(taskId) {
  return [
    button("Cancel", `Cancel ${taskId}`, () => act({ type: "cancel", tasks: [taskId] }, "Cancelled."), "Really cancel?"),
    button("Run again", `Run ${taskId} again`, () => act({ type: "requeue", tasks: [taskId] }, "It runs again.")),
  ];
}

// Shows those of them that a manager, if one runs, would grant for the task as it stands.
export function showButtons([cancel, again], task) {
  cancel.hidden = atRest || !isOpen(task);
  again.hidden = atRest || !AGAIN.includes(task.state);
}

// The parameters that differ among the tasks of a page; they stay while the same tasks are looked at.
function axesOf(tasks) {
  const values = new Map();
  for (const task of tasks)
    for (const [name, value] of [...Object.entries(task.config), ["seed", task.seed]]) {
      if (!values.has(name)) values.set(name, []);
      values.get(name).push(value);
    }
  const names = [...values].filter(([, list]) => list.length < tasks.length || new Set(list.map((each) => JSON.stringify(each))).size > 1).map(([name]) => name);
  return { names: names.slice(0, AXES), numbers: new Set(names.filter((name) => values.get(name).every((each) => typeof each === "number"))) };
}

let table = null;
function showPage(reply) {
  total = reply.total;
  const found = axesOf(reply.tasks);
  if (!table || found.names.join("\n") !== axes.names.join("\n")) {
    axes = found;
    if (table) table.setColumns(columns());
    else table = new Table(byId("tasks-table"), columns(), (task) => task.key);
  }
  table.show(reply.tasks);
  const page = Math.floor(asked.offset / PAGE), pages = Math.max(1, Math.ceil(total / PAGE));
  write(byId("tasks-count"), total ? counted(total, "task") : "No task matches.");
  write(byId("page"), `${count(page + 1)} / ${count(pages)}`);
  byId("back").disabled = page === 0;
  byId("next").disabled = page + 1 >= pages;
}

// -- what is asked

function address() {
  const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
  history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
}

async function ask(isByHand, focus = "") {
  const mine = number += 1;
  const before = signature;
  nextMs = Infinity;
  address();
  let tookS = 0;
  try {
    const [reply, seconds] = await get("/tasks", asked);
    tookS = seconds;
    if (mine !== number) return;
    if (!reply.tasks.length && asked.offset) {
      asked.offset = Math.max(0, Math.floor((reply.total - 1) / PAGE) * PAGE);
      return ask(isByHand);
    }
    showPage(reply);
    shownSignature = before;
    if (isByHand && table) table.setColumns(columns()), table.show(reply.tasks);
    if (focus) byId("tasks-table").querySelector(`th[data-sort="${CSS.escape(focus)}"] button`)?.focus();
  } catch (error) {
    if (isByHand) notify(error.message, true);
  }
  nextMs = performance.now() + Math.max(LEAST_MS, 1000 * SHARE * tookS);
}

// Shows tasks with these filters alone, and brings them into sight.
export function showTasks(filters) {
  Object.assign(asked, { state: "", phase: "", filter: "", sort: "", offset: 0 }, filters);
  fill();
  ask(true);
  byId("tasks").scrollIntoView();
  form.elements.filter.focus({ preventScroll: true });
}

function fill() {
  for (const name of ["state", "phase", "filter"]) form.elements[name].value = asked[name];
}

function changed() {
  for (const name of ["state", "phase", "filter"]) asked[name] = form.elements[name].value.trim();
  asked.offset = 0;
  ask(true);
}
form.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
for (const name of ["state", "phase"]) form.elements[name].addEventListener("change", changed);
let typing = 0;
form.elements.filter.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(changed, 300); });
byId("back").addEventListener("click", () => { asked.offset = Math.max(0, asked.offset - PAGE); ask(true); });
byId("next").addEventListener("click", () => { asked.offset += PAGE; ask(true); });
byId("requeue-failed").addEventListener("click", () => act({ type: "requeue", failed: true }, "They run again."));
document.addEventListener("acted", () => { shownSignature = null; nextMs = 0; });

// Asks again when something has changed and the table is in sight, and not too often.
export function watchTasks(view, isAtRest, isSeen) {
  atRest = isAtRest;
  const { total: all, ...counts } = view.status;
  signature = JSON.stringify([atRest, all, counts.pending, counts.assigned, counts.complete, counts.failed, counts.cancelled, counts.pruned, view.workers.map((each) => each.task)]);
  byId("requeue-failed").hidden = !view.status.failed || atRest;
  const known = [...form.elements.phase.options].slice(1).map((option) => option.value).join("\n");
  if (known !== view.phases.map((each) => each.phase).join("\n")) {
    form.elements.phase.replaceChildren(make("option", { value: "" }, "all"), ...view.phases.map(({ phase }) => make("option", { value: phase }, phase)));
    fill();
  }
  if (shownSignature !== signature && performance.now() >= nextMs && (isSeen || shownSignature === null)) ask(false);
}
