// Draws the explorer from the data beside it. What comes from the study reaches the page as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const count = data.keys.length;
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  function decoded(Kind, text) {
    const characters = atob(text);
    const bytes = new Uint8Array(characters.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
    return new Kind(bytes.buffer);
  }
  for (const label of data.labels) label.values = decoded(Float32Array, label.values);
  for (const tap of data.taps) {
    for (const map of tap.maps) map.points = decoded(Float32Array, map.points);
    tap.near = decoded(Uint32Array, tap.near);
    tap.distances = decoded(Float32Array, tap.distances);
    if (tap.ranks) tap.ranks = decoded(Float32Array, tap.ranks);
    if (tap.samples) {
      tap.samples.points = decoded(Uint32Array, tap.samples.points);
      tap.samples.of = new Map([...tap.samples.points].map((point, number) => [point, number]));
    }
  }
  const isPainted = new Uint8Array(count);
  for (const tap of data.taps) for (const point of tap.samples?.points ?? []) isPainted[point] = 1;
  const painted = [...isPainted.keys()].filter((i) => isPainted[i]);

  // Always the same order, in which no class lies above the others.
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1, state = 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }

  const now = { map: data.taps[0].maps[0].name, colour: -1, mode: "points", tool: "move", selected: null, number: 0, current: -1, hover: -1, guest: null };

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made && key !== "role") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== ""));
    return made;
  }
  const plain = (name) => name.replaceAll("_", " ");
  const short = (value) => Math.abs(value) >= 1000 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3).replace(/\.?0+$/, "");
  const whole = (value) => value.toLocaleString("en");
  const said = (label, i) => Number.isNaN(label.values[i]) ? "undefined" : label.kind === "class" ? label.classes[label.values[i]] : short(label.values[i]);
  const described = (i) => [data.names[i], ...data.labels.slice(0, 6).map((label) => `${plain(label.name)} ${said(label, i)}`)].join(", ");

  // Pictures. A sheet is decoded when the first of its pictures is shown.
  function sheet(sheets, number) {
    sheets.images ??= [];
    sheets.images[number] ??= (() => {
      const image = new Image();
      image.src = "data:image/webp;base64," + sheets.sheets[number];
      return { image, ready: false, loaded: image.decode().then(() => { sheets.images[number].ready = true; return image; }) };
    })();
    return sheets.images[number];
  }
  function corner(sheets, number) {
    const inside = number % sheets.each;
    return [(inside % sheets.columns) * sheets.side, Math.floor(inside / sheets.columns) * sheets.side];
  }
  function picture(sheets, number, words) {
    const canvas = element("canvas", { width: sheets.side, height: sheets.side, role: "img", "aria-label": words });
    sheet(sheets, Math.floor(number / sheets.each)).loaded.then((image) => {
      canvas.getContext("2d").drawImage(image, ...corner(sheets, number), sheets.side, sheets.side, 0, 0, sheets.side, sheets.side);
    });
    return canvas;
  }
  const thumbnail = (i, under = "") => element("button", { className: "picture", type: "button", title: described(i), onclick: () => choose(i) }, picture(data.pictures, i, described(i)), under);

  // Colours, as the numbers that a canvas holds: alpha, blue, green, red.
  const rgb = (r, g, b) => (0xff000000 | (b << 16) | (g << 8) | r) >>> 0;
  const hex = (text) => rgb(...[1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  const css = (colour) => `rgb(${colour & 255} ${(colour >> 8) & 255} ${(colour >> 16) & 255})`;
  const own = (name) => hex(getComputedStyle(root).getPropertyValue(name).trim());
  const isDark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  // Okabe and Ito's, some lighter or darker for the ground.
  const CLASSES = {
    light: ["#0072b2", "#e08a00", "#009e73", "#b8508c", "#3aa0dc", "#b3470a", "#6f6f12", "#5a4a9c"].map(hex),
    dark: ["#4aa8e0", "#f0a830", "#2fc29a", "#e08fc0", "#9ad4f5", "#f07a3c", "#d8d060", "#a99be8"].map(hex),
  };
  // Viridis, and a circle whose ends differ from its middle in lightness and whose sides are orange and blue.
  const RAMP = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"].map(hex);
  const CIRCLE = ["#2d3270", "#a34a2a", "#e89a3c", "#f3e3b3", "#7fbfe0", "#3f74b5", "#2d3270"].map(hex);
  function along(stops, share) {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const first = Math.min(Math.floor(at), stops.length - 2);
    return mixed(stops[first], stops[first + 1], at - first);
  }
  function mixed(a, b, share) {
    const part = (shift) => Math.round(((a >> shift) & 255) * (1 - share) + ((b >> shift) & 255) * share);
    return rgb(part(0), part(8), part(16));
  }
  function wheel(turns) {
    const part = (n) => {
      const k = (n + 12 * turns) % 12;
      return Math.round(255 * (0.55 - 0.36 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return rgb(part(0), part(8), part(4));
  }
  const ramp = (share) => along(RAMP, isDark() ? 0.16 + 0.84 * share : 0.94 * share);
  function range(values) {
    const sorted = values.filter((value) => !Number.isNaN(value)).sort();
    if (!sorted.length) return [0, 1];
    const low = sorted[Math.floor(0.01 * (sorted.length - 1))], high = sorted[Math.ceil(0.99 * (sorted.length - 1))];
    return low < high ? [low, high] : [low, low + 1];
  }
  const RANKS = -2;
  // What the maps are coloured by: a colour for each image, by tap, and what the legend needs.
  let scheme;
  function rescheme() {
    const unknown = mixed(own("--soft"), own("--paper"), 0.45);
    const label = data.labels[now.colour];
    const colours = new Uint32Array(count).fill(now.colour === -1 ? own("--accent") : unknown);
    scheme = { unknown, label, of: () => colours, paper: own("--paper"), ink: own("--ink"), faint: own("--faint"), accent: own("--accent") };
    if (now.colour === RANKS) {
      const top = Math.log(data.ranked);
      const found = new Map(data.taps.map((tap) => [tap, Uint32Array.from({ length: count }, (_, i) => tap.ranks && tap.ranks[i] >= 1 ? ramp(1 - Math.log(tap.ranks[i]) / top) : unknown)]));
      scheme.of = (tap) => found.get(tap);
      scheme.ends = [ramp, `rank ${whole(data.ranked)}`, "rank 1"];
    } else if (label?.kind === "class") {
      const palette = CLASSES[isDark() ? "dark" : "light"];
      const sizes = label.classes.map((_, c) => label.values.reduce((sum, value) => sum + (value === c), 0));
      const first = sizes.map((size, c) => [size, c]).sort((a, b) => b[0] - a[0]).slice(0, palette.length).map((entry) => entry[1]).sort((a, b) => a - b);
      scheme.classes = first.map((c, place) => ({ c, colour: palette[place], name: label.classes[c], size: sizes[c] }));
      scheme.others = label.classes.length - first.length;
      const table = new Map(scheme.classes.map((entry) => [entry.c, entry.colour]));
      for (let i = 0; i < count; i++) colours[i] = table.get(label.values[i]) ?? unknown;
    } else if (label) {
      const circle = label.kind === "circle";
      const [low, high] = circle ? [0, 1] : range(label.values);
      const colour = circle ? (/hue/i.test(label.name) ? wheel : (share) => along(CIRCLE, share)) : ramp;
      for (let i = 0; i < count; i++) if (!Number.isNaN(label.values[i])) colours[i] = colour(Math.min(Math.max((label.values[i] - low) / (high - low), 0), 1));
      scheme.ends = [colour, circle ? "0" : short(low), circle ? "1 turn" : short(high)];
    }
  }

  // A map: points are drawn into an array of pixels, which every browser shows quickly, with or without a GPU.
  const TAU = 2 * Math.PI;
  function stamp(radius) {
    const found = [], reach = Math.ceil(radius + 0.5);
    for (let y = -reach; y <= reach; y++) for (let x = -reach; x <= reach; x++) {
      const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      if (share > 0.02) found.push(x, y, Math.round(128 * share));
    }
    return found;
  }
  class Field {
    constructor(tap) {
      this.tap = tap;
      this.canvas = element("canvas", { "aria-hidden": "true" });
      this.over = element("canvas", { tabIndex: 0, role: "application", "aria-label": `Map of ${tap.id}: arrows move, plus and minus zoom, Enter takes the image in the middle`, "aria-describedby": "keys" });
      this.verdict = element("span", { className: "verdict" });
      this.caption = element("figcaption");
      this.figure = element("figure", { className: "map" },
        element("header", {}, element("h3", {}, tap.id), element("span", { className: "soft small" }, `${tap.width} numbers`), this.verdict),
        element("div", { className: "field" }, this.canvas, this.over), this.caption);
      this.context = this.canvas.getContext("2d");
      this.above = this.over.getContext("2d");
      this.path = null;
      this.setMap();
      this.listen();
      new ResizeObserver(() => this.resize()).observe(this.canvas);
    }
    setMap() {
      const map = this.tap.maps.find((one) => one.name === now.map) ?? this.tap.maps[0];
      this.caption.textContent = (map.name === now.map ? "" : `${map.name} alone. `) + map.about;
      const raw = map.points;
      let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
      for (let i = 0; i < count; i++) {
        left = Math.min(left, raw[2 * i]); right = Math.max(right, raw[2 * i]);
        bottom = Math.min(bottom, raw[2 * i + 1]); top = Math.max(top, raw[2 * i + 1]);
      }
      const extent = Math.max(right - left, top - bottom) || 1;
      this.x = new Float32Array(count); this.y = new Float32Array(count);
      for (let i = 0; i < count; i++) {
        this.x[i] = (raw[2 * i] - (left + right) / 2) / extent;
        this.y[i] = ((bottom + top) / 2 - raw[2 * i + 1]) / extent;
      }
      this.box = [(right - left) / extent, (top - bottom) / extent];
      this.reset();
    }
    reset() { this.zoom = 1; this.cx = 0; this.cy = 0; this.redraw(); }
    resize() {
      this.ratio = Math.min(devicePixelRatio || 1, 2);
      const { clientWidth, clientHeight } = this.canvas;
      if (!clientWidth) return;
      for (const canvas of [this.canvas, this.over]) { canvas.width = clientWidth * this.ratio; canvas.height = clientHeight * this.ratio; }
      this.pixels = this.context.createImageData(this.canvas.width, this.canvas.height);
      this.buffer = new Uint32Array(this.pixels.data.buffer);
      this.redraw();
    }
    get scale() { return 0.93 * this.zoom * Math.min(this.canvas.width / Math.max(this.box[0], 0.2), this.canvas.height / Math.max(this.box[1], 0.2)); }
    redraw() { if (!this.asked) { this.asked = true; requestAnimationFrame(() => { this.asked = false; this.draw(); }); } }
    retouch() { if (!this.touched) { this.touched = true; requestAnimationFrame(() => { this.touched = false; this.drawOver(); }); } }
    // Where an image is, in pixels of the canvas.
    at(i) { return [(this.x[i] - this.cx) * this.scale + this.canvas.width / 2, (this.y[i] - this.cy) * this.scale + this.canvas.height / 2]; }
    draw() {
      if (!this.buffer) return;
      const { buffer, x, y } = this, { width, height } = this.canvas;
      const scale = this.scale, left = width / 2 - this.cx * scale, top = height / 2 - this.cy * scale;
      const selected = now.selected, colours = scheme.of(this.tap);
      buffer.fill(scheme.paper);
      const radius = this.ratio * (count < 1500 ? 3 : count < 6000 ? 2.3 : 1.7) * Math.min(2, this.zoom ** 0.35);
      const dot = stamp(radius), edge = Math.ceil(radius + 4 * this.ratio);
      const put = (shape, px, py, colour) => {
        const redBlue = colour & 0xff00ff, green = colour & 0xff00;
        for (let s = 0; s < shape.length; s += 3) {
          const place = (py + shape[s + 1]) * width + px + shape[s], a = shape[s + 2];
          if (a === 128) { buffer[place] = colour; continue; }
          const under = buffer[place], rb = under & 0xff00ff, g = under & 0xff00;
          buffer[place] = 0xff000000 | ((rb + (((redBlue - rb) * a) >> 7)) & 0xff00ff) | ((g + (((green - g) * a) >> 7)) & 0xff00);
        }
      };
      const rings = [stamp(radius + 2 * this.ratio), stamp(radius + 1.1 * this.ratio)], ringed = mixed(scheme.ink, scheme.paper, 0.3);
      // Images that are not selected lie below the others, painted ones above.
      for (let pass = selected ? 0 : 1; pass < 3; pass++) {
        for (let n = 0; n < count; n++) {
          const i = order[n];
          const dim = selected !== null && !selected[i];
          if ((dim ? 0 : isPainted[i] ? 2 : 1) !== pass) continue;
          const px = Math.round(x[i] * scale + left), py = Math.round(y[i] * scale + top);
          if (px < edge || py < edge || px >= width - edge || py >= height - edge) continue;
          if (pass === 2) { put(rings[0], px, py, ringed); put(rings[1], px, py, scheme.paper); }
          put(dot, px, py, dim ? scheme.faint : colours[i]);
        }
      }
      this.context.putImageData(this.pixels, 0, 0);
      if (now.mode === "pictures") this.drawPictures(scale, left, top, colours);
      this.drawOver();
    }
    // At most one picture in each cell of a grid, so that none hides another; more of them appear on zooming in.
    drawPictures(scale, left, top, colours) {
      const side = Math.round(32 * this.ratio * Math.min(2, this.zoom ** 0.3)), border = 2 * this.ratio;
      const { width, height } = this.canvas, across = Math.ceil(width / side), taken = new Uint8Array(across * Math.ceil(height / side));
      const first = (i) => (now.selected === null || now.selected[i]) && isPainted[i], second = (i) => now.selected === null || now.selected[i];
      for (const wanted of [first, second]) for (let n = 0; n < count; n++) {
        const i = order[n];
        const px = this.x[i] * scale + left, py = this.y[i] * scale + top;
        if (px < 0 || py < 0 || px >= width || py >= height) continue;
        const cell = Math.floor(py / side) * across + Math.floor(px / side);
        if (taken[cell] || !wanted(i)) continue;
        const found = sheet(data.pictures, Math.floor(i / data.pictures.each));
        if (!found.ready) { found.loaded.then(() => this.redraw()); continue; }
        taken[cell] = 1;
        const x = Math.floor(px / side) * side, y = Math.floor(py / side) * side, large = side - 2;
        this.context.fillStyle = css(colours[i]);
        this.context.fillRect(x, y, large, large);
        this.context.drawImage(found.image, ...corner(data.pictures, i), data.pictures.side, data.pictures.side, x + border, y + border, large - 2 * border, large - 2 * border);
      }
    }
    drawOver() {
      const { above, ratio } = this;
      above.clearRect(0, 0, this.over.width, this.over.height);
      const ring = (i, size, colour, line) => {
        const [px, py] = this.at(i);
        above.lineWidth = (line + 2) * ratio; above.strokeStyle = css(scheme.paper);
        above.beginPath(); above.arc(px, py, size * ratio, 0, TAU); above.stroke();
        above.lineWidth = line * ratio; above.strokeStyle = css(colour); above.stroke();
      };
      if (now.current >= 0) {
        above.strokeStyle = css(scheme.ink); above.lineWidth = ratio; above.globalAlpha = 0.55;
        for (const i of near(this.tap, now.current)) { above.beginPath(); above.moveTo(...this.at(now.current)); above.lineTo(...this.at(i)); above.stroke(); }
        above.globalAlpha = 1;
        for (const i of near(this.tap, now.current)) ring(i, 5, scheme.ink, 1.4);
        ring(now.current, 9, scheme.accent, 3);
      }
      for (const i of now.guest?.[this.tap.id]?.near ?? []) ring(i, 6, scheme.accent, 2);
      if (now.hover >= 0) ring(now.hover, 7, scheme.accent, 2);
      if (this.path?.length > 1) {
        above.beginPath();
        for (const [px, py] of this.path) above.lineTo(px, py);
        above.closePath();
        above.fillStyle = css(scheme.accent); above.globalAlpha = 0.12; above.fill(); above.globalAlpha = 1;
        above.lineWidth = 1.5 * ratio; above.strokeStyle = css(scheme.accent); above.stroke();
      }
    }
    // The image nearest to a point of the canvas, within `reach` pixels of the screen; -1: none.
    hit(px, py, reach = 9) {
      const scale = this.scale, left = this.canvas.width / 2 - this.cx * scale, top = this.canvas.height / 2 - this.cy * scale;
      let best = -1, least = (reach * this.ratio) ** 2;
      for (let i = 0; i < count; i++) {
        const dx = this.x[i] * scale + left - px, dy = this.y[i] * scale + top - py, distance = dx * dx + dy * dy;
        if (distance < least && (now.selected === null || now.selected[i])) { best = i; least = distance; }
      }
      return best;
    }
    zoomBy(factor, px = this.canvas.width / 2, py = this.canvas.height / 2) {
      const before = this.scale;
      this.zoom = Math.min(200, Math.max(0.5, this.zoom * factor));
      const gain = 1 / before - 1 / this.scale;
      this.cx += (px - this.canvas.width / 2) * gain;
      this.cy += (py - this.canvas.height / 2) * gain;
      this.redraw();
    }
    moveBy(dx, dy) { this.cx -= dx / this.scale; this.cy -= dy / this.scale; this.redraw(); }
    listen() {
      const place = (event) => [event.offsetX * this.ratio, event.offsetY * this.ratio];
      let start = null, last = null, tool = null;
      this.over.addEventListener("pointerdown", (event) => {
        if (event.button !== 0) return;
        this.over.setPointerCapture(event.pointerId);
        start = last = place(event);
        tool = event.shiftKey ? "lasso" : now.tool;
        hover(-1);
      });
      this.over.addEventListener("pointermove", (event) => {
        const here = place(event);
        if (!start) { hover(this.hit(...here), event); return; }
        if (tool === "move") this.moveBy(here[0] - last[0], here[1] - last[1]);
        else {
          this.path = tool === "lasso" ? [...(this.path ?? [start]), here] : [start, [here[0], start[1]], here, [start[0], here[1]]];
          this.retouch();
        }
        last = here;
      });
      this.over.addEventListener("pointerup", (event) => {
        if (!start) return;
        const [px, py] = place(event);
        if (Math.hypot(px - start[0], py - start[1]) < 4 * this.ratio && !(this.path?.length > 4 && tool === "lasso")) {
          const found = this.hit(px, py);
          if (found >= 0) choose(found);
        } else if (this.path) select(this.inside(this.path));
        start = this.path = null;
        this.retouch();
      });
      this.over.addEventListener("pointercancel", () => { start = this.path = null; this.retouch(); });
      this.over.addEventListener("pointerleave", () => hover(-1));
      this.over.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-0.0015 * event.deltaY * (event.deltaMode ? 30 : 1)), ...place(event));
      }, { passive: false });
      this.over.addEventListener("dblclick", () => this.reset());
      this.over.addEventListener("keydown", (event) => {
        const step = 40 * this.ratio;
        const act = {
          ArrowLeft: () => this.moveBy(step, 0), ArrowRight: () => this.moveBy(-step, 0), ArrowUp: () => this.moveBy(0, step), ArrowDown: () => this.moveBy(0, -step),
          "+": () => this.zoomBy(1.3), "=": () => this.zoomBy(1.3), "-": () => this.zoomBy(1 / 1.3), 0: () => this.reset(),
          Enter: () => { const found = this.hit(this.canvas.width / 2, this.canvas.height / 2, Infinity); if (found >= 0) choose(found); },
          Escape: () => select(null),
        }[event.key];
        if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        act();
      });
    }
    // Images within a polygon, by the even-odd rule.
    inside(path) {
      const found = new Uint8Array(count);
      for (let i = 0; i < count; i++) {
        const [px, py] = this.at(i);
        let odd = false;
        for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
          const [ax, ay] = path[a], [bx, by] = path[b];
          if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) odd = !odd;
        }
        found[i] = odd;
      }
      return found;
    }
  }

  const near = (tap, i) => tap.near.subarray(i * tap.k, (i + 1) * tap.k);
  const fields = data.taps.map((tap) => new Field(tap));
  const redraw = () => { for (const field of fields) field.redraw(); };

  // What a person points at, on every map at once.
  const tip = element("div", { className: "tip", hidden: true });
  document.body.append(tip);
  function hover(i, event) {
    if (event && i >= 0) {
      tip.style.left = Math.min(event.clientX + 16, innerWidth - 340) + "px";
      tip.style.top = Math.min(event.clientY + 14, innerHeight - 100) + "px";
    }
    if (i === now.hover) return;
    now.hover = i;
    tip.hidden = i < 0;
    if (i >= 0) tip.replaceChildren(picture(data.pictures, i, data.names[i]), element("div", {}, element("strong", {}, data.names[i]), element("div", { className: "soft" }, scheme.label ? `${plain(scheme.label.name)}: ${said(scheme.label, i)}` : ""), element("div", { className: "soft" }, isPainted[i] ? "painted: press to see its samples" : "")));
    for (const field of fields) field.retouch();
  }

  // One image: neighbours at each tap, and samples where they are stored.
  function strip(tap, near, distances) {
    const pictures = [...near].map((i, rank) => thumbnail(i, distances[rank].toFixed(2)));
    return element("div", { className: "strip", style: `--across: ${tap.k}` }, ...pictures);
  }
  function samples(tap, i) {
    if (!tap.samples) return element("p", { className: "soft small" }, painted.length ? "No samples of this tap are stored." : "");
    const number = tap.samples.of.get(i);
    if (number === undefined) return "";
    const { perSource } = tap.samples;
    const rank = tap.ranks && tap.ranks[i] >= 1 ? `the image's rank by them: ${whole(Math.round(tap.ranks[i]))} of ${whole(data.ranked)}` : "";
    const pictures = Array.from({ length: perSource }, (_, k) => element("span", { className: "picture" }, picture(tap.samples, number * perSource + k, `Sample ${k + 1} of ${perSource}, painted from the vector of ${data.names[i]} at ${tap.id}`)));
    return element("div", {}, element("div", { className: "row-name" }, element("span", {}, "painted from its vector"), element("span", {}, rank)), element("div", { className: "strip", style: `--across: ${Math.max(perSource, 6)}` }, ...pictures));
  }
  function choose(i) {
    now.current = i;
    now.guest = null;
    const values = data.labels.flatMap((label) => [element("dt", {}, plain(label.name)), element("dd", {}, said(label, i))]);
    const others = isPainted[i] ? "" : painted.length ? `No samples of this image are stored. Those of ${whole(painted.length)} images are: they have a ring on the maps.` : "This study has no stored samples of its images as they are.";
    byId("image").replaceChildren(
      element("h2", {}, data.names[i]),
      element("div", { className: "shown" }, picture(data.pictures, i, described(i)), element("div", { className: "about" }, element("div", { className: "small soft" }, `key ${data.keys[i]}`), element("dl", { className: "values" }, ...values))),
      element("p", { className: "soft small" }, others),
      ...data.taps.map((tap) => element("div", { className: "tap-block" }, element("h3", {}, tap.id), isPainted[i] ? samples(tap, i) : "",
        element("div", { className: "row-name" }, element("span", {}, `${tap.k} nearest`), element("span", {}, "distance in random pairs")), strip(tap, near(tap, i), tap.distances.subarray(i * tap.k, (i + 1) * tap.k)))),
    );
    for (const field of fields) field.retouch();
  }

  // An image of the reader's own, where a server answers: its neighbours have a ring on the maps.
  async function visit(file) {
    const panel = byId("image");
    panel.replaceChildren(element("h2", {}, file.name), element("p", { className: "soft" }, "The study's encoders embed it …"));
    let found;
    try {
      const answer = await fetch("near", { method: "POST", body: file });
      found = await answer.json();
    } catch { found = { error: "The server does not answer. Is it still running?" }; }
    if (found.error) { panel.replaceChildren(element("h2", {}, file.name), element("p", { role: "alert" }, found.error)); return; }
    now.current = -1;
    now.guest = found;
    const reader = new FileReader();
    const shown = element("img", { alt: file.name });
    reader.addEventListener("load", () => { shown.src = reader.result; });
    reader.readAsDataURL(file);
    panel.replaceChildren(
      element("h2", {}, file.name), element("div", { className: "shown" }, shown),
      ...data.taps.map((tap) => element("div", { className: "tap-block" }, element("h3", {}, tap.id), found[tap.id].why ? element("p", { className: "soft small" }, found[tap.id].why)
        : element("div", {}, element("div", { className: "guest", "data-tap": tap.id }, element("p", { className: "soft small" }, "The decoder paints from its vector …")), element("div", { className: "row-name" }, element("span", {}, `${tap.k} nearest`), element("span", {}, "distance in random pairs")), strip(tap, found[tap.id].near, found[tap.id].distances)))),
    );
    for (const field of fields) field.retouch();
    paint(file, found);
  }

  // What the decoder paints from the vectors of that image, where the server can.
  async function paint(file, visited) {
    let found;
    try {
      const answer = await fetch("paint", { method: "POST", body: file });
      found = await answer.json();
    } catch { found = { error: "The server does not answer. Is it still running?" }; }
    if (now.guest !== visited) return;
    for (const place of all("#image .guest")) {
      const one = found[place.dataset.tap];
      if (!one) { place.replaceChildren(element("p", { className: "soft small" }, found.error ?? "The decoder was not trained with this tap.")); continue; }
      const pictures = one.samples.map((uri, k) => element("span", { className: "picture" }, element("img", { src: uri, alt: `Sample ${k + 1} of ${one.samples.length}, painted from the vector of ${file.name} at ${place.dataset.tap}` })));
      place.replaceChildren(
        element("div", { className: "row-name" }, element("span", {}, "painted from its vector"), element("span", {}, `distance ${one.distance.toFixed(2)}, the image's rank by them: ${whole(Math.round(one.rank))} of ${whole(one.among)}`)),
        element("div", { className: "strip", style: `--across: ${Math.max(one.samples.length, 6)}` }, ...pictures),
      );
    }
  }

  // A selection: the same on all maps. How much it holds together at a tap is the share of neighbours that are in it.
  function select(chosen) {
    const number = chosen ? chosen.reduce((sum, one) => sum + one, 0) : 0;
    now.selected = number ? chosen : null;
    now.number = number;
    for (const button of all(".classes button")) button.setAttribute("aria-pressed", "false");
    const panel = byId("selection");
    if (!number) panel.replaceChildren();
    else {
      const chosenOnes = [...order].filter((i) => chosen[i]);
      const together = data.taps.map((tap) => [tap.id, chosenOnes.reduce((sum, i) => sum + near(tap, i).reduce((inside, j) => inside + chosen[j], 0), 0) / (tap.k * number)]);
      const chance = (number - 1) / (count - 1);
      const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
      const shown = 40;
      const copied = element("button", { type: "button", onclick: async () => {
        const text = chosenOnes.map((i) => data.keys[i]).sort().join("\n");
        try { await navigator.clipboard.writeText(text); copied.textContent = "Copied"; } catch { copied.textContent = "The browser does not allow it"; }
      } }, "Copy keys");
      panel.replaceChildren(
        element("h2", {}, `${whole(number)} image${number === 1 ? "" : "s"} selected`),
        element("div", { className: "buttons" }, element("button", { type: "button", onclick: () => select(null) }, "End selection"), element("button", { type: "button", onclick: () => select(chosen.map((one) => 1 - one)) }, "All others"), copied),
        ...summary(chosenOnes),
        element("table", { className: "shares" }, element("caption", { className: "small soft", style: "text-align: left" }, `Of their ${data.taps[0].k} nearest, how many are selected too (by chance ${percent(chance)})`),
          element("tbody", {}, ...together.map(([id, share]) => element("tr", {}, element("th", { scope: "row" }, id), element("td", {}, percent(share)))))),
        element("div", { className: "strip many" }, ...chosenOnes.slice(0, shown).map((i) => thumbnail(i))),
        element("p", { className: "small soft" }, number > shown ? `${shown} of them, drawn at random.` : ""),
      );
    }
    redraw();
  }
  function summary(chosen) {
    const { label } = scheme;
    if (!label) return [];
    if (label.kind !== "class") {
      const found = chosen.map((i) => label.values[i]).filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
      if (label.kind === "circle" && found.length) {
        const [x, y] = [Math.cos, Math.sin].map((part) => found.reduce((sum, value) => sum + part(TAU * value), 0) / found.length);
        const mean = (Math.atan2(y, x) / TAU + 1) % 1;
        return [element("p", { className: "small" }, `${plain(label.name)}: mean direction ${short(mean)} turn, concentration ${Math.hypot(x, y).toFixed(2)} (1: all alike, 0: all around)`)];
      }
      const at = (share) => short(found[Math.round(share * (found.length - 1))]);
      return [element("p", { className: "small" }, found.length ? `${plain(label.name)}: half lie between ${at(0.25)} and ${at(0.75)}, from ${at(0)} to ${at(1)}` : `${plain(label.name)}: undefined`)];
    }
    const rows = scheme.classes.map((entry) => [entry, chosen.filter((i) => label.values[i] === entry.c).length]).filter((row) => row[1]).sort((a, b) => b[1] - a[1]);
    return [element("table", { className: "shares" }, element("caption", { className: "small soft", style: "text-align: left" }, `${plain(label.name)}: selected, of all`), element("tbody", {}, ...rows.map(([entry, size]) => element("tr", {}, element("th", { scope: "row" }, entry.name), element("td", {}, whole(size)), element("td", {}, whole(entry.size))))))];
  }

  function legend() {
    const { label } = scheme;
    const parts = [];
    if (scheme.classes) {
      const buttons = scheme.classes.map((entry) => {
        const button = element("button", { type: "button", "aria-pressed": "false", onclick: () => {
          const off = button.getAttribute("aria-pressed") === "true";
          select(off ? null : Uint8Array.from(label.values, (value) => value === entry.c ? 1 : 0));
          button.setAttribute("aria-pressed", String(!off));
        } }, element("span", { className: "swatch", style: `background: ${css(entry.colour)}` }), entry.name, element("span", { className: "soft" }, whole(entry.size)));
        return element("li", {}, button);
      });
      parts.push(element("ul", { className: "classes", "aria-label": "Classes. Press one to select its images." }, ...buttons));
      if (scheme.others) parts.push(element("span", { className: "soft" }, `${scheme.others} rarer classes are grey`));
    } else if (scheme.ends) {
      const [colour, low, high] = scheme.ends;
      const bar = element("canvas", { className: "ramp", width: 90, height: 1, role: "img", "aria-label": `Colours from ${low} to ${high}` });
      const context = bar.getContext("2d");
      for (let x = 0; x < 90; x++) { context.fillStyle = css(colour(x / 89)); context.fillRect(x, 0, 1, 1); }
      parts.push(low, bar, high);
      if (colour === wheel) parts.push(element("span", { className: "soft" }, "each in its own hue"));
      if (now.colour === RANKS) parts.push(element("span", { className: "soft" }, `Rank of an image among ${whole(data.ranked)} by distance to its own samples (faithfulness); images without samples are grey.`));
    }
    if (label && label.values.some(Number.isNaN)) parts.push(element("span", { className: "soft" }, "grey: undefined"));
    if (painted.length) parts.push(element("span", { className: "soft" }, `ring: its samples are stored (${whole(painted.length)} images)`));
    byId("legend").replaceChildren(...parts);
    byId("maps").classList.toggle("judged", data.taps.some((tap) => label && tap.kept[label.name]));
    const MARKS = { kept: "●", partly: "◐", lost: "○", "decoder limit": "▣", "cannot tell": "?" };
    for (const field of fields) {
      const kept = label && field.tap.kept[label.name];
      field.verdict.textContent = kept ? `${MARKS[kept.verdict] ?? ""} ${plain(label.name)}: ${kept.verdict}` + (kept.value === null ? "" : ` ${kept.value.toFixed(2)}`) + (kept.low === null ? "" : ` (${kept.low.toFixed(2)} to ${kept.high.toFixed(2)})`) : "";
      field.verdict.className = "verdict" + (kept ? ` v-${kept.verdict.replaceAll(" ", "-")}` : "");
      field.verdict.title = kept?.why ?? "";
    }
  }
  function recolour() { rescheme(); legend(); redraw(); if (now.selected) select(now.selected); }

  // Controls.
  const option = (value, text) => element("option", { value }, text);
  byId("facts").append(...data.facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("notes").append(...data.notes.map((note) => element("li", {}, note)));
  byId("map").replaceChildren(...[...new Set(data.taps.flatMap((tap) => tap.maps.map((map) => map.name)))].map((name) => option(name, name)));
  byId("map").addEventListener("change", (event) => { now.map = event.target.value; for (const field of fields) field.setMap(); });
  byId("colour").append(option(-1, "one colour"));
  if (data.labels.length) byId("colour").append(element("optgroup", { label: "labels" }, ...data.labels.map((label, number) => {
    const verdicts = data.taps.map((tap) => tap.kept[label.name]?.verdict).filter(Boolean);
    return option(number, plain(label.name) + (verdicts.length ? ` (kept at ${verdicts.filter((verdict) => verdict === "kept").length} of ${verdicts.length} tap${verdicts.length === 1 ? "" : "s"})` : ""));
  })));
  if (data.ranked) byId("colour").append(element("optgroup", { label: "what is painted" }, option(RANKS, "rank of the image by its samples")));
  byId("colour").addEventListener("change", (event) => { now.colour = Number(event.target.value); recolour(); });
  byId("mode").addEventListener("change", (event) => { now.mode = event.target.value; redraw(); });
  const tools = all("[data-tool]");
  const take = (button) => {
    now.tool = button.dataset.tool;
    for (const other of tools) { other.setAttribute("aria-checked", String(other === button)); other.tabIndex = other === button ? 0 : -1; }
    byId("maps").classList.toggle("selecting", now.tool !== "move");
  };
  take(tools[0]);
  for (const [place, button] of tools.entries()) {
    button.addEventListener("click", () => take(button));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const other = tools[(place + step + tools.length) % tools.length];
      take(other);
      other.focus();
    });
  }
  byId("in").addEventListener("click", () => { for (const field of fields) field.zoomBy(1.4); });
  byId("out").addEventListener("click", () => { for (const field of fields) field.zoomBy(1 / 1.4); });
  byId("whole").addEventListener("click", () => { for (const field of fields) field.reset(); });
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("sought"), sought = field.value.trim();
    if (!sought) return;
    const exact = data.keys.indexOf(sought);
    const found = exact >= 0 ? exact : data.names.findIndex((name) => name.toLowerCase().includes(sought.toLowerCase()));
    field.setCustomValidity(found < 0 ? "No image on this page has that key, or that in its name." : "");
    field.reportValidity();
    if (found >= 0) choose(found);
  });
  byId("sought").addEventListener("input", (event) => event.target.setCustomValidity(""));
  byId("upload").hidden = !data.served;
  byId("file").addEventListener("change", (event) => { if (event.target.files.length) visit(event.target.files[0]); });
  byId("painted").hidden = !painted.length;
  const go = (step) => { const place = painted.indexOf(now.current); choose(painted[(place + step + painted.length) % painted.length]); };
  byId("before").addEventListener("click", () => go(painted.includes(now.current) ? -1 : 0));
  byId("next").addEventListener("click", () => go(1));
  byId("taps").append(...(fields.length > 1 ? fields.map((field) => {
    const button = element("button", { type: "button", className: "tap", "aria-pressed": "true", onclick: () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      field.figure.hidden = !shown;
      fit();
    } }, field.tap.id);
    return element("li", {}, button);
  }) : []));
  function fit() {
    const shown = fields.filter((field) => !field.figure.hidden).length;
    byId("maps").style.setProperty("--height", shown <= 2 ? "min(620px, 72vh, 96vw)" : "min(340px, 42vh, 96vw)");
    byId("maps").style.setProperty("--least", shown > 2 ? "300px" : shown === 1 ? "600px" : "360px");
  }
  byId("maps").append(...fields.map((field) => field.figure));
  fit();

  const theme = document.querySelector(".theme");
  const name = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); recolour(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { name(); recolour(); });
  name();

  // Begins with a label, the class that is kept at most taps, and an image with samples, so that there is something to see.
  const keptAt = (label) => data.taps.filter((tap) => tap.kept[label.name]?.verdict === "kept").length;
  const classes = data.labels.filter((label) => label.kind === "class").sort((a, b) => keptAt(b) - keptAt(a));
  now.colour = data.labels.indexOf(classes[0] ?? data.labels[0]);
  byId("colour").value = String(now.colour);
  document.querySelector("main").hidden = false;
  rescheme();
  legend();
  choose(painted[0] ?? order[0]);
})();
