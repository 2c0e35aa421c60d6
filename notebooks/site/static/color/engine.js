// The page's side of the worker.

let worker, count = 0, progress = () => {};
const waiting = new Map();

/** Why photos can't be colored here, one sentence; empty where they can. */
export function obstacle() {
  if (typeof WebAssembly !== "object" || typeof OffscreenCanvas !== "function"
      || typeof DecompressionStream !== "function")
    return "This browser is too old to color photos: it lacks WebAssembly or what goes with it. "
      + "Above is a photo that was colored beforehand.";
  return "";
}

/** Calls `listener(loaded, total)`, bytes, while the networks are fetched; equal once none is. */
export function onProgress(listener) {
  progress = listener;
}

function start() {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => {
    if ("total" in data) return progress(data.loaded, data.total);
    const { resolve, reject } = waiting.get(data.number);
    waiting.delete(data.number);
    data.error ? reject(new Error(data.error)) : resolve(data.result);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values())
      reject(new Error(event.message || "The networks can't be started in this browser."));
    waiting.clear();
    worker.terminate();
    worker = null; // What is asked next starts another one.
    progress(0, 0);
  };
}

/** A file of the site, such as a sample photo. */
export async function fileAt(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return new File([await response.blob()], address.split("/").pop());
}

/** Asks the worker; what it answers. */
export function ask(task, rest = {}) {
  if (!worker) start();
  const number = count++;
  return new Promise((resolve, reject) => {
    waiting.set(number, { resolve, reject });
    worker.postMessage({ number, task, ...rest });
  });
}

/** A photo in the worker. */
export class Photo {
  static async open(blob) {
    const photo = new Photo();
    photo.id = count++;
    Object.assign(photo, await ask("open", { id: photo.id, blob }));
    return photo;
  }
  ask(task, rest) {
    return ask(task, { id: this.id, ...rest });
  }
  close() {
    return this.ask("close");
  }
}

/**
 * Makes one of many calls in a row: while one runs, of the newer ones only the last is kept.
 * @param {(…) => Promise} work
 */
export function latest(work) {
  let running = false, next = null;
  return async function call(...given) {
    next = given;
    if (running) return;
    running = true;
    try {
      while (next) {
        const now = next;
        next = null;
        await work(...now);
      }
    } finally {
      running = false;
    }
  };
}
