// What the live page's other scripts share. Whatever comes from tasks enters the page as text alone.

export const { byId, make } = dom;  // of the report's page, whose scripts come first
export const { count, counted } = text;

const SVG = "http://www.w3.org/2000/svg";
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Changes what differs alone: most of a page stays as it is from second to second.
export function write(element, text) {
  const wanted = String(text ?? "");
  if (element.textContent !== wanted) element.textContent = wanted;
}
export function mark(element, name, value) {
  const wanted = value === null || value === undefined || value === false ? null : value === true ? "" : String(value);
  if (element.getAttribute(name) === wanted) return;
  if (wanted === null) element.removeAttribute(name);
  else element.setAttribute(name, wanted);
}

// Keeps a child per item, in the order of the items; focus and selection stay where they are.
export function keep(parent, items, keyOf, create, update) {
  const before = parent.kept ?? new Map();
  const after = new Map();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const element = before.get(key) ?? create(item);
    after.set(key, element);
    update(element, item);
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
  for (const [key, element] of before) if (after.get(key) !== element) element.remove();
  parent.kept = after;
}

// A table of columns {title, text(item), class, make(item), update(cell, item)}; a row per item.
export class Table {
  constructor(element, columns, keyOf, rowUpdate = () => {}) {
    this.element = element;
    this.keyOf = keyOf;
    this.rowUpdate = rowUpdate;
    this.head = make("tr");
    this.body = make("tbody");
    element.append(make("thead", {}, this.head), this.body);
    this.setColumns(columns);
  }

  setColumns(columns) {
    this.columns = columns;
    this.head.replaceChildren(...columns.map((column) => column.head ? column.head() :
      make("th", { class: column.class ?? "", scope: "col" }, column.title)));
    this.body.replaceChildren();
    this.body.kept = new Map();
  }

  show(items) {
    keep(this.body, items, this.keyOf, (item) => make("tr", {}, ...this.columns.map((column) => {
      const cell = make("td", { class: column.class ?? "" });
      if (column.make) cell.append(column.make(item));
      return cell;
    })), (row, item) => {
      this.columns.forEach((column, at) => {
        if (column.update) column.update(row.children[at], item);
        else if (column.text) {
          const text = column.text(item);
          write(row.children[at], text);
          mark(row.children[at], "title", text || null);
        }
      });
      this.rowUpdate(row, item);
    });
  }
}

// -- texts

export const shown = (value) => typeof value === "object" && value !== null ? JSON.stringify(value) : String(text.shown(value));

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(whole / 3600);
  if (whole < 60) return `${whole} s`;
  if (hours < 1) return `${minutes} min ${whole % 60} s`;
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

// The same for tables that many rows change in: it changes seldom.
export function roughly(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${Math.floor(seconds / 5) * 5} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : duration(seconds);
}

export const gigabytes = (mib) => (mib / 1024).toFixed(1);

// A log as a terminal would leave it: without colours, of a progress bar its last state.
export function plainText(text) {
  return text
    .replace(/\x1b\][^\x07\x1b]*(\x07|\x1b\\)/g, "")
    .replace(/\x1b\[[0-9;:?]*[ -/]*[@-~]/g, "")
    .replace(/\r+\n/g, "\n")
    .replace(/[^\n]*\r(?=[^\n])/g, "")
    .replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "\ufffd");
}

// -- requests

export async function get(path, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values))
    for (const each of Array.isArray(value) ? value : [value]) if (each !== "" && each !== null) query.append(name, each);
  return answer(await fetch(`${path}?${query}`));
}

export async function post(path, body = {}) {
  return answer(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }));
}

async function answer(response) {
  const text = await response.text();
  let told;
  try { told = JSON.parse(text); } catch { throw new Error(text || `the page's server answers ${response.status}`); }
  if (!response.ok) throw new Error(told.error);
  return told;
}

// -- what the user wants done

export function notify(text, isBad = false) {
  const notice = byId("notice");
  notice.hidden = !text;
  notice.className = isBad ? "notice bad" : "notice";
  write(notice, text);
  clearTimeout(notify.timer);
  if (text && !isBad) notify.timer = setTimeout(() => { notice.hidden = true; }, 6000);
}

// Sends an action and says what has become of it; the page learns the rest from the next update.
export async function act(action, done) {
  try {
    const told = await post("/action", action);
    notify(told.count === 0 ? "Nothing has changed: the task is in another state by now." : told.message || done);
  } catch (error) {
    notify(error.message, true);
  }
  document.dispatchEvent(new Event("acted"));
}

// A button; with `sure`, the first press asks, and the second within five seconds acts.
export function button(text, name, press, sure = "") {
  const element = make("button", { type: "button", "aria-label": name });
  element.textContent = text;
  let until = 0;
  element.addEventListener("click", () => {
    if (!sure || Date.now() < until) {
      until = 0;
      write(element, text);
      mark(element, "aria-label", name);
      return press();
    }
    until = Date.now() + 5000;
    write(element, sure);
    mark(element, "aria-label", `${sure} ${name}`);
    setTimeout(() => { if (until && Date.now() >= until) { until = 0; write(element, text); mark(element, "aria-label", name); } }, 5100);
  });
  return element;
}
