"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const WORKER = URL.createObjectURL(new Blob([data.worker], { type: "text/javascript" }));

/** The bytes of an element: base64 of gzip. */
async function unpacked(id) {
  const packed = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// ------------------------------------------------------------------------------------------ the network

let worker = null, loaded = null, runtime = null, calls = 0, abandon = null;

/** Send a message to the worker; its answer.  Rejects on errors, among them memory that does not suffice. */
function call(message) {
  return new Promise((resolve, reject) => {
    const id = calls++;
    const fail = (error) => {
      forget();
      reject(error);
    };
    abandon = () => fail(new DOMException("stopped", "AbortError"));
    worker.onerror = (event) => fail(new Error(event.message || "the network failed"));
    worker.onmessage = ({ data: answer }) => {
      if (answer.id !== id) return;
      if (answer.error) fail(new Error(answer.error));
      else resolve(answer);
    };
    worker.postMessage({ id, ...message });
  });
}

/** End the worker: the memory of WebAssembly grows, and only so it shrinks. */
function forget() {
  worker?.terminate();
  worker = loaded = null;
}

/** Make the worker ready for this direction. */
async function load(direction) {
  if (loaded === direction) return;
  if (!worker) {
    // as data: of a page without a server, a worker imports nothing else
    runtime ??= { script: `data:text/javascript;base64,${$("ort").textContent}`, wasm: await unpacked("wasm") };
    worker = new Worker(WORKER);
    await call(runtime);
  }
  loaded = null;
  await call({ model: await unpacked(`model_${direction}`) });
  loaded = direction;
}

// ----------------------------------------------------------------------------------------- the pictures

let source = null; // the chosen picture: an ImageData on white, with `alpha` if it has any
let input = null, output = null, result = null; // of the last translation: tensors {dims, data}, and an ImageData
let name = "picture";

const chosen = () => data.directions[document.querySelector("[name=direction]:checked").value];

/** A blob as pixels: upright, sRGB, on white; never larger than `side` at its longest. */
async function decoded(blob) {
  const bitmap = await createImageBitmap(blob);
  try {
    const { width, height } = bitmap;
    const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const alpha = context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    const image = context.getImageData(0, 0, width, height);
    if (data.channels === 1) toGrey(image);
    if (alpha.some((value) => value < 255)) image.alpha = alpha;
    return image;
  } finally {
    bitmap.close();
  }
}

/** The picture in another size, with its opacity. */
function scaled(image, width, height) {
  const small = resized(image, width, height);
  if (image.alpha && small !== image) {
    const layer = new ImageData(image.width, image.height);
    layer.data.set(layer.data.map((_, i) => image.alpha[i >> 2]));
    small.alpha = resized(layer, width, height).data.filter((_, i) => i % 4 === 0);
  }
  return small;
}

/** The size in which to translate, at most `longest` pixels a side: [width, height]. */
function sizeOf({ width, height }, longest) {
  if (data.bound) return [data.bound, data.bound];
  const ratio = Math.min(1, longest / Math.max(width, height));
  const sides = [width, height].map((side) => Math.max(1, Math.round(side * ratio)));
  return data.rounds ? sides.map((side) => Math.max(data.least, data.multiple * halfToEven(side / data.multiple))) : sides;
}

/** As Python rounds. */
function halfToEven(x) {
  return Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
}

/** All inputs of the network for an ImageData. */
function inputsOf(image, direction) {
  const [H, W] = [image.height, image.width].map((side) => (
    Math.max(data.least, Math.ceil(side / data.multiple) * data.multiple)
  ));
  const inputs = [{ name: "picture", ...toInput(image, H, W, data.channels) }];
  for (const [extra, shape] of Object.entries(direction.extra)) {
    const dims = extra === "noise" ? [1, 1, H, W] : shape, n = dims.reduce((a, b) => a * b);
    const values = extra === "noise" ? normals(n, +$("seed").value) : styleAt(+$("style").value, n);
    inputs.push({ name: extra, dims, data: values });
  }
  return inputs;
}

let busy = false, again = false;

/** Translate the chosen picture with the chosen options; a call meanwhile is done afterwards. */
async function translate() {
  if (!source) return;
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  $("stop").hidden = false;
  $("save").disabled = true;
  try {
    do {
      again = false;
      await once();
    } while (again);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : `This picture cannot be translated: ${error.message}`);
  }
  busy = again = false;
  $("stop").hidden = true;
}

