// From a photo to a network's input and back, as colorlib/framing.py does it.
import { lightness } from "./lab.js";
import { resize } from "./resize.js";

const STEP = 32, LONGER = [1, 1.43, 1.86, 2.86], FLAT = 3;

/** Rounds a half to the even number, as Python does. */
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

const clip = (x, low, high) => Math.min(high, Math.max(low, x));

/** The shapes [height, width] in which photos go through a network of this working size. */
export function workingShapes(size) {
  const short = STEP * Math.ceil(size / STEP), shapes = new Map();
  for (const ratio of LONGER) {
    const long = Math.max(short, STEP * round((size * ratio) / STEP));
    for (const shape of [[short, long], [long, short]]) shapes.set(shape.join("x"), shape);
  }
  return [...shapes.values()];
}

/** L of RGBA bytes, the mean of `n` by `n` pixels as one: {plane, height, width}. */
function reduced(rgba, height, width, n) {
  const high = Math.ceil(height / n), wide = Math.ceil(width / n);
  const plane = new Float32Array(high * wide), row = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    lightness(rgba, y * width, width, row);
    const start = Math.floor(y / n) * wide, rows = Math.min(n, height - Math.floor(y / n) * n);
    for (let x = 0; x < wide; x++) {
      const end = Math.min(width, x * n + n);
      let sum = 0;
      for (let i = x * n; i < end; i++) sum += row[i];
      plane[start + x] += sum / (rows * (end - x * n));
    }
  }
  return { plane, height: high, width: wide };
}

/**
 * A photo at the working size, in the middle of one of the working shapes, with its mirror image
 * around it.
 * @returns {{plane: Float32Array, shape: number[], top, left, height, width, square}} where
 *   `square` is what an embedding is computed of, or null.
 */
export function frame(rgba, photoHeight, photoWidth, size, square) {
  const largest = 4 * Math.max(size, square ?? 0);
  const n = Math.max(1, Math.floor(Math.min(photoHeight, photoWidth) / largest));
  const photo = reduced(rgba, photoHeight, photoWidth, n);
  const full = size / Math.min(photo.height, photo.width);
  const shapes = workingShapes(size).filter(([h, w]) => h <= w || photo.height > photo.width);
  const fits = shapes.map(([h, w]) => Math.min(full, h / photo.height, w / photo.width));
  let chosen = fits.findIndex((fit) => fit > 0.94 * full);
  if (chosen < 0) chosen = fits.indexOf(Math.max(...fits));
  const shape = shapes[chosen];
  const [height, width] = [photo.height, photo.width].map((n, i) =>
    clip(4 * round((n * fits[chosen]) / 4), 4, shape[i]));
  const [top, left] = [height, width].map((n, i) => 4 * Math.floor((shape[i] - n) / 8));
  const small = resize(photo.plane, photo.height, photo.width, height, width);
  const plane = new Float32Array(shape[0] * shape[1]);
  for (let y = 0; y < shape[0]; y++)
    for (let x = 0; x < shape[1]; x++)
      plane[y * shape[1] + x] =
        clip(small[mirror(y - top, height) * width + mirror(x - left, width)], 0, 100);
  return {
    plane, shape, top, left, height, width,
    square: square ? centerSquare(photo, square) : null,
  };
}

function mirror(i, length) {
  const turn = ((i % (2 * length)) + 2 * length) % (2 * length);
  return turn < length ? turn : 2 * length - 1 - turn;
}

function centerSquare({ plane, height, width }, side) {
  const short = Math.min(height, width), square = new Float32Array(short * short);
  const top = (height - short) >> 1, left = (width - short) >> 1;
  for (let y = 0; y < short; y++) {
    const start = (top + y) * width + left;
    square.set(plane.subarray(start, start + short), y * short);
  }
  return resize(square, short, short, side, side).map((value) => clip(value, 0, 100));
}

/** L of the photo's part of the plane, smaller by `scale`. */
export function lightnessAt(framed, scale) {
  const height = framed.height / scale, width = framed.width / scale;
  const small = new Float32Array(height * width);
  for (let y = 0; y < framed.height; y++)
    for (let x = 0; x < framed.width; x++)
      small[Math.floor(y / scale) * width + Math.floor(x / scale)] +=
        framed.plane[(framed.top + y) * framed.shape[1] + framed.left + x] / scale ** 2;
  return small;
}

/** Where a flat surround of one lightness lies around a photo: an array of 0 and 1. */
export function surround(plane, height, width) {
  const edge = [];
  for (let i = 0; i < plane.length; i++) {
    const y = Math.floor(i / width), x = i % width;
    if (!y || !x || y === height - 1 || x === width - 1) edge.push(i);
  }
  const sorted = edge.map((i) => plane[i]).sort((a, b) => a - b), middle = sorted.length / 2;
  const median = (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
  const flat = (i) => Math.abs(plane[i] - median) < FLAT;
  const reached = new Uint8Array(plane.length), open = edge.filter(flat);
  if (open.length < 0.97 * edge.length) return reached;
  for (const i of open) reached[i] = 1;
  while (open.length) {
    const i = open.pop(), x = i % width;
    const near = [i - width, i + width, x ? i - 1 : -1, x < width - 1 ? i + 1 : -1];
    for (const j of near)
      if (j >= 0 && j < plane.length && !reached[j] && flat(j)) {
        reached[j] = 1;
        open.push(j);
      }
  }
  return reached;
}
