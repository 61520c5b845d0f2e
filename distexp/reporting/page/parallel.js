"use strict";
// Parallel coordinates on a canvas: a line per row through its value on each axis; lines that are dimmed lie below.
const parallel = (() => {
  const { make } = dom;
  const { shown, cut } = text;
  const TOP = 34, BOTTOM = 14, TICK = 5, LONGEST = 18;

  // where the values of a column stand, from 0 at the bottom to 1: numbers by size, others by rank
  function scaleOf(each, rows) {
    const found = new Set();
    for (const row of rows) found.add(each.value(row));
    const values = [...found].filter((cell) => !columns.isNothing(cell));
    if (each.isNumber && values.every((cell) => typeof cell === "number")) {
      const isLog = columns.isLog(each, values);
      const by = isLog ? Math.log : (number) => number;
      const [low, high] = [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
      const at = (cell) => typeof cell !== "number" ? null : high > low ? (by(cell) - by(low)) / (by(high) - by(low)) : 0.5;
      const back = (share) => isLog ? Math.exp(Math.log(low) + share * (Math.log(high) - Math.log(low))) : low + share * (high - low);
      const ticks = values.length <= 8 ? values : [0, 0.25, 0.5, 0.75, 1].map((share) => +back(share).toPrecision(3));
      return { column: each, at, back, ticks: values.length ? ticks : [] };
    }
    const order = values.sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
    const ranks = new Map(order.map((cell, rank) => [cell, order.length > 1 ? rank / (order.length - 1) : 0.5]));
    const every = Math.ceil(order.length / 12);
    return { column: each, at: (cell) => ranks.get(cell) ?? null, back: null, ticks: order.filter((_, rank) => rank % every === 0) };
  }

  // axes: columns; rows: what is drawn; look: { colour(row), isDimmed(row), say(row): text }; choose(column, low, high): a range was drawn
  function drawing(axes, rows, look, choose) {
    return (plot) => {
      const canvas = make("canvas"), said = make("p", { class: "quiet said" });
      plot.replaceChildren(canvas, said);
      plot.classList.add("parallel");
      const scales = axes.map((each) => scaleOf(each, rows));
      const ordered = [...rows].sort((a, b) => look.isDimmed(b) - look.isDimmed(a));
      const shares = ordered.map((row) => scales.map((scale) => scale.at(scale.column.value(row))));
      const still = make("canvas");  // the lines, to draw the one under the mouse upon
      let near = -1, brush = null;
      const place = { width: 0, height: 0, x: () => 0, y: () => 0 };

      function measure() {
        const ratio = window.devicePixelRatio || 1;
        [place.width, place.height] = [plot.clientWidth, Math.max(plot.clientHeight - 22, 120)];
        [canvas.width, canvas.height] = [place.width * ratio, place.height * ratio];
        [canvas.style.width, canvas.style.height] = [`${place.width}px`, `${place.height}px`];
        const context = canvas.getContext("2d");
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
        context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
        const most = place.width / (scales.length + 1);
        const room = (scale) => Math.min(most, 12 + Math.max(0, ...scale.ticks.map((tick) => context.measureText(cut(shown(tick), LONGEST)).width)));
        const [left, right] = [room(scales[0]), room(scales.at(-1))];
        place.x = (at) => scales.length > 1 ? left + at * (place.width - left - right) / (scales.length - 1) : place.width / 2;
        place.y = (share) => place.height - BOTTOM - share * (place.height - TOP - BOTTOM);
        return context;
      }

      function trace(context, line) {
        context.beginPath();
        let isDown = false;  // a row without a value on an axis has a gap there
        line.forEach((share, at) => {
          if (share === null) { isDown = false; return; }
          if (isDown) context.lineTo(place.x(at), place.y(share));
          else context.moveTo(place.x(at), place.y(share));
          isDown = true;
        });
        context.stroke();
      }

      function axesOn(context) {
        const room = scales.length > 1 ? place.x(1) - place.x(0) : place.width;
        const most = Math.max(4, Math.min(LONGEST, Math.floor(room / 7.2)));
        scales.forEach((scale, at) => {
          context.strokeStyle = charts.colour("--quiet");
          context.lineWidth = 1;
          context.globalAlpha = 0.6;
          context.beginPath();
          context.moveTo(place.x(at), place.y(0));
          context.lineTo(place.x(at), place.y(1));
          context.stroke();
          context.globalAlpha = 1;
          context.textAlign = at === scales.length - 1 && at > 0 ? "right" : at === 0 ? "left" : "center";
          const edge = at === 0 ? 2 : at === scales.length - 1 ? place.width - 2 : place.x(at);
          context.fillStyle = charts.colour("--text");
          context.fillText(cut(scale.column.name, most), edge, 14);
          context.textAlign = at === scales.length - 1 && at > 0 ? "left" : "right";
          const shift = context.textAlign === "left" ? TICK : -TICK;
          for (const tick of scale.ticks) {
            const share = scale.at(tick);
            if (share !== null && share >= -0.001 && share <= 1.001) inked(context, cut(shown(tick), most), place.x(at) + shift, place.y(share) + 4);
          }
        });
      }
      function inked(context, words, x, y) {  // readable across lines
        context.lineWidth = 3;
        context.strokeStyle = charts.colour("--card");
        context.strokeText(words, x, y);
        context.fillStyle = charts.colour("--quiet");
        context.fillText(words, x, y);
      }

      function draw() {
        const context = measure();
        context.clearRect(0, 0, place.width, place.height);
        context.lineJoin = "round";
        const alpha = Math.max(0.08, Math.min(0.8, 60 / Math.sqrt(ordered.length + 1) / 4));
        ordered.forEach((row, at) => {
          const isDimmed = look.isDimmed(row);
          context.globalAlpha = isDimmed ? Math.min(0.25, alpha) : alpha;
          context.lineWidth = isDimmed ? 1 : 1.5;
          context.strokeStyle = isDimmed ? charts.colour("--quiet") : look.colour(row);
          trace(context, shares[at]);
        });
        context.globalAlpha = 1;
        axesOn(context);
        [still.width, still.height] = [canvas.width, canvas.height];
        still.getContext("2d").drawImage(canvas, 0, 0);
      }

      function point() {  // the line under the mouse, and the range that is drawn
        const context = canvas.getContext("2d");
        context.clearRect(0, 0, place.width, place.height);
        context.drawImage(still, 0, 0, place.width, place.height);
        if (near >= 0) {
          context.globalAlpha = 1;
          context.lineWidth = 3;
          context.strokeStyle = charts.colour("--text");
          trace(context, shares[near]);
        }
        if (brush) {
          context.fillStyle = charts.colour("--accent");
          context.globalAlpha = 0.3;
          context.fillRect(place.x(brush.at) - 8, Math.min(brush.from, brush.to), 16, Math.abs(brush.to - brush.from));
          context.globalAlpha = 1;
        }
        said.textContent = near >= 0 ? look.say(ordered[near]) : "";
      }

      // the line that is nearest to a point, at most 12 pixels away
      function nearest(x, y) {
        let best = 12, found = -1;
        for (let at = 0; at + 1 < scales.length; at++) {
          const [left, right] = [place.x(at), place.x(at + 1)];
          if (x < left || x > right) continue;
          const along = (x - left) / (right - left);
          shares.forEach((line, row) => {
            if (line[at] === null || line[at + 1] === null) return;
            const away = Math.abs(place.y(line[at] + along * (line[at + 1] - line[at])) - y);
            if (away <= best) [best, found] = [away, row];
          });
        }
        return found;
      }

      canvas.addEventListener("pointerdown", (event) => {
        if (event.pointerType === "touch") return;
        const at = scales.findIndex((scale, number) => scale.back && Math.abs(place.x(number) - event.offsetX) < 12);
        if (at < 0) return;
        brush = { at, from: event.offsetY, to: event.offsetY };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (brush) brush.to = event.offsetY;
        near = brush ? -1 : nearest(event.offsetX, event.offsetY);
        point();
      });
      canvas.addEventListener("pointerleave", () => { if (!brush) { near = -1; point(); } });
      canvas.addEventListener("pointerup", () => {
        if (!brush) return;
        const share = (y) => Math.min(1, Math.max(0, (place.height - BOTTOM - y) / (place.height - TOP - BOTTOM)));
        const { at, from, to } = brush;
        const ends = [share(Math.max(from, to)), share(Math.min(from, to))].map((each) => +scales[at].back(each).toPrecision(4));
        brush = null;
        if (Math.abs(from - to) > 3) choose(scales[at].column, ...ends);
        else point();
      });
      plot.redraw = draw;
      draw();
    };
  }

  return { drawing };
})();
