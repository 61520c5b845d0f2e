"use strict";
// What is shown of one phase: charts of its axes, its best combinations, what each axis explains, its search.
// chosen: { metric, best: "highest" | "lowest", colour: the name of an axis, or "" }; bestOf: which is best of a metric
const phases = (() => {
  const { make, table, scrolling } = dom;
  const { shown, interval, count, counted, time, label } = text;

  const varied = (phase) => phase.axes.map((axis, at) => [axis, at]).filter(([axis]) => axis.values.length > 1);

  // by which runs the values of a chart are compared, where it is not by all of them
  function noteOf({ axes, runs, of, absent }) {
    const what = axes.length === 1 ? "value" : "pair";
    const notes = [];
    if (of === 0) return "Each dot is one combination: these values share no runs to compare them by.";
    if (runs < of) notes.push(`Compares the ${count(runs)} of ${count(of)} runs that every ${what} has (${count(of - runs)} missing).`);
    if (absent) notes.push(`${counted(absent, what)} ${absent === 1 ? "has" : "have"} no number and ${absent === 1 ? "is" : "are"} left out.`);
    return notes.join(" ");
  }

  const nothingShared = (title, { axes }) => make("div", { class: "chart" }, make("h3", {}, title), make("p", { class: "quiet" },
    `Nothing to compare yet: no run (one choice of the other values, and seed) has finished for every ${axes.length === 1 ? "value" : "pair"}.`));

  // a colour for each value of an axis, by its place
  function coloursOf(axis) {
    const shades = charts.coloursFor(axis.values.length, axis.numeric);
    const found = [];
    charts.inOrder(axis).forEach((at, rank) => { found[at] = shades[rank]; });
    return found;
  }
  const legendOf = (axis, shades, places) => charts.legend(axis.name, places.map((at) => [label(axis, at), shades[at]]));

  function axisChart(phase, found, shownOf, { metric, colour }) {
    const [at] = found.axes;
    const axis = phase.axes[at];
    const second = phase.axes.findIndex(({ name, values }) => name === colour && values.length > 1);
    const other = second >= 0 && second !== at ? phase.axes[second] : null;
    if (found.of === 0) return dotChart(phase, at, other ? second : null, shownOf.dots, metric, noteOf(found));
    const pair = other && shownOf.maps.find(({ axes }) => axes.includes(at) && axes.includes(second));
    if (pair && pair.runs) return colouredChart(axis, other, pair, at, metric);
    const title = `${metric} by ${axis.name}`;
    if (found.runs === 0) return nothingShared(title, found);
    return charts.card(title, charts.lines(axis, metric, [{ points: found.points }]), { note: noteOf(found) });
  }

  // one line for each value of the second axis
  function colouredChart(axis, other, pair, at, metric) {
    const point = (x, y) => pair.axes[0] === at ? pair.pairs[y][x] : pair.pairs[x][y];
    const shades = coloursOf(other);
    const series = charts.inOrder(other).map((y) => ({
      at: y, name: `${other.name} = ${label(other, y)}`, colour: shades[y],
      points: axis.values.map((_, x) => [x, point(x, y)]).filter(([, each]) => each !== null),
    })).filter(({ points }) => points.length);
    return charts.card(`${metric} by ${axis.name} and ${other.name}`, charts.lines(axis, metric, series),
      { note: noteOf(pair), legend: legendOf(other, shades, series.map((each) => each.at)) });
  }

  function dotChart(phase, at, second, dots, metric, note) {
    const [axis, other] = [phase.axes[at], second === null ? null : phase.axes[second]];
    const there = dots.filter(([places]) => places[at] !== axis.absent);
    const shades = other && coloursOf(other);
    const drawn = there.map(([places, mean]) => [places[at], mean, shades?.[places[second]], other && `${other.name} = ${label(other, places[second])}`]);
    const order = other && charts.inOrder(other);
    const some = other && (order.length <= 8 ? order : [order[0], order[order.length >> 1], order[order.length - 1]]);
    return charts.card(`${metric} by ${axis.name}`, charts.dots(axis, metric, drawn), { note, legend: other && legendOf(other, shades, some) });
  }

  function mapChart(phase, found, metric) {
    const [right, up] = found.axes.map((at) => phase.axes[at]);
    const title = `Map of ${metric} by ${right.name} and ${up.name}`;
    if (found.runs === 0) return nothingShared(title, found);
    const means = found.pairs.map((line) => line.map((point) => point && point[0]));
    return charts.card(title, charts.heatMap(right, up, metric, means), { note: noteOf(found) });
  }

  // bars of the variance that each axis explains; the tick is what chance would
  function importance(phase, shares, metric) {
    if (!shares.length) return null;
    const percent = (share) => share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;
    const lines = shares.map(([axis, explained, chance]) => {
      const [bar, tick] = [make("i"), make("u", { title: `by chance: ${percent(chance)}` })];
      bar.style.width = `${100 * Math.min(explained, 1)}%`;
      tick.style.left = `${100 * Math.min(chance, 1)}%`;
      return make("tr", {}, make("th", { scope: "row" }, axis === null ? "seed" : phase.axes[axis].name),
        make("td", { class: "bars" }, make("div", { class: "track" }, bar, tick)), make("td", { class: "number" }, percent(explained)), make("td", { class: "number quiet" }, percent(chance)));
    });
    return make("div", { class: "chart importance" }, make("div", { class: "chart-head" }, make("h3", {}, `What explains ${metric}`)),
      make("p", { class: "quiet note" }, "Share of the variance of all finished runs that goes with one axis alone (eta squared, one-way ANOVA; more than 8 numbers are cut into 8 groups). " +
        "The mark: what chance alone would explain."),
      make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "axis"), make("th", { class: "bars" }), make("th", { class: "number" }, "explains"), make("th", { class: "number" }, "chance"))),
        make("tbody", {}, ...lines)));
  }

  function bestTable(phase, shownOf, { metric, best }) {
    const axes = varied(phase);
    const heads = [["", true], ...axes.map(([axis]) => [axis.name, axis.numeric]), [metric, true], ["seeds", true]];
    const rows = shownOf[best].map(([place, [mean, half, seeds]], rank) => [
      rank + 1, ...axes.map(([axis, at]) => label(axis, place[at])),
      make("td", { class: "number" }, interval(mean, half)[0], half === null ? null : make("span", { class: "half" }, ` ± ${interval(mean, half)[1]}`)),
      seeds < phase.seeds ? `${seeds} of ${phase.seeds}` : seeds]);
    return scrolling(`Best combinations of ${phase.name}`, table(heads, rows));
  }

  // tasks that were stopped early are in no mean: they stand here
  function search({ metric, unit, rungs, best: points }) {
    const parts = [];
    if (rungs.length) {
      const heads = [["rung", true], ["tasks", true], ["stopped", true], [`best ${metric}`, true]];
      parts.push(make("h3", {}, "Early stopping"), scrolling("Rungs", table(heads, rungs.map((rung) => rung.map(shown)))));
    }
    if (points.length >= 2) parts.push(make("div", { class: "charts" }, charts.card(`Best ${metric} so far`, charts.steps(points, unit, metric))));
    return parts;
  }

  // the chosen metric, or the phase's own where no row of it has that
  const metricOf = (phase, metric) => !phase.shown[metric] && phase.metric ? phase.metric : metric;

  function card(phase, wanted, bestOf) {
    const metric = metricOf(phase, wanted.metric);
    const best = metric === wanted.metric ? wanted.best : bestOf(metric);
    const chosen = { ...wanted, metric, best };
    const place = make("section", { class: "card", id: `phase-${phase.name}` }, make("h2", {}, phase.name),
      make("p", { class: "quiet" }, `${count(phase.complete)} of ${counted(phase.tasks, "task")} complete · ${time(phase.seconds)} · `,
        make("code", {}, phase.experiment), ` · ${phase.where}`));
    const shownOf = phase.shown[metric];
    if (!shownOf) {
      place.append(make("p", { class: "quiet" }, phase.complete ? `No row of this phase has a number in ${metric}.` : "No row yet."));
      if (phase.search) place.append(...search(phase.search));
      return place;
    }
    const explained = importance(phase, shownOf.importance, metric);
    const drawn = make("div", { class: "charts" }, ...shownOf.axes.map((found) => axisChart(phase, found, shownOf, chosen)), ...(explained ? [explained] : []),
      ...shownOf.maps.map((found) => mapChart(phase, found, metric)));
    const instead = metric === wanted.metric ? "" : `No row of this phase has a number in ${wanted.metric}: this is its own metric, ${metric}. `;
    place.append(make("p", { class: "quiet" }, `${instead}Means; bars and ± are 95 % intervals over seeds.`));
    if (phase.search) place.append(...search(phase.search));
    place.append(drawn, make("h3", {}, `Best combinations: ${best} mean ${metric}`), bestTable(phase, shownOf, chosen));
    return place;
  }

  return { card, metricOf, varied };
})();
