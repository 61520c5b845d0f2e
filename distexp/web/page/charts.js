// Small drawings: a GPU's last minutes, learning curves over each other.

import { draw, shown } from "./parts.js";

// -- a GPU over the last minutes: memory used as an area, how busy it is as a line

const [WIDE, HIGH, MINUTES] = [120, 28, 10];
const STEP_S = 10;  // between two drawings: two pixels

export function sparkline() {
  return draw("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, class: "spark", role: "img" },
    draw("path", { class: "area" }), draw("path", { class: "line" }));
}

// samples: [[at_s, used_mib, utilization_pct or null], ...]
export function updateSparkline(svg, samples, totalMib, at) {
  const nowS = Math.ceil(at / STEP_S) * STEP_S;
  if (svg.drawnAtS === nowS) return;
  svg.drawnAtS = nowS;
  const x = (at) => WIDE * (1 - Math.min(1, (nowS - at) / (60 * MINUTES)));
  const y = (share) => HIGH - 1 - (HIGH - 2) * Math.min(1, Math.max(0, share));
  const points = samples.filter(([at]) => nowS - at <= 60 * MINUTES);
  const [area, line] = svg.children;
  const memory = points.map(([at, used]) => `${x(at).toFixed(1)},${y(used / (totalMib || 1)).toFixed(1)}`);
  if (memory.length) memory.push(`${WIDE},${memory.at(-1).split(",")[1]}`);
  area.setAttribute("d", memory.length ? `M${memory[0].split(",")[0]},${HIGH} L${memory.join(" L")} L${WIDE},${HIGH} Z` : "");
  const busy = points.filter(([, , pct]) => pct !== null).map(([at, , pct]) => `${x(at).toFixed(1)},${y(pct / 100).toFixed(1)}`);
  if (busy.length) busy.push(`${WIDE},${busy.at(-1).split(",")[1]}`);
  line.setAttribute("d", busy.length ? `M${busy.join(" L")}` : "");
  const last = samples.at(-1);
  svg.setAttribute("aria-label", last ? `The last ${MINUTES} minutes: now ${(100 * last[1] / (totalMib || 1)).toFixed(0)} % of the memory${last[2] === null ? "" : `, ${last[2]} % busy`}` : "No sample yet");
}

// -- learning curves

const SIZE = { width: 720, height: 260, left: 58, right: 10, top: 8, bottom: 28 };

function ticks(low, high, about, least = 0) {
  const span = high - low || Math.abs(high) || 1;
  const raw = span / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max(least, [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw));
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(+at.toPrecision(10));
  return found;
}

// lines: [{name, points: [[step, value], ...], hue: 0 to 7}, ...]; at least one has points; returns an SVG as wide as its place
export function curveChart(lines, label, width = SIZE.width) {
  const size = { ...SIZE, width: Math.max(260, width) };
  const all = lines.flatMap((line) => line.points);
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
  let [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  if (x0 === x1) x1 = x0 + 1;
  if (y0 === y1) { const pad = Math.abs(y0) * 0.1 || 0.5; y0 -= pad; y1 += pad; }
  const x = (step) => size.left + (size.width - size.left - size.right) * (step - x0) / (x1 - x0);
  const y = (value) => size.height - size.bottom - (size.height - size.top - size.bottom) * (value - y0) / (y1 - y0);
  const svg = draw("svg", { viewBox: `0 0 ${size.width} ${size.height}`, class: "curves", role: "img", "aria-label": label });
  for (const at of ticks(y0, y1, 5))
    svg.append(draw("line", { class: "grid", x1: size.left, x2: size.width - size.right, y1: y(at), y2: y(at) }), text(shown(at), size.left - 6, y(at) + 4, "end"));
  for (const at of ticks(x0, x1, size.width / 110, xs.every(Number.isInteger) ? 1 : 0)) svg.append(text(shown(at), x(at), size.height - 10, "middle"));
  for (const line of lines) {
    if (!line.points.length) continue;
    const path = line.points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`);
    const [endX, endY] = path.at(-1).split(",");
    svg.append(draw("path", { class: `curve hue${line.hue}`, d: `M${path.join(" L")}` }, draw("title")),
      draw("circle", { class: `dot hue${line.hue}`, cx: endX, cy: endY, r: 2.5 }));
    svg.querySelector("path:last-of-type title").textContent = `${line.name}: ${shown(line.points.at(-1)[1])} at step ${shown(line.points.at(-1)[0])}`;
  }
  return svg;
}

function text(content, x, y, anchor) {
  const element = draw("text", { x, y, "text-anchor": anchor });
  element.textContent = content;
  return element;
}
