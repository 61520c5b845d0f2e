// One task: why it is where it is, its values, curve and error, and its log as it grows.

import { byId, duration, get, keep, make, mark, plainText, shown, write } from "./parts.js";
import { curveChart } from "./charts.js";
import { showButtons, taskButtons } from "./tasks.js";

const SHOW_MS = 2000, LOG_MS = 1000;
const KEPT_CHARS = 400_000;  // of a log that is followed: more would slow the page down
const OURS = new Set(["phase", "task_id", "seed", "run_dir"]);
const dialog = byId("task"), log = byId("task-log");
let current = null;  // {task, offset, raw}

export function openTask(taskId) {
  current = { task: taskId, offset: "", raw: "" };
  write(byId("task-head"), taskId);
  for (const id of ["task-why", "task-log", "task-curves", "task-rungs"]) byId(id).replaceChildren();
  for (const id of ["task-config", "task-row"]) { byId(id).replaceChildren(); byId(id).kept = new Map(); }
  byId("task-error").hidden = true;
  byId("task-actions").replaceChildren(...taskButtons(taskId));
  for (const each of byId("task-actions").children) each.hidden = true;
  if (!dialog.open) dialog.showModal();
  byId("task-close").focus();
  repeat(current, show, SHOW_MS);
  repeat(current, follow, LOG_MS);
}

byId("task-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { current = null; });
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

async function repeat(mine, step, everyMs) {
  if (current !== mine) return;
  try {
    if (!document.hidden) await step(mine);
  } catch (error) {
    if (current === mine) write(byId("task-why"), error.message);
  }
  setTimeout(() => repeat(mine, step, everyMs), everyMs);
}

function list(id, values) {
  keep(byId(id), values, ([name]) => name, ([name]) => make("div", {}, make("dt", {}, name), make("dd")), (pair, [, value]) => write(pair.lastChild, shown(value)));
}

async function show(mine) {
  const { task, why, running_s: runningS, row, rungs, log_path: logPath, run_dir: runDir } = await get("/task", { task: mine.task });
  if (current !== mine) return;
  write(byId("task-why"), why);
  showButtons(byId("task-actions").children, task);
  const about = [["phase", task.phase], ["state", task.state], ["attempts", task.attempts], ["failures", task.failures], ["lost workers", task.losses],
    ["worker", task.worker], ["runs for", runningS === null ? "" : duration(runningS)], ["log", logPath]].filter(([, value]) => value);
  list("task-config", [...Object.entries({ ...task.config, seed: task.seed }), ...about]);
  list("task-row", row ? Object.entries(row).filter(([name, value]) => value !== "" && !(name in task.config) && !OURS.has(name)) : []);
  byId("task-row-head").hidden = !row;
  byId("task-error").hidden = !task.error;
  write(byId("task-error").querySelector("pre"), plainText(task.error));
  byId("task-rungs").replaceChildren(...(rungs.length ? [make("h3", {}, "Rungs"), make("p", {}, rungs.map((each) => `step ${shown(each.step)}: ${shown(each.value)}, rank ${each.rank} of ${each.of}, ${each.verdict}`).join(" · "))] : []));
  if (runDir || task.state === "assigned") await showCurves(mine);
}

async function showCurves(mine) {
  const found = (await get("/curves", { task: mine.task }))[mine.task] ?? {};
  if (current !== mine) return;
  const place = byId("task-curves");
  const columns = Math.max(1, Math.floor(place.clientWidth / 340));
  const width = Math.floor(place.clientWidth / columns) - 20;
  place.replaceChildren(...Object.entries(found).slice(0, 8).map(([name, points]) =>
    make("figure", {}, make("figcaption", {}, name), curveChart([{ name, points, hue: 0 }], `${name} by step`, width))));
}

// A log that has grown is added to; the view stays at its end unless the user has scrolled up.
async function follow(mine) {
  if (mine.offset !== "" && !byId("task-follow").checked) return;
  const piece = await get("/log", { task: mine.task, offset: mine.offset });
  if (current !== mine) return;
  if (piece.absent) return write(log, piece.absent);
  if (piece.offset === mine.offset && !piece.text) return;
  const isCut = mine.offset === "" && piece.size > 64 * 1024;
  if (piece.offset < mine.offset) mine.raw = "";  // begun anew
  mine.offset = piece.offset;
  mine.raw = (mine.raw + (isCut ? "[...] " : "") + piece.text).slice(-KEPT_CHARS);
  write(log, plainText(mine.raw));
  log.scrollTop = log.scrollHeight;
  if (piece.offset < piece.size) await follow(mine);
}
