// Words to click, maps over frames, a slider over time: the same in a notebook (anywidget) and in a page of its own.
// `data`: frames (addresses), width, height (of the picture, pixels), times (seconds), tokens, colours (256 × 3 numbers), and
// maps: [{name, grid, view, measure, values}], values a Float32Array of tokens × frames × rows × columns, raw evidence.

const STYLE = `
.cgs{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:100%;box-sizing:border-box;padding:.4rem;user-select:none}
.cgs *{box-sizing:border-box}
.cgs .words{display:flex;flex-wrap:wrap;gap:.15rem;margin:0 0 .5rem;touch-action:none}
.cgs .words span{padding:.1rem .35rem;border-radius:.3rem;cursor:pointer;border:1px solid transparent}
.cgs .words span:hover{border-color:#0072b2}
.cgs .words span:focus-visible{outline:2px solid #0072b2}
.cgs .words span[aria-selected=true]{background:#0072b2;color:#fff}
.cgs .words span.silent{color:#8a8a8a}
.cgs .hint{font-size:.75rem;color:#6a6a6a;margin:-.3rem 0 .4rem}
.cgs .maps{display:flex;flex-wrap:wrap;gap:.6rem}
.cgs figure{margin:0;flex:1 1 14rem;max-width:30rem;min-width:0}
.cgs figure canvas{width:100%;height:auto;display:block;border-radius:.2rem}
.cgs figcaption{font-size:.85rem;color:#444;overflow-wrap:anywhere}
.cgs .bars{height:2.2rem!important;margin-top:.2rem;cursor:pointer}
.cgs .time{display:flex;gap:.5rem;align-items:center;margin-top:.4rem;max-width:61rem}
.cgs .time input{flex:1;min-width:0}
.cgs .time output{min-width:9.5rem;font-variant-numeric:tabular-nums}
.cgs button{font:inherit;min-width:2.4rem;cursor:pointer}
`;
const STRENGTH = 0.6, STRENGTH_OF_FILMS = 0.8, VEIL = 0.6, VEIL_OF_FILMS = 0.4;   // as show.overlay and show.film have them

// Evidence of a phrase, scaled to [0, 1] over all frames and cells; words without a say are left out (cgvs, Eq. 8 and 9).
export function merged(map, tokens, frames, start, stop) {
  const size = map.values.length / tokens, total = new Float64Array(size);
  const spans = [];
  for (let word = start; word < stop; word++) {
    const own = map.values.subarray(word * size, (word + 1) * size);
    if (own.some(value => value !== own[0])) spans.push(own);
  }
  for (const own of spans) for (let k = 0; k < size; k++) total[k] += own[k];
  if (map.from_zero) for (let k = 0; k < size; k++) total[k] = Math.max(total[k], 0);
  let low = Infinity, high = -Infinity, best = 0;
  for (let k = 0; k < size; k++) { if (total[k] < low) low = total[k]; if (total[k] > high) { high = total[k]; best = k; } }
  const unit = new Float64Array(size), weights = new Float64Array(frames), cells = size / frames;
  if (high > low) for (let k = 0; k < size; k++) unit[k] = (total[k] - low) / (high - low);
  const shares = map.measure ? total : unit;
  let sum = 0;
  for (let k = 0; k < size; k++) { weights[Math.floor(k / cells)] += shares[k]; sum += shares[k]; }
  for (let t = 0; t < frames; t++) weights[t] = sum > 0 ? weights[t] / sum : 1 / frames;
  return { unit, weights, speaks: high > low, frame: Math.floor(best / cells), cell: best % cells, cells };
}

// For each pixel of one side of the canvas: the cell before it, how far it is to the next, and whether the view shows it.
function side(pixels, picture, from, extent, input, first, step, cells) {
  const before = new Int32Array(pixels), share = new Float64Array(pixels), seen = new Uint8Array(pixels);
  for (let k = 0; k < pixels; k++) {
    const at = ((k + 0.5) * picture / pixels - from) * input / extent;
    const place = Math.min(Math.max((at - first) / step, 0), cells - 1);
    before[k] = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    share[k] = cells > 1 ? place - before[k] : 0;
    seen[k] = at >= 0 && at < input;
  }
  return { before, share, seen };
}

