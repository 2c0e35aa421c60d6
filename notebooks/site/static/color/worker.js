// The worker in which photos are opened and colored: a page that asks never waits.
import { everything, onProgress, prepare } from "./networks.js";
import { Photo, TooLarge } from "./photo.js";

const photos = new Map();

// What is done, with a photo that was open when it was asked for.
const answers = {
  prepare: (_, { preset }) => prepare(preset),
  async open(_, { id, blob }) {
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
  close: (_, { id }) => photos.delete(id),
  color: (photo, { preset, vividness, ...options }) => photo.color(preset, vividness, options),
  ask: (photo, { preset, x, y, vividness }) => photo.ask(preset, x, y, vividness),
  embedding: (photo, { preset }) => photo.embedding(preset),
  async encode(photo, { preset, vividness, type }) {
    const image = await photo.color(preset, vividness);
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d", { alpha: false }).putImageData(image, 0, 0);
    return canvas.convertToBlob({ type, quality: 0.92 });
  },
};

onProgress((loaded, total) => postMessage({ loaded, total }));

// One after the other: a knob that moves asks again before the last answer is there.
let last = Promise.resolve();
const queued = (work) => {
  const result = last.then(work);
  last = result.catch(() => {});
  return result;
};

onmessage = async ({ data: { number, task, ...rest } }) => {
  const photo = photos.get(rest.id); // It may be closed while a network is fetched.
  try {
    // Outside the queue: other photos and networks don't wait for a download.
    if (rest.preset) await everything(rest.preset);
    const result = await queued(() => answers[task](photo, rest));
    const pictures = [result, result?.gray].filter((one) => one instanceof ImageData);
    postMessage({ number, result }, pictures.map(({ data }) => data.buffer));
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};
