"use strict";
// How numbers and names are written.
const text = (() => {
  // a number as people write it: 0.0005, 5e-5, 12345.7
  function shown(value) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return value;
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e15) return String(value);
    if (size >= 1e15 || size < 1e-4) return value.toExponential(4).replace(/\.?0+e/, "e").replace("e+", "e");
    return String(size >= 1e5 ? Math.round(value) : +value.toPrecision(5));
  }

  // a mean and half its interval, both to the digits that the interval supports: two of its own
  function interval(mean, half) {
    if (half === null || half === 0) return [half === 0 ? shown(mean) : shown(+mean.toPrecision(4)), half];
    const decimals = Math.max(0, 1 - Math.floor(Math.log10(half)));
    if (decimals > 7 || Math.abs(mean) >= 1e6) return [shown(mean), shown(+half.toPrecision(2))];
    return [mean.toFixed(decimals), half.toFixed(decimals)];
  }
  const withInterval = (mean, half) => half === null ? interval(mean, half)[0] : interval(mean, half).join(" ± ");
  const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");  // toLocaleString loads 50 ms of languages
  const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

  function time(seconds) {
    if (seconds < 100) return `${+seconds.toPrecision(2)} s`;
    if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
    return seconds < 172800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86400).toFixed(1)} d`;
  }

  const cut = (string, most = 16) => string.length > most ? `${string.slice(0, most - 1)}…` : string;
  // a value of an axis: the spelling of the config, but numbers as everywhere else
  const label = (axis, at) => axis.numeric && axis.values[at] !== "" ? shown(Number(axis.values[at])) : axis.values[at];

  return { shown, interval, withInterval, count, counted, time, cut, label };
})();
