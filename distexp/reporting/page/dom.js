"use strict";
// Elements of a page. Every text enters by textContent alone, so nothing that a task says can become markup.
const dom = (() => {
  const byId = (id) => document.getElementById(id);

  // make("p", { class: "quiet" }, "text", node, null): null children are left out, `on...` are listeners
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === false) continue;
      if (name === "class") element.className = value;
      else if (typeof value === "function") element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null).map((child) => child instanceof Node ? child : String(child)));
    return element;
  }

  // heads: [text, whether its cells are numbers]; a cell may be a whole TD
  function table(heads, rows) {
    const classOf = (isNumber) => isNumber ? { class: "number" } : {};
    return make("table", {},
      make("thead", {}, make("tr", {}, ...heads.map(([head, isNumber]) => make("th", { scope: "col", ...classOf(isNumber) }, head)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, at) =>
        cell instanceof Node && cell.tagName === "TD" ? cell : make("td", classOf(heads[at][1]), cell))))));
  }

  // a box that scrolls sideways, also by the keyboard
  const scrolling = (label, ...children) => make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, ...children);

  // <label>text <select>; options are [value, text]
  function choice(label, options, chosen, listen) {
    const select = make("select", { onchange: () => listen(select.value) }, ...options.map(([value, text]) => make("option", { value }, text)));
    select.value = chosen;
    return make("label", {}, label, " ", select);
  }

  function checkbox(label, isChecked, listen) {
    const box = make("input", { type: "checkbox", onchange: () => listen(box.checked) });
    box.checked = isChecked;
    return make("label", { class: "check" }, box, label);
  }

  // offers a file that was made in the page
  function save(name, type, text) {
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  return { byId, make, table, scrolling, choice, checkbox, save };
})();
