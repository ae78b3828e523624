// Comfort only: the page says everything without it.
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  const theme = document.querySelector(".theme");
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  name();
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);

  // A tap is switched off everywhere at once; its rule stands in the page's style sheet.
  for (const chip of all("button.chip[data-tap]")) {
    chip.disabled = false;
    chip.addEventListener("click", () => {
      const shown = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(shown));
      root.classList.toggle("without-" + chip.dataset.tap, !shown);
    });
  }

  root.classList.add("scripted");
  const encoderOf = new Map(all("button.chip[data-tap]").map((chip) => [chip.dataset.tap, chip.dataset.encoder]));

  // A cell's reason opens beside the cell instead of in the middle of the window.
  for (const cell of all("button.cell")) {
    const why = document.getElementById(cell.getAttribute("popovertarget"));
    why.addEventListener("toggle", (event) => {
      if (event.newState !== "open") return;
      history.replaceState(null, "", "#" + cell.parentElement.id);
      if (innerWidth < 600) return;
      const box = cell.getBoundingClientRect();
      const left = Math.min(Math.max(12, box.left), innerWidth - why.offsetWidth - 12);
      const below = box.bottom + 6 + why.offsetHeight < innerHeight;
      why.style.margin = "0";
      why.style.left = left + "px";
      why.style.top = Math.max(12, below ? box.bottom + 6 : box.top - 6 - why.offsetHeight) + "px";
    });
  }

  // A link to a cell opens it, and a link into something folded unfolds it.
  const follow = () => {
    const [part, ...names] = location.hash.slice(1).split("/");
    if (part === "compare" && names.length === 2) {
      choose(names.map((name) => decodeURIComponent(name.replaceAll("+", " "))));
      compare?.scrollIntoView();
      return;
    }
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let e = target; e; e = e.parentElement) if (e instanceof HTMLDetailsElement) e.open = true;
    target.scrollIntoView({ block: "center", inline: "center" });
    target.querySelector("button.cell")?.click();
  };

  // Pictures enlarge: the whole figure in a dialog, with those of the same section before and after it.
  const dialog = document.getElementById("enlarged");
  const body = document.getElementById("enlarged-body");
  let figure = null;
  const bare = (element) => {
    const copy = element.cloneNode(true);
    for (const one of [copy, ...all("[id]", copy)]) one.removeAttribute("id");
    for (const one of all(".enlarge, .permalink", copy)) one.remove();
    return copy;
  };
  const enlarge = (one) => {
    figure = one;
    document.getElementById("enlarged-title").textContent =
      one.querySelector("figcaption a, h4")?.firstChild.textContent.trim() ?? "";
    body.replaceChildren(bare(one));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  const step = (by) => {
    const others = all(".enlarges", figure.closest("section"));
    enlarge(others[(others.indexOf(figure) + by + others.length) % others.length]);
  };
  for (const one of all(".enlarges")) {
    const button = one.querySelector("button.enlarge");
    button.hidden = false;
    button.addEventListener("click", () => enlarge(one));
    for (const image of all("img", one)) image.addEventListener("click", () => enlarge(one));
  }
  for (const button of all("[data-step]", dialog)) button.addEventListener("click", () => step(Number(button.dataset.step)));
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // Two encoders side by side: their cells of the matrix and their samples, taken from the page itself.
  const compare = document.getElementById("compare");
  const selects = compare ? all("select", compare) : [];
  const element = (name, children = [], properties = {}) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const drawPair = () => {
    const names = selects.map((select) => select.value);
    const cells = all("#kept td[data-encoder]").filter((cell) => names.includes(cell.dataset.encoder));
    const tapOf = (cell) => decodeURIComponent(cell.id.split("/")[1].replaceAll("+", " ")).slice(cell.dataset.encoder.length + 1);
    const taps = names.map((name) => [...new Set(cells.filter((cell) => cell.dataset.encoder === name).map(tapOf))]);
    const columns = names.flatMap((name, side) => taps[side].map((tap) => ({ name, tap, starts: tap === taps[side][0] })));
    const value = (cell) => (cell ? parseFloat(cell.querySelector("b").textContent.replace("−", "-")) : NaN);
    // What is not judged at one of the two comes last.
    const gap = (one, other) =>
      one?.querySelector(".v-cannot, .v-none") || other?.querySelector(".v-cannot, .v-none")
        ? -1 : Math.abs(value(one) - value(other)) || 0;
    const lines = [...new Set(cells.map((cell) => cell.dataset.of))].map((attribute) => {
      const own = columns.map(({ name, tap }) => cells.find(
        (cell) => cell.dataset.of === attribute && cell.dataset.encoder === name && tapOf(cell) === tap));
      return { attribute, own, gap: gap(own[0], own[taps[0].length]) };
    });
    lines.sort((a, b) => b.gap - a.gap);
    const drawn = (cell) => {
      if (!cell) return [];
      const button = bare(cell.querySelector("button.cell"));
      if (!button.querySelector(".chart")) button.append(cell.querySelector(".why .chart").cloneNode(true));
      return [button];
    };
    const head = [
      element("tr", [element("td"), ...names.map((name, side) =>
        element("th", [name], { colSpan: taps[side].length, scope: "colgroup", className: "starts" }))]),
      element("tr", [element("td"), ...columns.map(({ tap, starts }) =>
        element("th", [tap], { scope: "col", className: starts ? "starts" : "" }))]),
    ];
    const rows = lines.map(({ attribute, own }) => element("tr", [
      element("th", [attribute], { scope: "row" }),
      ...own.map((cell, column) => element("td", drawn(cell), { className: columns[column].starts ? "starts" : "" })),
    ]));
    const cards = all("#samples .card").slice(0, 4).map((card) => {
      const copy = bare(card);
      for (const strip of all(".strip-row", copy)) {
        const style = [...strip.classList].find((name) => encoderOf.has(name));
        if (!names.includes(encoderOf.get(style))) strip.remove();
      }
      return copy;
    });
    const table = element("table", [element("thead", head), element("tbody", rows)], { className: "pair-table" });
    table.style.setProperty("--columns", columns.length);
    document.getElementById("compared").replaceChildren(
      element("div", [table], { className: "scroll" }),
      element("div", cards, { className: "cards" }),
    );
  };
  const choose = (names) => {
    if (!compare || !names.every((name) => [...selects[0].options].some((option) => option.value === name))) return;
    selects.forEach((select, side) => { select.value = names[side]; });
    drawPair();
  };
  if (compare) {
    compare.hidden = false;
    drawPair();
    for (const select of selects) select.addEventListener("change", () => {
      drawPair();
      history.replaceState(null, "", "#compare/" + selects.map((one) => encodeURIComponent(one.value)).join("/"));
    });
  }
  for (const link of all('.rail a[href="#compare"]')) link.parentElement.hidden = false;
  addEventListener("hashchange", follow);
  // Not before the browser has scrolled by itself.
  addEventListener("load", () => { if (location.hash) follow(); });

  for (const button of all("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent.trim());
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected";
      }
    });
  }

  const links = new Map(all(".rail a").map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const section of all("section[id]")) watch.observe(section);
})();