async function once() {
  const direction = chosen(), picture = source, stem = name;
  let longest = +$("side").value || Infinity, short = false;
  for (;;) {
    const [width, height] = sizeOf(picture, longest);
    say(`Translating ${width} x ${height} pixels ...`);
    try {
      const image = scaled(picture, width, height), inputs = inputsOf(image, direction);
      await load(direction.name);
      const found = await call({ inputs });
      input = inputs[0];
      output = { dims: found.dims, data: found.data };
      result = toImage(output, image);
      show(image, result, `${stem}_${direction.name}.png`);
      const changed = width !== picture.width || height !== picture.height;
      const why = data.bound ? "the network has one size" : short ? "the memory does not suffice for more" : "see Longest side";
      const smaller = `resized from ${picture.width} x ${picture.height}: ${why}`;
      say(`${width} x ${height} pixels in ${found.seconds.toFixed(2)} s${changed ? `; ${smaller}` : ""}.`);
      return;
    } catch (error) {
      // whatever memory does not suffice for fails in many ways
      if (error.name === "AbortError" || data.bound || Math.max(width, height) <= 2 * data.size) throw error;
      longest = Math.floor(Math.max(width, height) / Math.SQRT2);
      short = true;
    }
  }
}

function show(image, translated, file) {
  for (const [id, pixels] of [["before", image], ["after", translated]]) {
    Object.assign($(id), { width: pixels.width, height: pixels.height });
    $(id).getContext("2d").putImageData(pixels, 0, 0);
  }
  const { width, height } = image;
  $("compare").style.maxWidth = `min(${Math.max(width, 384)}px, ${Math.round((75 * width) / height)}vh)`;
  $("result").hidden = false;
  $("save").disabled = false;
  $("save").dataset.file = file;
}

const say = (text) => ($("status").textContent = text);

/** Take a picture that was dropped, pasted, chosen or photographed. */
async function take(blob) {
  if (!blob) return;
  say("Reading the picture ...");
  try {
    source = await decoded(blob);
  } catch {
    say(`${blob.name ?? "This"} is not a picture that this browser reads.`);
    return;
  }
  name = (blob.name ?? "picture").replace(/\.[^.]*$/, "");
  await translate();
}

// ----------------------------------------------------------------------------------------------- the page

document.title = $("title").textContent = data.title;
$("about").textContent = data.about;
data.directions.forEach(({ label }, i) => {
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "direction", value: i, checked: !i });
  const text = Object.assign(document.createElement("span"), { textContent: label });
  const choice = document.createElement("label");
  choice.append(input, text);
  input.addEventListener("change", translate);
  $("directions").append(choice);
});
$("directions").hidden = data.directions.length < 2;
for (const side of [1, 2, 4].map((n) => n * data.size).concat(0)) {
  const text = side ? `${side} pixels` : "as it is";
  $("side").append(new Option(text, side, false, side === data.side));
}
$("sides").hidden = Boolean(data.bound);
$("styles").hidden = !("style" in data.directions[0].extra);
$("seeds").hidden = !("noise" in data.directions[0].extra);
for (const id of ["side", "style", "seed"]) $(id).addEventListener("change", translate);
for (const id of ["file", "photo"]) {
  $(id).addEventListener("change", async () => {
    await take($(id).files[0]);
    $(id).value = ""; // so that the same picture can be chosen again
  });
}
$("cut").addEventListener("input", () => $("compare").style.setProperty("--cut", `${$("cut").value}%`));
$("stop").addEventListener("click", () => abandon?.());
$("save").addEventListener("click", () => {
  $("after").toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: $("save").dataset.file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
