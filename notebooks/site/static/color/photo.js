// A photo in the worker: opened, seen by a network, colored at any size.
import { meansOf, probabilities } from "./bins.js";
import { frame, lightnessAt, surround } from "./framing.js";
import { gray, labOf, recolor } from "./lab.js";
import { orientationOf } from "./metadata.js";
import { embed, predict } from "./networks.js";
import { enlarger } from "./resize.js";
import { presets } from "./table.js";

// Pixels that are colored: for a file, when a knob rests, and while it moves.
const SIZES = { full: Infinity, resting: 2_500_000, moving: 400_000 };

// By EXIF's orientation, of a picture of w x h: how it is turned or mirrored.
const TURNS = {
  2: (w) => [-1, 0, 0, 1, w, 0], 3: (w, h) => [-1, 0, 0, -1, w, h], 4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0], 6: (w, h) => [0, 1, -1, 0, h, 0], 7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

export class TooLarge extends Error {
  constructor() {
    super("is too large for this browser; the command colorlib colors it");
  }
}

/** A picture, upright sRGB on white, of at most `most` pixels: an OffscreenCanvas. */
function drawn(picture, most = Infinity, orientation = 1) {
  const scale = Math.min(1, Math.sqrt(most / (picture.width * picture.height)));
  const [width, height] = [picture.width, picture.height].map((n) => Math.max(1, Math.round(n * scale)));
  const turned = orientation in TURNS && orientation > 4;
  const canvas = new OffscreenCanvas(...(turned ? [height, width] : [width, height]));
  // Without alpha nothing is divided by it when the pixels are read.
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  // Beyond a browser's limit nothing is drawn, and nothing is said of it.
  // Brave changes the low bits of what is read, so that nobody is known by them.
  if (context.getImageData(canvas.width - 1, canvas.height - 1, 1, 1).data[0] < 128) throw new TooLarge();
  if (orientation in TURNS) context.setTransform(...TURNS[orientation](width, height));
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}

/** A file's picture, upright unless `imageOrientation` is "none". */
async function decoded(blob, imageOrientation) {
  try {
    return await createImageBitmap(blob, { imageOrientation });
  } catch (error) {
    // Safari before 17.2 and Chrome before 112 don't know "from-image": it is what they always do.
    if (error instanceof TypeError) return createImageBitmap(blob);
    throw error;
  }
}

const pixels = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);

export class Photo {
  static async open(blob) {
    const orientation = await orientationOf(blob);
    const bitmap = await decoded(blob, orientation ? "none" : "from-image");
    const photo = new Photo();
    let canvas = drawn(bitmap, Infinity, orientation), image = pixels(canvas);
    bitmap.close();
    photo.image = image;
    photo.sizes = {};
    for (const [name, most] of Object.entries(SIZES)) {
      if (image.width * image.height > most) {
        canvas = drawn(canvas, most); // of the next larger one, which is soon done
        image = pixels(canvas);
      }
      photo.sizes[name] = image;
    }
    photo.framed = new Map();
    photo.outputs = new Map();
    return photo;
  }

  async frame(preset) {
    if (!this.framed.has(preset)) {
      const { working_size: size, square } = (await presets())[preset];
      const { data, height, width } = this.image;
      this.framed.set(preset, frame(data, height, width, size, square));
    }
    return this.framed.get(preset);
  }

  async embedding(preset) {
    return embed(preset, await this.frame(preset));
  }

  /** What the network gives for this photo, with the starts of the photo's own places in it. */
  async output(preset, embedding = null) {
    const known = this.outputs.get(preset);
    if (known && known.embedding === embedding) return known;
    const framed = await this.frame(preset);
    const output = await predict(preset, framed, embedding);
    const [height, width, top, left] =
      [framed.height, framed.width, framed.top, framed.left].map((n) => n / output.scale);
    const gray = surround(lightnessAt(framed, output.scale), height, width);
    const entry = (await presets())[preset], each = entry.counts?.length ?? 2;
    const starts = Int32Array.from({ length: height * width }, (_, i) =>
      ((top + Math.floor(i / width)) * output.width + left + (i % width)) * each);
    const result = { ...output, embedding, height, width, gray, starts };
    this.outputs.set(preset, result);
    return result;
  }

  /** The map of ab of a network: {planes: [as, bs], height, width}. */
  async map(preset, vividness, embedding) {
    const { values, starts, gray, height, width } = await this.output(preset, embedding);
    const entry = (await presets())[preset];
    const planes = entry.counts
      ? meansOf(values, starts, entry, vividness)
      : [0, 1].map((i) => Float32Array.from(starts, (start) => 127 * values[start + i]));
    for (const plane of planes) gray.forEach((isGray, i) => isGray && (plane[i] = 0));
    return { planes, height, width };
  }

  /** The colored photo, ImageData, at one of the SIZES. */
  async color(preset, vividness, { size = "full", embedding = null } = {}) {
    const { planes, height, width } = await this.map(preset, vividness, embedding);
    const source = this.sizes[size];
    const result = new ImageData(source.width, source.height);
    const rows = enlarger(planes, height, width, source.height, source.width);
    const [as, bs] = [0, 0].map(() => new Float32Array(source.width));
    for (let y = 0; y < source.height; y++) {
      rows(y, [as, bs]);
      recolor(source.data, as, bs, result.data, y * source.width);
    }
    return result;
  }

  /** The gray photo, as its L alone shows it: ImageData. */
  gray() {
    const { data, width, height } = this.sizes.resting, result = new ImageData(width, height);
    gray(data, result.data);
    return result;
  }

  /** Whether the photo is in color: its mean chroma, as colorlib's NEAR_GRAY judges. */
  inColor() {
    const { data } = this.sizes.moving, step = 4 * 37;
    let sum = 0, count = 0;
    for (let i = 0; i < data.length; i += step, count++) {
      const [, a, b] = labOf(data[i], data[i + 1], data[i + 2]);
      sum += Math.hypot(a, b);
    }
    return sum / count >= 4;
  }

  /** What the network says of the place at x, y in 0..1 of the photo. */
  async ask(preset, x, y, vividness) {
    const entry = (await presets())[preset];
    const { values, starts, height, width } = await this.output(preset);
    const at = (length, part) => Math.min(length - 1, Math.floor(part * length));
    const start = starts[at(height, y) * width + at(width, x)];
    const raw = probabilities(values, start, entry.rarity, 0, new Float64Array(entry.rarity.length));
    const shares =
      probabilities(values, start, entry.rarity, vividness, new Float64Array(entry.rarity.length));
    const [[a], [b]] = meansOf(values, [start], entry, vividness);
    const { data } = this.image;
    const place = 4 * (at(this.image.height, y) * this.image.width + at(this.image.width, x));
    return { raw, shares, mean: [a, b], truth: labOf(...data.subarray(place, place + 3)) };
  }
}
