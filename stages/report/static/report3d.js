"use strict";
// The 3D part of a page: one viewer, moved to the query that is looked at. What the page holds is
// described in cloud3d.py; viewer3d is the bundle of web/viewer3d.js.
{
  const element = (id) => document.getElementById(id);
  const panel = element("viewer");
  const canvas = panel.querySelector("canvas");
  const state = element("viewer-state");
  const captions = element("viewer-captions");
  const legend = element("viewer-legend");
  const buttons = element("viewer-modes");
  const { modes, start } = JSON.parse(element("modes").textContent);
  const clouds = new Map();
  const STEP = Math.PI / 18;
  const TINT = 0.85;
  let mode = modes.find((one) => one.name === start);
  let viewer = null;
  let shown = null;
  let asked = 0;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  async function readCloud(name) {
    const held = element(name);
    const count = Number(held.dataset.count);
    const step = Number(held.dataset.step);
    const origin = held.dataset.origin.split(" ").map(Number);
    const content = new DataView(await unpack(held.textContent));
    const positions = new Float32Array(3 * count);
    for (let axis = 0; axis < 3; axis++)
      for (let i = 0; i < count; i++)
        positions[3 * i + axis] =
          origin[axis] + step * content.getInt16(2 * (axis * count + i), true);
    return {
      count,
      of: Number(held.dataset.of),
      spacing: Number(held.dataset.spacing),
      positions,
      colors: new Uint8Array(content.buffer, 6 * count, 3 * count),
      normals: new Int8Array(content.buffer, 9 * count, 3 * count),
    };
  }

  // A cloud is kept as a promise, so that two queries of one scan unpack it once.
  function cloudOf(name) {
    if (!clouds.has(name)) clouds.set(name, readCloud(name));
    return clouds.get(name);
  }

  function color(key) {
    const text = getComputedStyle(document.documentElement).getPropertyValue("--" + key).trim();
    return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  }

  // The scan's colours with one mask, or two set against each other; and how many are marked.
  function colored({ cloud, bits }, [first, second]) {
    const key = { both: color("both"), only: color("only"), missed: color("missed") };
    const mask = color("mask");
    const out = new Uint8Array(3 * cloud.count);
    let marked = 0;
    for (let i = 0; i < cloud.count; i++) {
      const red = cloud.colors[3 * i];
      const green = cloud.colors[3 * i + 1];
      const blue = cloud.colors[3 * i + 2];
      const one = first >= 0 && (bits[i] >> first) & 1;
      const two = second >= 0 && (bits[i] >> second) & 1;
      let tint = null;
      if (second < 0) tint = one ? mask : null;
      else if (one) tint = two ? key.both : key.only;
      else if (two) tint = key.missed;
      const gray = 0.299 * red + 0.587 * green + 0.114 * blue;
      [red, green, blue].forEach((value, k) => {
        const pale = first < 0 ? value : 0.22 * value + 0.45 * gray + 0.33 * 255;
        out[3 * i + k] = tint ? (1 - TINT) * pale + TINT * tint[k] : pale;
      });
      marked += tint ? 1 : 0;
    }
    return { out, marked };
  }

  function paint() {
    if (!shown) return;
    const { cloud } = shown;
    const halves = mode.halves.map((layers) => colored(shown, layers));
    viewer.paint(...halves.map((half) => half.out));
    const part = cloud.count < cloud.of ? `${cloud.count} of ${cloud.of} points shown. ` : "";
    const isEmpty = mode.halves[0][0] >= 0 && !halves.some((half) => half.marked);
    state.textContent = part + (isEmpty ? "Nothing is marked: the mask is empty." : "");
    captions.replaceChildren(
      ...mode.captions.map((text) => {
        const caption = document.createElement("span");
        caption.textContent = text;
        return caption;
      }),
    );
  }

  function choose(next) {
    const isOther = mode.halves.length !== next.halves.length;
    mode = next;
    for (const button of buttons.children)
      button.setAttribute("aria-pressed", String(button.dataset.mode === mode.name));
    legend.replaceChildren(
      ...mode.legend.map(([key, text]) => {
        const line = document.createElement("li");
        const swatch = document.createElement("span");
        swatch.className = "key " + key;
        line.append(swatch, text);
        return line;
      }),
    );
    paint();
    if (isOther) lookBack();  // The scan has another room to fit in.
  }

  function lookBack() {
    if (shown) viewer.look(shown.outward);
  }

  function fail(told) {
    panel.remove();
    element("cards").classList.add("flat");
    element("no-3d").textContent = told;
    element("no-3d").hidden = false;
  }

  async function open(card) {
    const place = card.querySelector(".scene3d");
    if (!place || place.contains(panel)) return;
    const turn = ++asked;
    for (const other of document.querySelectorAll("article.open")) other.classList.remove("open");
    card.classList.add("open");
    place.append(panel);
    panel.hidden = false;
    shown = null;
    state.textContent = "Unpacking …";
    const cloud = await cloudOf(place.dataset.cloud);
    const bits = new Uint8Array(await unpack(card.querySelector("script.mask").textContent));
    if (turn !== asked) return;
    shown = { cloud, bits, outward: place.dataset.outward.split(" ").map(Number) };
    viewer.show(cloud);
    choose(mode);
    lookBack();
  }

  function cardOf(hash) {
    const found = hash ? element(hash.slice(1)) : null;
    return found && found.matches("article") ? found : null;
  }

  function openLinked() {
    const card = cardOf(location.hash);
    if (card) open(card).then(() => card.scrollIntoView({ block: "start" }));
  }

  const KEYS = {
    ArrowLeft: () => viewer.turn(STEP, 0),
    ArrowRight: () => viewer.turn(-STEP, 0),
    ArrowUp: () => viewer.turn(0, STEP),
    ArrowDown: () => viewer.turn(0, -STEP),
    "+": () => viewer.zoom(1.25),
    "=": () => viewer.zoom(1.25),
    "-": () => viewer.zoom(0.8),
    0: lookBack,
  };

  function listen() {
    canvas.addEventListener("keydown", (event) => {
      if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      KEYS[event.key]();
    });
    // Until the canvas is clicked, the wheel and fingers scroll the page past it.
    viewer.grab(false);
    canvas.addEventListener("focus", () => viewer.grab(true));
    canvas.addEventListener("blur", () => viewer.grab(false));
    canvas.addEventListener("pointerdown", () => canvas.focus({ preventScroll: true }));
    for (const button of panel.querySelectorAll("[data-turn]")) {
      const [left, up] = button.dataset.turn.split(" ").map(Number);
      button.addEventListener("click", () => viewer.turn(left * STEP, up * STEP));
    }
    for (const button of panel.querySelectorAll("[data-zoom]"))
      button.addEventListener("click", () => viewer.zoom(Number(button.dataset.zoom)));
    panel.querySelector("[data-back]").addEventListener("click", lookBack);
    const walls = element("viewer-open");
    walls.addEventListener("change", () => viewer.openUp(walls.checked));
    addEventListener("hashchange", openLinked);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#q']");
      if (link && link.hash === location.hash) openLinked();
    });
  }

  function begin() {
    for (const one of modes) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.mode = one.name;
      button.textContent = one.label;
      button.addEventListener("click", () => choose(one));
      buttons.append(button);
    }
    for (const link of document.querySelectorAll(".enlarge")) link.textContent = "Look in 3D";
    listen();
    if (cardOf(location.hash)) return openLinked();
    // Whoever reads as far as the pictures finds the first of them in 3D.
    const near = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        near.disconnect();
        const first = document.querySelector("#cards > article:not([hidden])");
        if (first && !asked) open(first);
      },
      { rootMargin: "100px" },
    );
    near.observe(element("cards"));
  }

  if (typeof DecompressionStream === "undefined") {
    fail("This browser is too old for the 3D view, so pictures stand in for it.");
  } else {
    viewer = viewer3d.createViewer(canvas);
    if (viewer) begin();
    else fail("This browser shows no WebGL, so pictures stand in for the 3D view.");
  }
}