// The map of one frame at each pixel of the canvas, linear between the centres of the cells.
export function heat(map, unit, frame, width, height, picture) {
  const { grid, view } = map, { rows, columns } = grid, from = frame * rows * columns;
  const x = side(width, picture.width, view.left, view.width, view.input_width, grid.left, grid.across, columns);
  const y = side(height, picture.height, view.top, view.height, view.input_height, grid.top, grid.down, rows);
  const values = new Float64Array(width * height);
  for (let j = 0; j < height; j++) {
    if (!y.seen[j]) continue;
    const upper = from + y.before[j] * columns, lower = rows > 1 ? upper + columns : upper;
    for (let i = 0; i < width; i++) {
      if (!x.seen[i]) continue;
      const left = x.before[i], right = columns > 1 ? left + 1 : left;
      const top = unit[upper + left] * (1 - x.share[i]) + unit[upper + right] * x.share[i];
      const low = unit[lower + left] * (1 - x.share[i]) + unit[lower + right] * x.share[i];
      values[j * width + i] = top * (1 - y.share[j]) + low * y.share[j];
    }
  }
  return values;
}

function star(pen, x, y, radius) {
  pen.beginPath();
  for (let k = 0; k < 10; k++) {
    const reach = k % 2 ? 0.4 * radius : radius;
    pen.lineTo(x + reach * Math.sin(k * Math.PI / 5), y - reach * Math.cos(k * Math.PI / 5));
  }
  pen.closePath();
  pen.fillStyle = "#fff"; pen.strokeStyle = "#000"; pen.lineWidth = Math.max(radius / 8, 1);
  pen.fill(); pen.stroke();
}

const loaded = address => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => failed(new Error("a frame cannot be read"));
  image.src = address;
});

