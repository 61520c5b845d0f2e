"use strict";
// A table of rows, a page of it at a time: sorted by a click on a head, filtered below it, its columns chosen, saved as CSV.
const rowsTable = (() => {
  const { byId, make, checkbox, save } = dom;
  const { shown, count, counted } = text;
  const PAGE = 50;

  // model: of columns.rows; listen(): when its filter, order or columns have changed;
  // marks: { has(row), isOn(row), set(row, isOn), label(row) } puts a checkbox before a row
  function rowsTable(model, { listen, marks, file }) {
    let page = 0;
    let isShown = new Map(model.all.map((each) => [each, !each.isHidden]));
    const visible = () => model.all.filter((each) => isShown.get(each) || each.filter);
    const [headPlace, body] = document.querySelectorAll("#table thead, #table tbody");

    function showHead() {
      const names = make("tr"), filters = make("tr");
      if (marks) {
        names.append(make("th", { scope: "col", class: "mark" }, make("span", { class: "quiet" }, "curve")));
        filters.append(make("td"));
      }
      for (const each of visible()) {
        const sign = model.sorted?.column === each ? model.sorted.sign : 0;
        const button = make("button", { type: "button", "data-column": each.name, onclick: () => sortBy(each) }, each.name, sign ? (sign > 0 ? " ▲" : " ▼") : "");
        names.append(make("th", { scope: "col", class: each.isNumber ? "number" : "", "aria-sort": sign ? (sign > 0 ? "ascending" : "descending") : "none" }, button));
        const input = make("input", { type: "search", "aria-label": `Filter ${each.name}`, placeholder: "filter", "data-column": each.name, oninput: () => {
          each.filter = input.value;
          refilter();
        } });
        input.value = each.filter;
        filters.append(make("td", { class: "filter" }, input));
      }
      headPlace.replaceChildren(names, filters);
    }

    function sortBy(each) {
      model.sort(each, model.sorted?.column === each ? -model.sorted.sign : 1);
      page = 0;
      const name = each.name;
      showHead();
      [...headPlace.querySelectorAll("button")].find((button) => button.dataset.column === name)?.focus();
      showRows();
      listen();
    }

    function refilter() {
      model.filter();
      page = 0;
      showRows();
      listen();
    }

    function showRows() {
      const pages = Math.max(1, Math.ceil(model.kept.length / PAGE));
      page = Math.min(Math.max(page, 0), pages - 1);
      const chosen = visible();
      body.replaceChildren(...Array.from(model.kept.subarray(page * PAGE, (page + 1) * PAGE), (row) =>
        make("tr", {}, ...(marks ? [make("td", { class: "mark" }, marks.has(row) ? mark(row) : null)] : []), ...chosen.map((each) => {
          const cell = each.value(row);
          return make("td", { class: each.isNumber ? "number" : "", title: cell ?? "" }, shown(cell));
        }))));
      byId("count").textContent = model.kept.length === model.amount ? counted(model.amount, "row") : `${count(model.kept.length)} of ${counted(model.amount, "row")}`;
      byId("page").textContent = `${count(page + 1)} / ${count(pages)}`;
      byId("back").disabled = page === 0;
      byId("next").disabled = page === pages - 1;
      byId("clear").hidden = !model.all.some((each) => each.filter);
      byId("empty").hidden = model.kept.length > 0;
      byId("empty").textContent = model.amount ? "No row passes the filter." : "No row yet.";
    }

    function mark(row) {
      const box = make("input", { type: "checkbox", "aria-label": marks.label(row), onchange: () => marks.set(row, box.checked) });
      box.checked = marks.isOn(row);
      return box;
    }

    // the list of all columns, each with a box
    function showChoice() {
      const all = model.all.map((each) => checkbox(each.name, isShown.get(each), (isOn) => { isShown.set(each, isOn); columnsChanged(); }));
      const several = (label, wanted) => make("button", { type: "button", class: "small", onclick: () => {
        isShown = new Map(model.all.map((each) => [each, wanted(each)]));
        showChoice();
        columnsChanged();
      } }, label);
      byId("columns").replaceChildren(make("div", { class: "bar" }, several("all", () => true), several("usual", (each) => !each.isHidden), several("none", () => false)), ...all);
    }
    function columnsChanged() {
      byId("columns-count").textContent = `${count(visible().length)} of ${count(model.all.length)}`;
      showHead();
      showRows();
      listen();
    }

    const turn = (by) => { page += by; showRows(); };
    byId("back").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("clear").addEventListener("click", () => {
      for (const each of model.all) each.filter = "";
      showHead();
      refilter();
      headPlace.querySelector("input")?.focus();
    });
    byId("csv").addEventListener("click", () => save(file, "text/csv", columns.csv(visible(), model.kept)));
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const menu of document.querySelectorAll("details.menu")) menu.open = false; });

    return {
      // what the address says, as [name, value] pairs
      said: () => [
        ["sort", model.sorted && `${model.sorted.sign < 0 ? "-" : ""}${model.sorted.column.name}`],
        ...model.all.filter((each) => each.filter).map((each) => [`f.${each.name}`, each.filter]),
        ...model.all.filter((each) => isShown.get(each) === each.isHidden).map((each) => [each.isHidden ? "show" : "hide", each.name]),
      ],
      take(parameters) {
        const [added, removed] = [parameters.getAll("show"), parameters.getAll("hide")];
        for (const each of model.all) {
          each.filter = parameters.get(`f.${each.name}`) ?? "";
          isShown.set(each, added.includes(each.name) || (!each.isHidden && !removed.includes(each.name)));
        }
        const by = parameters.get("sort") ?? "";
        model.sort(model.named(by) ?? model.named(by.replace(/^-/, "")), !model.named(by) && by.startsWith("-") ? -1 : 1);
        page = 0;
        byId("columns-count").textContent = `${count(visible().length)} of ${count(model.all.length)}`;
        showChoice();
        showHead();
        showRows();
      },
      // sets filters from elsewhere: [column, filter] pairs
      setFilters(pairs) {
        for (const [each, filter] of pairs) each.filter = filter;
        showHead();
        refilter();
      },
      visible,
    };
  }

  return rowsTable;
})();
