"use strict";
// What a reader has chosen stands in the page's address, after the #: a reload or a copied link shows the same.
const address = (() => {
  const read = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

  // listen(parameters): when the reader edits the address or goes back
  const watch = (listen) => window.addEventListener("hashchange", () => { if (location.hash.includes("=")) listen(read()); });

  // parameters: [name, value] pairs; those without a value are left out
  function write(parameters) {
    const kept = new URLSearchParams(parameters.filter(([, value]) => value !== null && value !== ""));
    try {
      history.replaceState(null, "", [...kept].length ? `#${kept}` : location.pathname + location.search);
    } catch {
      // within a frame that keeps no address, as on the live page
    }
  }

  return { read, watch, write };
})();