// Draws into `root`; `changed` hears of the chosen words and the frame. Gives functions to choose words, a frame, and to stop.
export async function player(root, data, changed = () => {}) {
  const images = await Promise.all(data.frames.map(loaded));
  const total = data.times.length, film = total > 1, width = images[0].width, height = images[0].height;
  const state = { start: 0, stop: 1, frame: 0, timer: null, from: null };
  root.replaceChildren();
  root.classList.add("cgs");
  const made = (tag, parent, about = {}) => parent.appendChild(Object.assign(document.createElement(tag), about));
  made("style", root, { textContent: STYLE });

  const line = made("div", root, { className: "words" });
  line.setAttribute("role", "listbox"); line.setAttribute("aria-label", "words of the sentence"); line.setAttribute("aria-multiselectable", "true");
  const words = data.tokens.map((token, k) => {
    const word = made("span", line, { textContent: token, tabIndex: k ? -1 : 0 });
    word.setAttribute("role", "option"); word.dataset.word = k;
    return word;
  });
  made("div", root, { className: "hint", textContent: "click a word, drag over several; hold a map to see the picture" });
  const shown = made("div", root, { className: "maps" });
  const panels = data.maps.map(map => {
    const figure = made("figure", shown), canvas = made("canvas", figure, { width, height });
    const bars = film ? made("canvas", figure, { className: "bars", width: Math.max(total * 12, 240), height: 44 }) : null;
    return { map, canvas, bars, text: made("figcaption", figure), found: null };
  });
  for (const panel of panels) {      // the picture itself, while the button is down
    panel.canvas.title = "hold to see the picture without the map";
    panel.canvas.addEventListener("pointerdown", () => panel.canvas.getContext("2d").drawImage(images[state.frame], 0, 0));
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) panel.canvas.addEventListener(end, () => draw(panel));
  }
  const greys = new Map();
  function grey(frame) {       // as PIL makes a picture grey
    if (!greys.has(frame)) {
      const canvas = Object.assign(document.createElement("canvas"), { width, height }), pen = canvas.getContext("2d", { willReadFrequently: true });
      pen.drawImage(images[frame], 0, 0);
      const seen = pen.getImageData(0, 0, width, height).data, own = new Uint8Array(width * height);
      for (let k = 0; k < own.length; k++) own[k] = (seen[4 * k] * 19595 + seen[4 * k + 1] * 38470 + seen[4 * k + 2] * 7471 + 0x8000) >> 16;
      greys.set(frame, own);
    }
    return greys.get(frame);
  }

  function draw(panel) {
    const { map, canvas, found } = panel, pen = canvas.getContext("2d"), picture = { width: data.width, height: data.height };
    if (found.cells > 1) {
      const values = heat(map, found.unit, state.frame, width, height, picture), under = grey(state.frame), colours = data.colours, page = pen.createImageData(width, height);
      const [strength, veil] = film ? [STRENGTH_OF_FILMS, VEIL_OF_FILMS] : [STRENGTH, VEIL];
      for (let k = 0; k < values.length; k++) {
        const share = veil + (strength - veil) * values[k], of = 3 * Math.min(Math.floor(values[k] * 256), 255);
        for (let c = 0; c < 3; c++) page.data[4 * k + c] = Math.round((1 - share) * under[k] + share * colours[of + c]);
        page.data[4 * k + 3] = 255;
      }
      pen.putImageData(page, 0, 0);
      if (found.speaks && found.frame === state.frame) {
        const { grid, view } = map, row = Math.floor(found.cell / grid.columns), column = found.cell % grid.columns;
        star(pen, ((grid.left + column * grid.across) * view.width / view.input_width + view.left) * width / data.width,
          ((grid.top + row * grid.down) * view.height / view.input_height + view.top) * height / data.height, Math.max(width, height) / 30);
      }
    } else pen.drawImage(images[state.frame], 0, 0);
    const phrase = data.tokens.slice(state.start, state.stop).join(" ");
    panel.text.textContent = `${map.name}: “${phrase}”${found.speaks ? (film ? `, strongest at ${data.times[found.frame].toFixed(1)} s` : "") : " says nothing here: all cells are equal"}`;
    if (!panel.bars) return;
    const chart = panel.bars.getContext("2d"), step = panel.bars.width / total, top = Math.max(...found.weights);
    chart.clearRect(0, 0, panel.bars.width, panel.bars.height);
    found.weights.forEach((weight, t) => {
      if (t === state.frame) { chart.fillStyle = "#f6e3b8"; chart.fillRect(t * step, 0, step, panel.bars.height); }
      chart.fillStyle = t === state.frame ? "#d08a00" : "#8c8c8c";
      const tall = top > 0 ? weight / top * (panel.bars.height - 4) : 0;
      chart.fillRect(t * step + 0.08 * step, panel.bars.height - tall, 0.84 * step, tall);
    });
  }

  function show(anew) {
    const began = performance.now();
    for (const panel of panels) {
      if (anew) panel.found = merged(panel.map, data.tokens.length, total, state.start, state.stop);
      draw(panel);
    }
    words.forEach((word, k) => word.setAttribute("aria-selected", k >= state.start && k < state.stop));
    if (film) { slider.value = state.frame; clock.textContent = `${data.times[state.frame].toFixed(2)} s, frame ${state.frame + 1} of ${total}`; }
    root.dataset.chosen = `${state.start}:${state.stop}`; root.dataset.frame = state.frame; root.dataset.milliseconds = performance.now() - began;
  }
  function choose(start, stop, tell = true) {
    start = Math.max(0, Math.min(start, data.tokens.length - 1)); stop = Math.max(start + 1, Math.min(stop, data.tokens.length));
    state.start = start; state.stop = stop;
    show(true);
    if (tell) changed({ chosen: [start, stop] });
  }
  function seek(frame, tell = true) {
    state.frame = Math.max(0, Math.min(frame, total - 1));
    show(false);
    if (tell) changed({ frame: state.frame });
  }

  // a click chooses a word, a drag a phrase; with the keyboard: arrows, and Shift to take more words
  const under = event => document.elementFromPoint(event.clientX, event.clientY)?.closest?.("[data-word]") ?? root.getRootNode().elementFromPoint?.(event.clientX, event.clientY)?.closest?.("[data-word]");
  line.addEventListener("pointerdown", event => {
    const word = event.target.closest("[data-word]");
    if (!word) return;
    state.from = event.shiftKey ? state.start : Number(word.dataset.word);
    line.setPointerCapture(event.pointerId);
    choose(Math.min(state.from, Number(word.dataset.word)), Math.max(state.from, Number(word.dataset.word)) + 1);
    word.focus({ preventScroll: true });
  });
  line.addEventListener("pointermove", event => {
    if (state.from === null) return;
    const word = under(event);
    if (!word || !line.contains(word)) return;
    const to = Number(word.dataset.word), start = Math.min(state.from, to), stop = Math.max(state.from, to) + 1;
    if (start !== state.start || stop !== state.stop) choose(start, stop);
  });
  for (const end of ["pointerup", "pointercancel"]) line.addEventListener(end, () => { state.from = null; });
  line.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault(); event.stopPropagation();
    if (event.shiftKey) choose(state.start, state.stop + step);
    else { choose(state.start + step, state.start + step + 1); words[state.start].focus(); }
  });

  let slider, clock, button;
  function rest() { clearInterval(state.timer); state.timer = null; if (button) { button.textContent = "▶"; button.setAttribute("aria-label", "play"); } }
  if (film) {
    const time = made("div", root, { className: "time" });
    button = made("button", time, { type: "button", textContent: "▶" });
    button.setAttribute("aria-label", "play");
    slider = made("input", time, { type: "range", min: 0, max: total - 1, step: 1, value: 0 });
    slider.setAttribute("aria-label", "frame");
    clock = made("output", time);
    slider.addEventListener("input", () => { rest(); seek(Number(slider.value)); });
    button.addEventListener("click", () => {
      if (state.timer) { rest(); return; }
      button.textContent = "❚❚"; button.setAttribute("aria-label", "pause");
      const wait = Math.min(Math.max(1000 * (data.times[total - 1] - data.times[0]) / (total - 1), 80), 500);
      state.timer = setInterval(() => root.isConnected ? seek((state.frame + 1) % total) : rest(), wait);
    });
    for (const panel of panels) panel.bars.addEventListener("click", event => { rest(); seek(Math.floor(event.offsetX / panel.bars.clientWidth * total)); });
  }
  choose(...(data.chosen ?? [0, 1]), false);
  if (data.frame) seek(data.frame, false);
  return { choose: (start, stop) => choose(start, stop, false), seek: frame => seek(frame, false), stop: rest };
}

