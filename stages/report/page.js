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

  // A cell's reason opens beside the cell instead of in the middle of the window.
  for (const cell of all("button.cell")) {
    const why = document.getElementById(cell.getAttribute("popovertarget"));
    why.addEventListener("toggle", (event) => {
      if (event.newState !== "open" || innerWidth < 600) return;
      const box = cell.getBoundingClientRect();
      const left = Math.min(Math.max(12, box.left), innerWidth - why.offsetWidth - 12);
      const below = box.bottom + 6 + why.offsetHeight < innerHeight;
      why.style.margin = "0";
      why.style.left = left + "px";
      why.style.top = Math.max(12, below ? box.bottom + 6 : box.top - 6 - why.offsetHeight) + "px";
    });
  }

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
