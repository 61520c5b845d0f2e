"use strict";
// Charts, drawn by plotly when it is there (tables do not wait for its 5 MB) and they come into sight.
// Each drawing function returns `(plot) => ...`; hand that to `card`. An axis is { name, values, numeric }.
const charts = (() => {
  const { make } = dom;
  const { shown, withInterval, label, cut } = text;

  // -- when they are drawn

  const pending = new Map();  // plots to draw once they come into sight
  const next = [];  // those that have, one a frame: the page answers meanwhile
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting || !pending.has(target)) continue;
      watcher.unobserve(target);
      if (next.push(target) === 1) requestAnimationFrame(drawNext);
    }
  }, { rootMargin: "300px" });
  function drawNext() {
    const plot = next.shift();
    const draw = pending.get(plot);
    pending.delete(plot);
    if (next.length) requestAnimationFrame(drawNext);
    draw?.(plot);
  }
  const resizer = new ResizeObserver((entries) => {  // of a chart: a window's own event comes too early, or never
    for (const { target } of entries) {
      if (target.matches(".js-plotly-plot")) Plotly.Plots.resize(target);
      else target.redraw?.();
    }
  });
  window.addEventListener("plotly", () => { for (const plot of pending.keys()) watcher.observe(plot); });

  function whenSeen(plot, draw) {
    pending.set(plot, draw);
    if (window.Plotly) watcher.observe(plot);
  }

  // forgets the charts inside an element that is about to go
  function forget(element) {
    for (const plot of element.querySelectorAll(".plot")) {
      pending.delete(plot);
      watcher.unobserve(plot);
      resizer.unobserve(plot);
      if (window.Plotly && plot.matches(".js-plotly-plot")) Plotly.purge(plot);
    }
  }

  // -- how they look

  const ACCENT = "--accent";
  const QUALITIES = { light: ["#2563c9", "#d1690e", "#1d7a46", "#b3261e", "#7a4fc4", "#8a6d00", "#0b7f8f", "#b0357f", "#5d6b7e", "#6b4423"],
    dark: ["#7fb0ff", "#ffab66", "#6fcf97", "#ff8a80", "#c3a6ff", "#e5c453", "#5fd3e0", "#ff9ad2", "#a9b4c4", "#c9a27e"] };
  const RAMPS = { light: ["#f2b134", "#e0703f", "#b5366e", "#6b2c91", "#1f2a6b"], dark: ["#4a63d8", "#9a5fd6", "#e0669b", "#f79a6a", "#f7e08a"] };
  const AREAS = { light: ["#e6effc", "#6f9fe6", "#123f8c"], dark: ["#1d2b45", "#3f72c4", "#d4e5ff"] };

  const theme = () => matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const scale = (colours) => colours.map((each, at) => [at / (colours.length - 1), each]);
  const plain = (string) => String(string).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");  // plotly reads some HTML
  const clipped = (string, most) => plain(cut(String(string), most));

  // the colour at a share, 0 to 1, of the ramp for numbers
  function onRamp(share) {
    const ramp = RAMPS[theme()];
    const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
    const at = Math.min(Math.floor(place), ramp.length - 2);
    const channel = (hex, from) => parseInt(hex.slice(from, from + 2), 16);
    const mixed = [1, 3, 5].map((from) => Math.round(channel(ramp[at], from) + (place - at) * (channel(ramp[at + 1], from) - channel(ramp[at], from))));
    return `rgb(${mixed.join(", ")})`;
  }

  // a colour for each of so many values: numbers in the order of a ramp, others as different as can be
  function coloursFor(amount, isNumeric) {
    const qualities = QUALITIES[theme()];
    return Array.from({ length: amount }, (_, at) => isNumeric ? onRamp(amount > 1 ? at / (amount - 1) : 0.5) : qualities[at % qualities.length]);
  }

  function layout(x, y) {
    const axis = { exponentformat: "e", gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true,
      fixedrange: matchMedia("(pointer: coarse)").matches, ticklabeloverflow: "allow" };  // a finger that drags wants to scroll
    const title = (text) => ({ text: clipped(text, 60), standoff: 8 });
    return {
      margin: { l: 52, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--quiet") },
      showlegend: false, hovermode: "closest", hoverlabel: { align: "left" }, dragmode: "zoom",
      xaxis: { ...axis, ...x, title: title(x.title) }, yaxis: { ...axis, ...y, title: title(y.title) },
    };
  }
  const draw = (plot, traces, x, y) => Plotly.newPlot(plot, traces, layout(x, y), { displayModeBar: false, doubleClick: "reset" });

  // one chart with its title, its note, what its colours mean, and its buttons
  function card(title, drawing, { note = "", legend = null } = {}) {
    const plot = make("div", { class: "plot", role: "img", "aria-label": title });
    const place = make("div", { class: "chart" });
    const larger = make("button", { type: "button", class: "small", "aria-pressed": "false", "aria-label": `Enlarge ${title}`, title: "Enlarge", onclick: () => {
      larger.setAttribute("aria-pressed", place.classList.toggle("large"));
    } }, "⤢");
    const picture = make("button", { type: "button", class: "small", "aria-label": `Save ${title} as PNG`, onclick: () => {
      const filename = title.replace(/[^\w.-]+/g, "_");
      if (plot.matches(".js-plotly-plot")) Plotly.downloadImage(plot, { format: "png", scale: 2, width: plot.clientWidth, height: plot.clientHeight, filename });
      else plot.querySelector("canvas")?.toBlob((image) => dom.save(`${filename}.png`, "image/png", image));
    } }, "PNG");
    place.append(make("div", { class: "chart-head" }, make("h3", {}, title), picture, larger));
    if (note) place.append(make("p", { class: "quiet note" }, note));
    if (legend) place.append(legend);
    place.append(plot);
    resizer.observe(plot);
    whenSeen(plot, drawing);
    return place;
  }

  // what colours mean: name, then [text, colour] each
  const legend = (name, entries) => make("p", { class: "legend" }, make("span", { class: "quiet" }, name), ...entries.map(([text, shade]) => {
    const patch = make("i");
    patch.style.background = shade;
    return make("span", {}, patch, cut(text, 24));
  }));

  // -- of axes and means. A point is [mean, half its interval or null, seeds]

  // whether the values are more evenly apart in their logarithms, as in 1, 2, 4, 8; of many, whether they span decades
  function isGeometric(numbers) {
    const sorted = [...new Set(numbers)].sort((a, b) => a - b);
    if (sorted.length < 3 || sorted[0] <= 0) return false;
    if (sorted.length > 12) return sorted.at(-1) / sorted[0] >= 100;
    const spread = (list) => {
      const steps = list.slice(1).map((each, at) => each - list[at]);
      return Math.max(...steps) / Math.min(...steps);
    };
    return spread(sorted.map(Math.log)) < spread(sorted);
  }

  function inOrder(axis) {  // the places of its values: numbers ascending, others as the config has them
    const places = axis.values.map((_, at) => at);
    return axis.numeric ? places.sort((a, b) => axis.values[a] - axis.values[b]) : places;
  }

  // where the values of an axis stand: numbers by size or logarithm; others, and 0 beside powers as in 0, 1e-4, 1e-3, evenly
  function spacing(axis, places) {
    const numbers = places.map((at) => Number(axis.values[at]));
    const positive = numbers.filter((number) => number > 0);
    const isEven = !axis.numeric || (positive.length < numbers.length && Math.min(...numbers) === 0 && isGeometric(positive));
    const ranks = new Map(inOrder(axis).map((at, rank) => [at, rank]));
    const x = (at) => isEven ? ranks.get(at) : Number(axis.values[at]);
    const ticks = isEven ? (axis.values.length <= 12 ? inOrder(axis) : []) : places.length <= 12 ? places : [];
    return { x, isEven, range: {
      type: !isEven && isGeometric(numbers) ? "log" : "linear", ...(isEven ? { range: [-0.5, axis.values.length - 0.5] } : {}),
      ...(ticks.length ? { tickmode: "array", tickvals: ticks.map(x), ticktext: ticks.map((at) => clipped(label(axis, at))) } : {}),
    } };
  }

  // series: { name, colour, points: [[place of the value, point], ...] }; a single one needs neither name nor colour
  function lines(axis, metric, series) {
    return (plot) => {
      const places = [...new Set(series.flatMap(({ points }) => points.map(([at]) => at)))].sort((a, b) => a - b);
      const { x, range } = spacing(axis, places);
      const traces = series.map(({ name, colour: shade = colour(ACCENT), points }, number) => {
        const sorted = axis.numeric ? [...points].sort((a, b) => x(a[0]) - x(b[0])) : points;
        const aside = axis.numeric ? 0 : (number - (series.length - 1) / 2) * Math.min(0.12, 0.6 / series.length);
        return {
          x: sorted.map(([at]) => x(at) + aside), y: sorted.map(([, [mean]]) => mean), type: "scatter", hoverinfo: "text",
          text: sorted.map(([at, [mean, half, seeds]]) => `${plain(axis.name)} = ${clipped(label(axis, at))}${name ? `<br>${plain(name)}` : ""}` +
            `<br>${plain(metric)} ${withInterval(mean, half)}<br>${text.counted(seeds, "seed")}`),
          mode: axis.numeric ? (places.length <= 40 ? "lines+markers" : "lines") : "markers",
          line: { color: shade, width: 2 }, marker: { color: shade, size: series.length > 1 ? 7 : 8 },
          error_y: { type: "data", array: sorted.map(([, [, half]]) => half ?? 0), color: shade, thickness: series.length > 1 ? 1 : 1.5, width: places.length <= 40 ? 4 : 0 },
        };
      });
      draw(plot, traces, { title: axis.name, ...range }, { title: metric });
    };
  }

  // the range that holds numbers in this order: plotly's own leaves no place for those without a dot
  function reach(numbers, type) {
    const [low, high] = [numbers[0], numbers.at(-1)].map((number) => type === "log" ? Math.log10(number) : number);
    return high > low ? { range: [low - 0.06 * (high - low), high + 0.06 * (high - low)] } : {};
  }

  // dots: [place of the value, number, colour or undefined, what is said of it]
  function dots(axis, metric, found) {
    return (plot) => {
      const places = inOrder(axis).filter((at) => at !== axis.absent);
      const { x, isEven, range } = spacing(axis, places);
      const trace = {
        x: found.map(([at]) => x(at)), y: found.map(([, mean]) => mean), type: "scatter", mode: "markers", hoverinfo: "text",
        text: found.map(([at, mean, , said]) => `${plain(axis.name)} = ${clipped(label(axis, at))}${said ? `<br>${plain(said)}` : ""}<br>${plain(metric)} ${shown(mean)}`),
        marker: { color: found.map(([, , shade]) => shade ?? colour(ACCENT)), size: 7, opacity: 0.75 },
      };
      draw(plot, [trace], { title: axis.name, ...range, ...(isEven ? {} : reach(places.map(x), range.type)) }, { title: metric });
    };
  }

  // means[y][x]: of the values of the axis upwards and the axis to the right; null is a gap
  function heatMap(rightAxis, upAxis, metric, means) {
    const [columns, lines] = [inOrder(rightAxis), inOrder(upAxis)];
    const z = lines.map((y) => columns.map((x) => means[y][x]));
    const [right, up] = [columns.map((at) => label(rightAxis, at)), lines.map((at) => label(upAxis, at))];
    return (plot) => {
      const cells = right.length * up.length;
      const gap = cells <= 400 ? 2 : 0;  // between so many cells, gaps would be most of the picture
      const trace = {
        type: "heatmap", z, x: right.map((_, at) => at), y: up.map((_, at) => at), xgap: gap, ygap: gap,
        colorscale: scale(AREAS[theme()]), colorbar: { thickness: 10, outlinewidth: 0, len: 1 }, hoverongaps: false, hoverinfo: "text",
        hovertext: z.map((row, y) => row.map((mean, x) => mean === null ? "" :
          `${plain(rightAxis.name)} = ${clipped(right[x])}<br>${plain(upAxis.name)} = ${clipped(up[y])}<br>${plain(metric)} ${shown(mean)}`)),
      };
      if (cells <= 40) {
        trace.texttemplate = "%{text}";
        const decimals = 2 - Math.floor(Math.log10(Math.max(...z.flat().map(Math.abs))));  // 3 digits of the largest
        const written = (mean) => decimals >= 0 && decimals <= 6 ? mean.toFixed(decimals) : shown(+mean.toPrecision(3));
        trace.text = z.map((row) => row.map((mean) => mean === null ? "" : written(mean)));
      }
      const ticks = (texts) => {  // of many values, every so many-th
        const every = Math.ceil(texts.length / (texts.length <= 20 ? 20 : 6));
        const places = texts.map((_, at) => at).filter((at) => at % every === 0);
        return { tickmode: "array", tickvals: places, ticktext: places.map((at) => clipped(texts[at])), showgrid: false };
      };
      draw(plot, [trace], { title: rightAxis.name, ...ticks(right) }, { title: upAxis.name, ...ticks(up) });
    };
  }

  // the best so far: a line of steps through [x, y]
  const steps = (points, xTitle, yTitle) => (plot) => draw(plot,
    [{ x: points.map(([x]) => x), y: points.map(([, y]) => y), type: "scatter", mode: "lines", line: { shape: "hv", color: colour(ACCENT), width: 2 } }],
    { title: xTitle }, { title: yTitle });

  return { card, legend, forget, draw, colour, coloursFor, onRamp, plain, clipped, isGeometric, inOrder, lines, dots, heatMap, steps };
})();
