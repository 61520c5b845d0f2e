"use strict";
// The rows of a table by column: packed numbers and texts, filters, order, CSV. Draws nothing.
const columns = (() => {
  function bytes(base64) {
    const binary = atob(base64);
    const found = new Uint8Array(binary.length);
    for (let at = 0; at < binary.length; at++) found[at] = binary.charCodeAt(at);
    return found.buffer;
  }
  const PLACES = { 8: Uint8Array, 16: Uint16Array, 32: Uint32Array };
  const unpack = ({ bits, data }) => new PLACES[bits](bytes(data));

  // { name, group, isHidden, isNumber, filter, value(row): number, text or null }; read when first asked for
  function column(given) {
    let floats = null, places = null;
    const others = given.others ?? {};
    const value = given.floats !== undefined
      ? (row) => { floats ??= new Float64Array(bytes(given.floats)); return Number.isNaN(floats[row]) ? others[row] ?? null : floats[row]; }
      : (row) => { places ??= unpack(given.places); return given.distinct[places[row]]; };
    return { name: given.name, group: given.group, isHidden: given.hidden, isNumber: given.floats !== undefined || given.number, filter: "", value,
      distinct: given.distinct ?? null, place: (row) => { places ??= unpack(given.places); return places[row]; } };
  }

  const isNothing = (cell) => cell === null || cell === "";
  const number = (cell) => typeof cell === "number" ? cell : isNothing(cell) ? NaN : Number(cell);

  // the test that a filter means, null for none: text, =text, !=text, >1, <=2, 1..2
  function test(filter) {
    const words = filter.trim();
    const range = /^(-?[\d.]+(?:e[-+]?\d+)?)\s*\.\.\s*(-?[\d.]+(?:e[-+]?\d+)?)$/i.exec(words);
    if (range) {
      const [low, high] = [Number(range[1]), Number(range[2])];
      if (!Number.isNaN(low) && !Number.isNaN(high)) return (cell) => number(cell) >= low && number(cell) <= high;
    }
    const [, sign, rest] = /^(<=|>=|<|>|=|!=)?\s*(.*)$/s.exec(words);
    const bound = Number(rest);
    const isOrder = sign && sign !== "=" && sign !== "!=";
    if (isOrder && rest === "") return null;  // still being typed
    if (isOrder && !Number.isNaN(bound)) {
      const holds = { "<": (a) => a < bound, ">": (a) => a > bound, "<=": (a) => a <= bound, ">=": (a) => a >= bound }[sign];
      return (cell) => holds(number(cell));
    }
    if (sign && !isOrder) {
      const isEqual = (cell) => String(cell ?? "") === rest || (rest !== "" && typeof cell === "number" && cell === bound);
      return sign === "=" ? isEqual : (cell) => !isEqual(cell);
    }
    const part = words.toLowerCase();
    return part === "" ? null : (cell) => cell !== null && String(cell).toLowerCase().includes(part);
  }

  // rows in an order, without those that a filter leaves out
  function rows(given, amount) {
    const all = given.map(column);
    const model = { all, amount, kept: Uint32Array.from({ length: amount }, (_, row) => row), sorted: null };
    let order = model.kept;

    model.named = (name) => all.find((each) => each.name === name) ?? null;

    model.filter = () => {
      model.kept = order;
      for (const each of all) {
        const passes = test(each.filter);
        if (!passes) continue;
        if (each.distinct) {  // each different cell once
          const known = each.distinct.map(passes);
          model.kept = model.kept.filter((row) => known[each.place(row)]);
        } else model.kept = model.kept.filter((row) => passes(each.value(row)));
      }
    };

    model.sort = (by, sign) => {
      model.sorted = by && { column: by, sign };
      order = Uint32Array.from({ length: amount }, (_, row) => row);
      if (by) {
        const ranks = ranksOf(by, amount);
        order.sort((a, b) => {
          const x = ranks[a], y = ranks[b];
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;  // empty ones last
          return sign * (x - y) || a - b;
        });
      }
      model.filter();
    };
    return model;
  }

  // a number per row to sort by; NaN for an empty cell
  function ranksOf(by, amount) {
    const rankOf = (cells) => {
      if (by.isNumber) return cells.map(number);
      const found = new Float64Array(cells.length);
      cells.map((cell, at) => [cell, at]).sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }))
        .forEach(([cell, at], rank) => { found[at] = cell === "" ? NaN : rank; });
      return found;
    };
    if (!by.distinct) return rankOf(Array.from({ length: amount }, (_, row) => by.value(row)));
    const known = rankOf(by.distinct);
    return Float64Array.from({ length: amount }, (_, row) => known[by.place(row)]);
  }

  const quoted = (cell) => /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  const lines = (table) => table.map((cells) => `${cells.map((cell) => quoted(String(cell ?? ""))).join(",")}\n`).join("");
  const csv = (chosen, kept) => lines([chosen.map((each) => each.name), ...Array.from(kept, (row) => chosen.map((each) => each.value(row)))]);

  // whether a column that is no result is best drawn by logarithms; values: its different numbers
  const isLog = (each, values) => ["axis", "parameter"].includes(each.group) && charts.isGeometric(values);

  // at most so many of the rows, evenly spread
  const sample = (kept, most) => kept.length <= most ? kept : kept.constructor.from({ length: most }, (_, at) => kept[Math.floor(at * kept.length / most)]);

  return { rows, csv, lines, sample, isLog, unpack, isNothing, number };
})();