// What a page of its own holds: frames as data addresses, values as base64.
export function unpacked(data) {
  return { ...data, maps: data.maps.map(map => ({ ...map, values: new Float32Array(Uint8Array.from(atob(map.values), letter => letter.charCodeAt(0)).buffer) })) };
}

// What anywidget calls: Python's traits are `shown` (all but bytes), `pictures` and `numbers` (bytes), `chosen` and `frame`.
function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  let own = null, addresses = [], latest = 0;
  const bytes = part => new Uint8Array(part.buffer ?? part, part.byteOffset ?? 0, part.byteLength);
  async function begin() {
    const shown = model.get("shown"), turn = ++latest;
    own?.stop(); addresses.forEach(address => URL.revokeObjectURL(address));
    own = null; addresses = [];
    if (!shown?.maps?.length) { root.replaceChildren(); return; }
    addresses = model.get("pictures").map(part => URL.createObjectURL(new Blob([bytes(part)], { type: "image/jpeg" })));
    const numbers = model.get("numbers");
    const maps = shown.maps.map((map, k) => ({ ...map, values: new Float32Array(bytes(numbers[k]).slice().buffer) }));
    const began = await player(root, { ...shown, maps, frames: addresses, chosen: model.get("chosen"), frame: model.get("frame") },
      change => { for (const [name, value] of Object.entries(change)) model.set(name, value); model.save_changes(); });
    if (turn === latest) own = began; else began.stop();
  }
  model.on("change:shown", begin);
  model.on("change:chosen", () => own?.choose(...model.get("chosen")));
  model.on("change:frame", () => own?.seek(model.get("frame")));
  begin();
  return () => { own?.stop(); addresses.forEach(address => URL.revokeObjectURL(address)); };
}

export default { render };
