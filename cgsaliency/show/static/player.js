// Words to click, maps over frames, a slider over time: the same in a notebook (anywidget) and in an HTML page.
// `data` has: frames (addresses of images), width and height (of the image, pixels), times (seconds), tokens, colors
// (256 × 3 numbers from 0 to 255), and maps: [{name, grid, view, is_density, signed, values}], where values is a
// Float32Array of tokens × frames × rows × columns with the raw evidence.

const STYLE = `
.cgs{font:15px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;max-width:100%;box-sizing:border-box;
  padding:.4rem;user-select:none}
.cgs *{box-sizing:border-box}
.cgs .words{display:flex;flex-wrap:wrap;gap:.15rem;margin:0 0 .5rem;touch-action:none}
.cgs .words span{padding:.1rem .35rem;border-radius:.3rem;cursor:pointer;border:1px solid transparent}
.cgs .words span:hover{border-color:#0072b2}
.cgs .words span:focus-visible{outline:2px solid #0072b2}
.cgs .words span[aria-selected=true]{background:#0072b2;color:#fff}
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
// opacity of a map where it is 1 and where it is 0, as in show.heatmap and show.video
const IMAGE_ALPHAS = { max: 0.6, min: 0.6 };
const VIDEO_ALPHAS = { max: 0.8, min: 0.4 };

// Merge the words start to end - 1 and scale their evidence to [0, 1] over all frames and cells (cgvs, Eq. 8 and 9).
// Words whose map is flat are left out.
export function mergeWords(map, numTokens, numFrames, start, end) {
  const size = map.values.length / numTokens;
  const total = new Float64Array(size);
  for (let word = start; word < end; word++) {
    const evidence = map.values.subarray(word * size, (word + 1) * size);
    if (evidence.every((value) => value === evidence[0])) continue;
    for (let k = 0; k < size; k++) total[k] += evidence[k];
  }
  if (map.signed) for (let k = 0; k < size; k++) total[k] = Math.max(total[k], 0);
  let low = Infinity, high = -Infinity, peak = 0;
  for (let k = 0; k < size; k++) {
    if (total[k] < low) low = total[k];
    if (total[k] > high) {
      high = total[k];
      peak = k;
    }
  }
  const unit = new Float64Array(size);
  if (high > low) for (let k = 0; k < size; k++) unit[k] = (total[k] - low) / (high - low);
  const cells = size / numFrames;
  const weights = frameShares(map.is_density ? total : unit, numFrames);
  return { unit, weights, hasPeak: high > low, frame: Math.floor(peak / cells), cell: peak % cells, cells };
}

// Return the share of each frame in the sum of the values.
function frameShares(values, numFrames) {
  const cells = values.length / numFrames;
  const shares = new Float64Array(numFrames);
  let sum = 0;
  for (let k = 0; k < values.length; k++) {
    shares[Math.floor(k / cells)] += values[k];
    sum += values[k];
  }
  for (let t = 0; t < numFrames; t++) shares[t] = sum > 0 ? shares[t] / sum : 1 / numFrames;
  return shares;
}

// Return, for each pixel along one side of the canvas, the cell before it, the fraction of the way to the next cell,
// and whether the view contains it.
function interpolateSide(pixels, imageSize, viewStart, viewSize, inputSize, offset, stride, cells) {
  const before = new Int32Array(pixels), fraction = new Float64Array(pixels), inside = new Uint8Array(pixels);
  for (let k = 0; k < pixels; k++) {
    const inputPosition = (((k + 0.5) * imageSize) / pixels - viewStart) * inputSize / viewSize;
    const position = Math.min(Math.max((inputPosition - offset) / stride, 0), cells - 1);
    before[k] = Math.min(Math.floor(position), Math.max(cells - 2, 0));
    fraction[k] = cells > 1 ? position - before[k] : 0;
    inside[k] = inputPosition >= 0 && inputPosition < inputSize;
  }
  return { before, fraction, inside };
}

// Return the map of one frame at each pixel of the canvas, linear between the centers of the cells.
export function upsampleMap(map, unit, frame, width, height, image) {
  const { grid, view } = map;
  const { rows, columns } = grid;
  const x = interpolateSide(
    width, image.width, view.left, view.width, view.input_width, grid.offset_x, grid.stride_x, columns);
  const y = interpolateSide(
    height, image.height, view.top, view.height, view.input_height, grid.offset_y, grid.stride_y, rows);
  const firstCell = frame * rows * columns;
  const values = new Float64Array(width * height);
  for (let j = 0; j < height; j++) {
    if (!y.inside[j]) continue;
    const upper = firstCell + y.before[j] * columns;
    const lower = rows > 1 ? upper + columns : upper;
    for (let i = 0; i < width; i++) {
      if (!x.inside[i]) continue;
      const left = x.before[i], right = columns > 1 ? left + 1 : left;
      const top = unit[upper + left] * (1 - x.fraction[i]) + unit[upper + right] * x.fraction[i];
      const bottom = unit[lower + left] * (1 - x.fraction[i]) + unit[lower + right] * x.fraction[i];
      values[j * width + i] = top * (1 - y.fraction[j]) + bottom * y.fraction[j];
    }
  }
  return values;
}

function drawStar(context, x, y, radius) {
  context.beginPath();
  for (let k = 0; k < 10; k++) {
    const length = k % 2 ? 0.4 * radius : radius;
    context.lineTo(x + length * Math.sin((k * Math.PI) / 5), y - length * Math.cos((k * Math.PI) / 5));
  }
  context.closePath();
  context.fillStyle = "#fff";
  context.strokeStyle = "#000";
  context.lineWidth = Math.max(radius / 8, 1);
  context.fill();
  context.stroke();
}

function loadImage(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a frame cannot be read"));
    image.src = address;
  });
}

// Return the gray values of an image, as PIL converts RGB to gray.
function grayPixels(image, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const gray = new Uint8Array(width * height);
  for (let k = 0; k < gray.length; k++) {
    gray[k] = (rgba[4 * k] * 19595 + rgba[4 * k + 1] * 38470 + rgba[4 * k + 2] * 7471 + 0x8000) >> 16;
  }
  return gray;
}

// Draw into `root`. `onChange` is called with the selected words or the frame. Return functions that select words, show
// a frame, and stop the playback.
export async function player(root, data, onChange = () => {}) {
  const images = await Promise.all(data.frames.map(loadImage));
  const numFrames = data.times.length, isVideo = numFrames > 1;
  const width = images[0].width, height = images[0].height;
  const state = { start: 0, end: 1, frame: 0, timer: null, dragFrom: null };
  const alphas = isVideo ? VIDEO_ALPHAS : IMAGE_ALPHAS;
  root.replaceChildren();
  root.classList.add("cgs");

  function append(tag, parent, properties = {}) {
    return parent.appendChild(Object.assign(document.createElement(tag), properties));
  }
  append("style", root, { textContent: STYLE });

  const wordList = append("div", root, { className: "words" });
  wordList.setAttribute("role", "listbox");
  wordList.setAttribute("aria-label", "words of the caption");
  wordList.setAttribute("aria-multiselectable", "true");
  const words = data.tokens.map((token, k) => {
    const word = append("span", wordList, { textContent: token, tabIndex: k ? -1 : 0 });
    word.setAttribute("role", "option");
    word.dataset.word = k;
    return word;
  });
  append("div", root, {
    className: "hint",
    textContent: "click a word, drag over several; hold a map to see the image",
  });
  const mapList = append("div", root, { className: "maps" });
  const panels = data.maps.map((map) => {
    const figure = append("figure", mapList);
    const canvas = append("canvas", figure, { width, height });
    const barSize = { className: "bars", width: Math.max(numFrames * 12, 240), height: 44 };
    const bars = isVideo ? append("canvas", figure, barSize) : null;
    return { map, canvas, bars, caption: append("figcaption", figure), phrase: null };
  });
  for (const panel of panels) {
    // the image without the map, while the button is down
    panel.canvas.title = "hold to see the image without the map";
    panel.canvas.addEventListener("pointerdown", () => {
      panel.canvas.getContext("2d").drawImage(images[state.frame], 0, 0);
    });
    for (const event of ["pointerup", "pointerleave", "pointercancel"]) {
      panel.canvas.addEventListener(event, () => drawPanel(panel));
    }
  }

  const grayImages = new Map();
  function grayImage(frame) {
    if (!grayImages.has(frame)) grayImages.set(frame, grayPixels(images[frame], width, height));
    return grayImages.get(frame);
  }

  function drawMap({ map, canvas, phrase }) {
    const context = canvas.getContext("2d");
    if (phrase.cells === 1) {
      context.drawImage(images[state.frame], 0, 0);
      return;
    }
    const values = upsampleMap(map, phrase.unit, state.frame, width, height, data);
    const gray = grayImage(state.frame);
    const pixels = context.createImageData(width, height);
    for (let k = 0; k < values.length; k++) {
      const alpha = alphas.min + (alphas.max - alphas.min) * values[k];
      const color = 3 * Math.min(Math.floor(values[k] * 256), 255);
      for (let c = 0; c < 3; c++) {
        pixels.data[4 * k + c] = Math.round((1 - alpha) * gray[k] + alpha * data.colors[color + c]);
      }
      pixels.data[4 * k + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    if (phrase.hasPeak && phrase.frame === state.frame) drawPeak(context, map, phrase.cell);
  }

  function drawPeak(context, { grid, view }, cell) {
    const inputX = grid.offset_x + (cell % grid.columns) * grid.stride_x;
    const inputY = grid.offset_y + Math.floor(cell / grid.columns) * grid.stride_y;
    const x = ((inputX * view.width) / view.input_width + view.left) * width / data.width;
    const y = ((inputY * view.height) / view.input_height + view.top) * height / data.height;
    drawStar(context, x, y, Math.max(width, height) / 30);
  }

  function drawBars({ bars, phrase }) {
    const context = bars.getContext("2d");
    const step = bars.width / numFrames, largest = Math.max(...phrase.weights);
    context.clearRect(0, 0, bars.width, bars.height);
    phrase.weights.forEach((weight, t) => {
      if (t === state.frame) {
        context.fillStyle = "#f6e3b8";
        context.fillRect(t * step, 0, step, bars.height);
      }
      context.fillStyle = t === state.frame ? "#d08a00" : "#8c8c8c";
      const barHeight = largest > 0 ? (weight / largest) * (bars.height - 4) : 0;
      context.fillRect(t * step + 0.08 * step, bars.height - barHeight, 0.84 * step, barHeight);
    });
  }

  function describePeak(phrase) {
    if (!phrase.hasPeak) return " has no peak: all cells are equal";
    return isVideo ? `, peak at ${data.times[phrase.frame].toFixed(1)} s` : "";
  }

  function drawPanel(panel) {
    drawMap(panel);
    const text = data.tokens.slice(state.start, state.end).join(" ");
    panel.caption.textContent = `${panel.map.name}: “${text}”${describePeak(panel.phrase)}`;
    if (panel.bars) drawBars(panel);
  }

  function redraw(wordsChanged) {
    const startTime = performance.now();
    for (const panel of panels) {
      if (wordsChanged) panel.phrase = mergeWords(panel.map, data.tokens.length, numFrames, state.start, state.end);
      drawPanel(panel);
    }
    words.forEach((word, k) => word.setAttribute("aria-selected", k >= state.start && k < state.end));
    if (isVideo) {
      slider.value = state.frame;
      clock.textContent = `${data.times[state.frame].toFixed(2)} s, frame ${state.frame + 1} of ${numFrames}`;
    }
    root.dataset.selected = `${state.start}:${state.end}`;
    root.dataset.frame = state.frame;
    root.dataset.milliseconds = performance.now() - startTime;
  }

  function select(start, end, notify = true) {
    state.start = Math.max(0, Math.min(start, data.tokens.length - 1));
    state.end = Math.max(state.start + 1, Math.min(end, data.tokens.length));
    redraw(true);
    if (notify) onChange({ selected: [state.start, state.end] });
  }

  function seek(frame, notify = true) {
    state.frame = Math.max(0, Math.min(frame, numFrames - 1));
    redraw(false);
    if (notify) onChange({ frame: state.frame });
  }

  // A click selects a word, a drag a phrase; with the keyboard: arrow keys, and Shift to extend the phrase.
  function wordAt(event) {
    const { clientX, clientY } = event;
    const find = (node) => node?.elementFromPoint?.(clientX, clientY)?.closest?.("[data-word]");
    return find(document) ?? find(root.getRootNode());
  }
  wordList.addEventListener("pointerdown", (event) => {
    const word = event.target.closest("[data-word]");
    if (!word) return;
    const index = Number(word.dataset.word);
    state.dragFrom = event.shiftKey ? state.start : index;
    wordList.setPointerCapture(event.pointerId);
    select(Math.min(state.dragFrom, index), Math.max(state.dragFrom, index) + 1);
    word.focus({ preventScroll: true });
  });
  wordList.addEventListener("pointermove", (event) => {
    if (state.dragFrom === null) return;
    const word = wordAt(event);
    if (!word || !wordList.contains(word)) return;
    const index = Number(word.dataset.word);
    const start = Math.min(state.dragFrom, index), end = Math.max(state.dragFrom, index) + 1;
    if (start !== state.start || end !== state.end) select(start, end);
  });
  for (const event of ["pointerup", "pointercancel"]) {
    wordList.addEventListener(event, () => {
      state.dragFrom = null;
    });
  }
  wordList.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.shiftKey) {
      select(state.start, state.end + step);
    } else {
      select(state.start + step, state.start + step + 1);
      words[state.start].focus();
    }
  });

  let slider, clock, button;
  function pause() {
    clearInterval(state.timer);
    state.timer = null;
    if (!button) return;
    button.textContent = "▶";
    button.setAttribute("aria-label", "play");
  }
  function play() {
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "pause");
    const interval = (1000 * (data.times[numFrames - 1] - data.times[0])) / (numFrames - 1);
    const advance = () => (root.isConnected ? seek((state.frame + 1) % numFrames) : pause());
    state.timer = setInterval(advance, Math.min(Math.max(interval, 80), 500));
  }
  if (isVideo) {
    const controls = append("div", root, { className: "time" });
    button = append("button", controls, { type: "button", textContent: "▶" });
    button.setAttribute("aria-label", "play");
    slider = append("input", controls, { type: "range", min: 0, max: numFrames - 1, step: 1, value: 0 });
    slider.setAttribute("aria-label", "frame");
    clock = append("output", controls);
    slider.addEventListener("input", () => {
      pause();
      seek(Number(slider.value));
    });
    button.addEventListener("click", () => (state.timer ? pause() : play()));
    for (const panel of panels) {
      panel.bars.addEventListener("click", (event) => {
        pause();
        seek(Math.floor((event.offsetX / panel.bars.clientWidth) * numFrames));
      });
    }
  }
  select(...(data.selected ?? [0, 1]), false);
  if (data.frame) seek(data.frame, false);
  return { select: (start, end) => select(start, end, false), seek: (frame) => seek(frame, false), stop: pause };
}

// Decode the data of an HTML page: frames are data addresses, values are base64.
export function decodePage(data) {
  function decodeValues(text) {
    return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  }
  return { ...data, maps: data.maps.map((map) => ({ ...map, values: decodeValues(map.values) })) };
}

// Called by anywidget. Python's traits are `payload` (all but bytes), `images` and `evidence` (bytes), `selected` and
// `frame`.
function render({ model, el }) {
  const root = el.appendChild(document.createElement("div"));
  let current = null, addresses = [], latest = 0;

  function toBytes(part) {
    return new Uint8Array(part.buffer ?? part, part.byteOffset ?? 0, part.byteLength);
  }
  function remove() {
    current?.stop();
    addresses.forEach((address) => URL.revokeObjectURL(address));
    current = null;
    addresses = [];
  }
  function saveChange(change) {
    for (const [name, value] of Object.entries(change)) model.set(name, value);
    model.save_changes();
  }
  async function update() {
    const payload = model.get("payload"), turn = ++latest;
    remove();
    if (!payload?.maps?.length) {
      root.replaceChildren();
      return;
    }
    const blobs = model.get("images").map((part) => new Blob([toBytes(part)], { type: "image/jpeg" }));
    addresses = blobs.map((blob) => URL.createObjectURL(blob));
    const evidence = model.get("evidence");
    const maps = payload.maps.map((map, k) => ({
      ...map,
      values: new Float32Array(toBytes(evidence[k]).slice().buffer),
    }));
    const data = { ...payload, maps, frames: addresses, selected: model.get("selected"), frame: model.get("frame") };
    const created = await player(root, data, saveChange);
    if (turn === latest) current = created;
    else created.stop();
  }
  model.on("change:payload", update);
  model.on("change:selected", () => current?.select(...model.get("selected")));
  model.on("change:frame", () => current?.seek(model.get("frame")));
  update();
  return remove;
}

export default { render };
