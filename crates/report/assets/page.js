// What the page can do with a script: filter, sort, show values, open a cell's items. Without it all
// tables and figures stand there as they are. Texts from data enter by textContent alone.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const status = document.getElementById("status");

  // An element with properties and children; a string child is text.
  const make = (name, properties = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key in element && key !== "lang") element[key] = value;
      else element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };

  // ---- Filters: tasks, models and languages by their numbers in data-t, data-m, data-l.
  const form = document.getElementById("filters");
  const facets = [["t", "Task", data.tasks], ["m", "Model", data.models], ["l", "Language", data.langs]]
    .filter(([, , names]) => names.length > 1);
  const chosen = {};
  for (const [key, title, names] of facets) {
    const select = make("select", { id: "filter-" + key },
      make("option", { value: "" }, "all"),
      ...names.map((name, at) => make("option", { value: String(at) }, name)));
    select.addEventListener("change", () => {
      chosen[key] = select.value;
      filter();
    });
    form.append(make("label", { htmlFor: select.id }, title), select);
  }
  form.hidden = facets.length === 0;
  form.addEventListener("submit", (event) => event.preventDefault());

  const matches = (element, keys) => keys.every((key) => {
    const own = element.getAttribute("data-" + key);
    return !chosen[key] || own === null || own.split(" ").includes(chosen[key]);
  });

  function filter() {
    for (const element of all("figure, details, .tiles li, h3[data-t]")) element.hidden = !matches(element, ["t", "m", ...(element.className === "sample" ? ["l"] : [])]);
    let shown = 0;
    const rows = all("tbody tr");
    for (const row of rows) {
      row.hidden = !matches(row, ["t", "m", "l"]);
      shown += !row.hidden;
    }
    const lang = chosen.l && data.tags[chosen.l];
    for (const element of all("svg [data-lang]")) element.classList.toggle("dim", Boolean(lang) && element.dataset.lang !== lang);
    const any = facets.some(([key]) => chosen[key]);
    status.textContent = any ? `Showing ${shown} of ${rows.length} table rows` : "Showing everything";
    document.body.classList.toggle("filtered", any);
  }

  // ---- Sorting: a button in each heading; absent values last, ties in the order of the page.
  const value = (cell) => {
    const text = cell.textContent.trim().replace(/[−]/g, "-").replace(/^[±+<]\s*/, "").replace(/,(?=\d{3})/g, "");
    if (text === "–" || text === "") return null;
    const number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  function sort(table, heading) {
    const at = [...heading.parentNode.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [value(row.cells[at]), row]);
    const sign = (a, b) => (a === null || b === null || !down ? 1 : -1);
    rows.sort(([a], [b]) => sign(a, b) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
    status.textContent = `Sorted by ${heading.textContent}, ${down ? "descending" : "ascending"}`;
  }
  for (const heading of all("thead th")) {
    const button = make("button", { type: "button", className: "sort" }, heading.textContent);
    button.addEventListener("click", () => sort(heading.closest("table"), heading));
    heading.replaceChildren(button);
  }

  // ---- Values: by pointer, and by arrow keys on a focused figure. The <title> of a point is taken
  // out while its own tip shows, so that the browser's does not come on top.
  const tip = document.getElementById("tip");
  let held = null;
  const titleOf = (point) => [...point.children].find((child) => child.tagName === "title");
  function show(point) {
    hide();
    const title = titleOf(point);
    if (!title) return "";
    held = { point, title };
    title.remove();
    point.classList.add("held");
    tip.textContent = title.textContent;
    tip.hidden = false;
    const box = point.getBoundingClientRect();
    const left = Math.max(4, Math.min(box.left + box.width / 2 - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 4));
    tip.style.left = left + "px";
    tip.style.top = (box.top > tip.offsetHeight + 12 ? box.top - tip.offsetHeight - 8 : box.bottom + 8) + "px";
    return tip.textContent;
  }
  function hide() {
    if (!held) return;
    held.point.prepend(held.title);
    held.point.classList.remove("held");
    held = null;
    tip.hidden = true;
  }
  document.addEventListener("pointerover", (event) => {
    const point = event.target.closest?.("svg .point");
    if (point) show(point);
    else hide();
  });
  // A value read by keyboard moves along: a figure that takes the focus scrolls into view by itself.
  addEventListener("scroll", () => {
    if (held && document.activeElement?.contains(held.point)) show(held.point);
    else hide();
  }, { passive: true, capture: true });
  const places = new WeakMap();
  for (const drawing of all(".drawing")) {
    drawing.setAttribute("aria-description", "Arrow keys read the values");
    drawing.addEventListener("blur", hide);
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: "first", End: "last" }[event.key];
      if (event.key === "Escape") hide();
      if (step === undefined) return;
      const points = all(".point", drawing);
      if (!points.length) return;
      event.preventDefault();
      const before = places.get(drawing) ?? (step === -1 ? 0 : -1);
      const at = step === "first" ? 0 : step === "last" ? points.length - 1 : (before + step + points.length) % points.length;
      places.set(drawing, at);
      status.textContent = show(points[at]);
    });
  }

  // ---- Items: a button in every cell whose items the page holds.
  const dialog = document.getElementById("items");
  const text = (at) => data.texts[at];
  // A prompt and a reference are in the cell's language; an answer may be in any.
  const passage = (title, at, lang) => at === null ? [] : [
    make("dt", {}, title),
    make("dd", lang === null ? { dir: "auto" } : { dir: data.directions[lang], lang: data.tags[lang] }, text(at)),
  ];
  function example(one, cell) {
    const scores = one.scores.map(([metric, shown]) => make("span", { className: "score" }, data.metrics[metric] + " ", make("b", {}, shown)));
    const before = one.before === null ? "" : `, at n = ${data.baseline}: ${one.before}`;
    return make("article", { className: "example" },
      make("h3", {}, `${data.metrics[cell.metric]} ${one.score}${before}`),
      make("dl", { className: "texts" },
        ...passage("Prompt", one.prompt, cell.lang),
        ...passage("Answer", one.generation, null),
        ...passage("Reference", one.reference, cell.lang),
        make("dt", {}, "Scores"), make("dd", {}, ...scores),
        make("dt", {}, "Item"), make("dd", {}, make("code", {}, text(one.item)), ...(one.run === null ? [] : [", run ", make("code", {}, text(one.run))]))));
  }
  function open(at) {
    const cell = data.cells[at];
    if (!cell) return;
    const close = make("button", { type: "button", className: "close" }, "Close");
    close.addEventListener("click", () => dialog.close());
    const name = [data.tasks[cell.task], text(cell.series), data.langs[cell.lang], `n = ${cell.n}`].filter(Boolean).join(" · ");
    dialog.replaceChildren(
      make("header", {}, make("h2", { id: "items-title" }, name), close),
      make("p", { className: "lead" }, cell.told),
      ...cell.examples.map((one) => example(one, cell)),
      make("p", { className: "left" }, cell.left));
    dialog.showModal();
    dialog.scrollTop = 0;
  }
  for (const cell of all("td[data-d]")) {
    const button = make("button", { type: "button", className: "open", title: "Show its items and answers" }, ...cell.childNodes);
    button.addEventListener("click", () => open(Number(cell.dataset.d)));
    cell.append(button);
  }
  const linked = () => {
    const found = location.hash.match(/^#items-(\d+)$/);
    if (found) open(Number(found[1]));
  };
  addEventListener("hashchange", linked);
  linked();

  // ---- Print: what is folded away is printed too, but for the samples.
  let folded = [];
  addEventListener("beforeprint", () => {
    hide();
    folded = all("details:not([open], .sample)");
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
})();
