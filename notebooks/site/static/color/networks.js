// The networks: files beside the page, run by LiteRT in WebAssembly.
//
// In WebAssembly everywhere, not on the graphics processor: its half precision gives other colors
// on other machines, which nobody would notice, and a photo takes under a second without it.
import { Tensor, loadAndCompile, start } from "../vendor/litert/litert.js";
import { here, presets } from "./table.js";

let tell = () => {};
const files = new Map(), programs = new Map();

/** Calls `listener(loaded, total)`, bytes, while files are fetched. */
export function onProgress(listener) {
  const sizes = new Map();
  tell = (name, loaded, total) => {
    sizes.set(name, [loaded, total]);
    const sums = [0, 1].map((i) => [...sizes.values()].reduce((sum, pair) => sum + pair[i], 0));
    listener(...sums);
  };
}

async function fetched(url, bytes) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status}`);
  const result = new Uint8Array(bytes), reader = response.body.getReader();
  let at = 0;
  for (let part; !(part = await reader.read()).done; at += part.value.length) {
    if (at + part.value.length > bytes) break;
    result.set(part.value, at);
    tell(url.pathname, at + part.value.length, bytes);
  }
  if (at !== bytes) throw new Error(`${url.pathname}: cut short`);
  return result;
}

async function runtime() {
  const response = await fetch(here("../vendor/litert/litert.wasm.gz"));
  if (!response.ok) throw new Error(`${response.url}: ${response.status}`);
  const open = response.body.pipeThrough(new DecompressionStream("gzip"));
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

const running = () => once(programs, "runtime", runtime);

/** All files of a preset: once they are here, no photo's shape needs the connection again. */
async function everything(preset) {
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

function program(entry) {
  return once(programs, entry.sha256, async () => {
    const [bytes] = await Promise.all([whole(entry), running()]);
    return loadAndCompile(bytes, { accelerator: "wasm" });
  });
}

async function run(entry, inputs) {
  const compiled = await program(entry), given = {};
  for (const { name, shape } of compiled.getInputDetails())
    given[name] = new Tensor(inputs[name], shape);
  const [output] = Object.values(await compiled.run(given));
  const result = output.toTypedArray().slice();
  for (const tensor of [output, ...Object.values(given)]) tensor.delete();
  return result;
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
