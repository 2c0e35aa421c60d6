// The networks: files beside the page, run by LiteRT in WebAssembly.
//
// In WebAssembly everywhere, not on the graphics processor: its half precision gives other colors
// on other machines, which nobody would notice, and a photo takes under a second without it.
import { Tensor, loadAndCompile, start } from "../vendor/litert/litert.js";
import { here, presets } from "./table.js";

const PATIENCE = 30; // seconds without a byte, after which a download counts as stalled
const MOST = 2; // compiled networks that are kept: those of a photo in `paper`

let tell = () => {}, arrived = 0;
const files = new Map(), programs = new Map();

/** Calls `listener(loaded, total)`, bytes, while files are fetched; equal once none is. */
export function onProgress(listener) {
  const sizes = new Map();
  tell = (name, loaded, total) => {
    sizes.set(name, [loaded, total]);
    const sums = [0, 1].map((i) => [...sizes.values()].reduce((sum, pair) => sum + pair[i], 0));
    listener(...sums);
  };
}

/** The parts of a file as they come. */
async function* parts(url) {
  const stop = new AbortController();
  // Bytes of any file count: a browser fetches only six at a time. Ticks and not the time, as none
  // passes while a photo is colored.
  let before = arrived, idle = 0;
  const watch = setInterval(() => {
    idle = arrived === before ? idle + 1 : 0;
    before = arrived;
    if (idle >= PATIENCE) stop.abort();
  }, 1000);
  try {
    const response = await fetch(url, { signal: stop.signal });
    if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
    const reader = response.body.getReader();
    for (let part; !(part = await reader.read()).done; arrived++) yield part.value;
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    throw new Error(`The download has stalled for ${PATIENCE} seconds. Try again.`);
  } finally {
    clearInterval(watch);
    stop.abort();
  }
}

async function fetched(url, bytes) {
  const result = new Uint8Array(bytes);
  let at = 0;
  tell(url.pathname, at, bytes);
  try {
    for await (const part of parts(url)) {
      if (at + part.length <= bytes) result.set(part, at);
      at += part.length;
      tell(url.pathname, Math.min(at, bytes), bytes);
    }
    if (at !== bytes) throw new Error(`${url.pathname}: cut short`);
    return result;
  } catch (error) {
    tell(url.pathname, 0, 0); // Nothing of it is under way any more.
    throw error;
  }
}

async function runtime() {
  const zipped = [];
  for await (const part of parts(here("../vendor/litert/litert.wasm.gz"))) zipped.push(part);
  const open = new Blob(zipped).stream().pipeThrough(new DecompressionStream("gzip"));
  await start(await new Response(open).arrayBuffer());
}

/** One promise for each key, made once; a failed one is made again when it is asked for. */
function once(map, key, make) {
  if (!map.has(key)) {
    map.set(key, make());
    map.get(key).catch(() => map.delete(key));
  }
  return map.get(key);
}

const stored = (entry) =>
  once(files, entry.file, () => fetched(here(`networks/${entry.file}`), entry.stored));

const running = () => once(files, "runtime", runtime);

/** All files of a preset: once they are here, no photo's shape needs the connection again. */
export async function everything(preset) {
  const { shapes, embed } = (await presets())[preset];
  await Promise.all([running(), ...[...Object.values(shapes), ...(embed ? [embed] : [])].map(stored)]);
}

/** The bytes of a file; one with a base takes from it what it does not have itself. */
async function whole(entry) {
  const own = await stored(entry);
  let result = own;
  if (entry.base) {
    const base = await stored(entry.base);
    result = new Uint8Array(entry.bytes);
    let at = 0, taken = 0;
    const take = (to) => {
      result.set(own.subarray(taken, taken + to - at), at);
      taken += to - at;
    };
    for (const [from, to, length] of entry.copies) {
      take(to);
      result.set(base.subarray(from, from + length), to);
      at = to + length;
    }
    take(entry.bytes);
  }
  // Only pages from this machine or over https may compute it.
  if (crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", result));
    const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    if (found !== entry.sha256) throw new Error(`${entry.file}: damaged; reload the page`);
  }
  return result;
}

/** Makes room for one more compiled network: each takes as much memory as its file, and more. */
function forget() {
  for (const [key, compiled] of [...programs].slice(0, 1 - MOST)) {
    programs.delete(key);
    compiled.then((gone) => gone.delete(), () => {});
  }
}

/** A compiled network. To be called in the worker's queue alone, where no other one is running. */
function program(entry) {
  const key = entry.sha256, known = programs.get(key);
  if (known) {
    programs.delete(key);
    programs.set(key, known); // as the last that goes
  } else forget();
  return once(programs, key, async () => {
    const [bytes] = await Promise.all([whole(entry), running()]);
    return loadAndCompile(bytes, { accelerator: "wasm" });
  });
}

async function run(entry, inputs) {
  const compiled = await program(entry), given = {}, tensors = [];
  try {
    for (const { name, shape } of compiled.getInputDetails())
      tensors.push((given[name] = new Tensor(inputs[name], shape)));
    const outputs = Object.values(await compiled.run(given));
    tensors.push(...outputs);
    return outputs[0].toTypedArray().slice();
  } finally {
    for (const tensor of tensors) tensor.delete();
  }
}

/** The logits of what a framed photo shows, standardized: Float32Array. */
export async function embed(preset, framed) {
  const { embed } = (await presets())[preset];
  await everything(preset);
  return run(embed, { square: framed.square });
}

/** A network's output for a framed photo: {values, height, width}. */
export async function predict(preset, framed, embedding) {
  const entry = (await presets())[preset], [height, width] = framed.shape;
  await everything(preset);
  const given = entry.embed ? (embedding ?? (await embed(preset, framed))) : null;
  const inputs = { lightness: framed.plane, embedding: given };
  const values = await run(entry.shapes[`${height}x${width}`], inputs);
  const scale = Math.sqrt((height * width * (entry.counts?.length ?? 2)) / values.length);
  return { values, scale, width: width / scale };
}

/** Fetches and compiles what a photo of the usual shape needs. */
export async function prepare(preset) {
  const { shapes, embed } = (await presets())[preset];
  await everything(preset);
  await Promise.all([program(Object.values(shapes).find((shape) => !shape.base)),
    ...(embed ? [program(embed)] : [])]);
}
