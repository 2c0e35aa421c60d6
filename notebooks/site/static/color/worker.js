// The worker in which photos are opened and colored: a page that asks never waits.
import { onProgress, prepare } from "./networks.js";
import { Photo, TooLarge } from "./photo.js";

const photos = new Map();

const answers = {
  prepare: ({ preset }) => prepare(preset),
  async open({ id, blob }) {
    let photo;
    try {
      photo = await Photo.open(blob);
    } catch (error) {
      if (error instanceof TooLarge) throw error;
      if (error instanceof RangeError) throw new TooLarge(); // no memory for its pixels
      throw new Error("can't be read by this browser: save it as JPEG or PNG first");
    }
    photos.set(id, photo);
    const { width, height } = photo.image;
    return { width, height, inColor: photo.inColor(), gray: photo.gray() };
  },
  close: ({ id }) => photos.delete(id),
  color: ({ id, preset, vividness, ...options }) =>
    photos.get(id).color(preset, vividness, options),
  ask: ({ id, preset, x, y, vividness }) => photos.get(id).ask(preset, x, y, vividness),
  embedding: ({ id, preset }) => photos.get(id).embedding(preset),
  async encode({ id, preset, vividness, type }) {
    const image = await photos.get(id).color(preset, vividness);
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d", { alpha: false }).putImageData(image, 0, 0);
    return canvas.convertToBlob({ type, quality: 0.92 });
  },
};

onProgress((loaded, total) => postMessage({ loaded, total }));

// One after the other: a knob that moves asks again before the last answer is there.
let last = Promise.resolve();
onmessage = ({ data: { number, task, ...rest } }) => {
  last = last.then(async () => {
    try {
      const result = await answers[task](rest);
      const pictures = [result, result?.gray].filter((one) => one instanceof ImageData);
      postMessage({ number, result }, pictures.map(({ data }) => data.buffer));
    } catch (error) {
      postMessage({ number, error: error.message });
    }
  });
};
