// Pictures as numbers: resizing as Pillow does, padding, and repeatable random numbers.
"use strict";

/** RGBA bytes resized along one axis, antialiased: Pillow's bilinear filter.  Columns, if `across`, else rows. */
function resizeAxis(from, width, height, size, across) {
  const old = across ? width : height, scale = old / size, support = Math.max(scale, 1);
  const w = across ? size : width, h = across ? height : size;
  const to = new Uint8ClampedArray(4 * w * h);
  const step = across ? 4 : 4 * width, line = across ? 4 * width : 4, lines = across ? height : width;
  const toStep = across ? 4 : 4 * w, toLine = across ? 4 * w : 4;
  for (let i = 0; i < size; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(old, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let j = first; j < last; j++) weights.push(Math.max(0, 1 - Math.abs((j - centre + 0.5) / support)));
    const total = weights.reduce((a, b) => a + b, 0);
    for (let k = 0; k < lines; k++) {
      for (let c = 0; c < 4; c++) {
        let sum = 0;
        for (let j = first; j < last; j++) sum += weights[j - first] * from[k * line + j * step + c];
        to[k * toLine + i * toStep + c] = Math.floor(sum / total + 0.5);
      }
    }
  }
  return to;
}

/** An ImageData in another size. */
function resized(image, width, height) {
  let { data } = image;
  if (width !== image.width) data = resizeAxis(data, image.width, image.height, width, true);
  if (height !== image.height) data = resizeAxis(data, width, image.height, height, false);
  return data === image.data ? image : new ImageData(data, width, height);
}

/** Replace colours by their luma, as Pillow computes it. */
function toGrey({ data }) {
  for (let p = 0; p < data.length; p += 4) {
    const grey = (data[p] * 19595 + data[p + 1] * 38470 + data[p + 2] * 7471 + 32768) >> 16;
    data.fill(grey, p, p + 3);
  }
}

/** An ImageData as the network's input (1,channels,H,W) in [-1,1]; its borders are repeated up to H and W. */
function toInput(image, H, W, channels) {
  const { width, height, data } = image, values = new Float32Array(channels * H * W);
  for (let y = 0, i = 0; y < H; y++) {
    for (let x = 0; x < W; x++, i++) {
      const p = 4 * (Math.min(y, height - 1) * width + Math.min(x, width - 1));
      for (let c = 0; c < channels; c++) values[c * H * W + i] = Math.fround(data[p + c] / 127.5) - 1;
    }
  }
  return { dims: [1, channels, H, W], data: values };
}

/** The first rows and columns of an output (1,C,H,W) in [-1,1], with the opacity of `image`, which has their size. */
function toImage({ dims: [, C, H, W], data }, image) {
  const found = new ImageData(image.width, image.height);
  for (let y = 0, p = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++, p += 4) {
      for (let c = 0; c < 3; c++) {
        const value = data[(C === 1 ? 0 : c) * H * W + y * W + x];
        found.data[p + c] = Math.round((value + 1) * 127.5); // the array clamps
      }
      found.data[p + 3] = image.alpha ? image.alpha[p / 4] : 255;
    }
  }
  return found;
}

/** n random numbers N(0,1), the same for the same seed: mulberry32, then Box and Muller. */
function normals(n, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Float32Array.from({ length: n }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}

/** A style between two neighbouring random ones, N(0,1) everywhere on the way. */
function styleAt(place, n) {
  const first = Math.floor(place), angle = ((place - first) * Math.PI) / 2;
  const [a, b] = [normals(n, first), normals(n, first + 1)];
  return a.map((x, i) => Math.cos(angle) * x + Math.sin(angle) * b[i]);
}
