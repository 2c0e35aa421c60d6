// color.html: the reader's own photos, colored in the browser.
import { Photo, ask, fileAt, obstacle, onProgress } from "./engine.js";
import "./knob.js";
import { askPixel } from "./pixel.js";
import { mark, nameFor, offer, portions, zip } from "./save.js";
import { swapEmbedding } from "./swap.js";
import { presets } from "./table.js";

const $ = (id) => document.getElementById(id);
const PICTURES = /\.(jpe?g|jfif|png|webp|avif|gif|bmp|tiff?|heic|heif|jxl)$/i;
const knob = $("knob");
let files = [], current = null, open = null, turn = 0;

const tell = (text) => { $("status").textContent = text; };
const complain = (text) => {
  const line = document.createElement("li");
  line.textContent = text;
  $("problems").append(line);
};

/** Says why no other photo is shown than before. */
function fail(text) {
  press(current);
  tell("");
  complain(text);
}

/** Begins what the reader asks for: what was said of things asked for earlier goes. */
const begin = () => $("problems").replaceChildren();

/** The same of a photo to be shown; its turn, which is over once another one has begun. */
function beginPhoto() {
  begin();
  return ++turn;
}

let tenth = null; // Screen readers read each change aloud: ten are enough.
onProgress((loaded, total) => {
  const before = tenth;
  tenth = loaded < total ? Math.floor((10 * loaded) / total) : null;
  if (tenth === before) return;
  const [now, all] = [loaded, total].map((bytes) => (bytes / 1e6).toFixed(1));
  tell(tenth === null ? "" : `Fetching the network: ${now} of ${all} MB, once`);
});

/** Takes the photos among files, shows them in a row where they are several, and the first. */
async function add(given, mine = beginPhoto()) {
  const found = [...given].filter((file) => file.type.startsWith("image/") || PICTURES.test(file.name));
  if (!found.length) return fail("There is no photo among these files.");
  offerAll(found);
  await show(files[0], mine);
}

function offerAll(found) {
  files = found;
  $("row").hidden = $("all").hidden = files.length < 2;
  $("row").replaceChildren(...files.map((file) => {
    const button = document.createElement("button");
    button.textContent = file.name;
    button.onclick = () => show(file);
    return button;
  }));
}

/** Says in the row which photo is shown. */
function press(file) {
  [...$("row").children].forEach((button, i) => button.setAttribute("aria-pressed", files[i] === file));
}

async function show(file, mine = beginPhoto()) {
  press(file);
  tell(`Opening ${file.name}`);
  try {
    const photo = await opened(file);
    if (mine !== turn) return photo.close();
    tell("Coloring");
    open?.close();
    [open, current] = [photo, file]; // The knob shows it, gray at least, whatever happens now.
    for (const button of document.querySelectorAll(".save")) button.disabled = false;
    await knob.show(photo);
    if (mine === turn) tell(`${file.name}, ${photo.width} × ${photo.height}`);
  } catch (error) {
    if (mine === turn) fail(`${file.name}: ${error.message}`);
  }
}

async function opened(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer());
  if (head[1] === 0x50 && head[2] === 0x4e && head[24] === 16)
    complain(`${file.name}: has 16 bits a channel, of which a browser keeps 8; the command colorlib keeps all.`);
  return Photo.open(file);
}

/** The file of a photo that was opened from `file`, colored as the knob has it, and marked. */
async function made(photo, file, type, { preset, vividness } = knob) {
  const entry = (await presets())[preset];
  const knobbed = entry.vividness === null ? "" : `, vividness ${vividness}`;
  const blob = await photo.ask("encode", { preset, vividness, type });
  return mark(blob, file, photo, `${entry.made_by}${knobbed}, in a browser`, entry.profile);
}

async function save(type) {
  begin();
  tell("Writing the file");
  try {
    const name = nameFor(current.name, type);
    offer(await made(open, current, type), name);
    tell(`${name} is with your downloads`);
  } catch (error) {
    tell("");
    complain(`${current.name}: ${error.message}`);
  }
}

async function saveAll() {
  // As things stand now, whatever is clicked meanwhile.
  const all = files, how = { preset: knob.preset, vividness: knob.vividness };
  const done = [], failed = [], taken = new Set();
  begin();
  $("all").disabled = true;
  for (const [i, file] of all.entries()) {
    tell(`Coloring ${i + 1} of ${all.length}: ${file.name}`);
    let photo;
    try {
      photo = await opened(file);
      const blob = await made(photo, file, "image/jpeg", how);
      done.push({ name: nameFor(file.name, "image/jpeg", taken), blob });
    } catch (error) {
      failed.push(`${file.name}: ${error.message}`);
    } finally {
      photo?.close();
    }
  }
  await offerZips(done, all.length);
  failed.forEach(complain); // at the end, as a click on another photo would take them away
  $("all").disabled = false;
}

/** Offers as many zips as the files need, and says how many of `count` photos are in them. */
async function offerZips(done, count) {
  const names = [];
  let saved = 0;
  try {
    for (const portion of portions(done)) {
      const name = names.length ? `colored-${names.length + 1}.zip` : "colored.zip";
      offer(await zip(portion), name);
      names.push(name);
      saved += portion.length;
    }
  } catch (error) {
    complain(`The zip can't be made: ${error.message}`);
  }
  tell(saved ? `${saved} of ${count} photos are in ${names.join(", ")}` : "");
}

async function sample(button) {
  const mine = beginPhoto();
  try {
    const file = await fileAt(button.dataset.photo);
    if (mine !== turn) return;
    offerAll([]);
    await show(file, mine);
  } catch (error) {
    if (mine === turn) fail(error.message);
  }
}

/** The files of what was dropped, with those of its folders. */
async function dropped(items, mine) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean), found = [];
  for (let entry; (entry = entries.shift());) {
    try {
      if (entry.isFile) {
        found.push(await new Promise((...done) => entry.file(...done)));
        continue;
      }
      const reader = entry.createReader();  // gives a hundred at a time
      for (let some; (some = await new Promise((...done) => reader.readEntries(...done))).length;)
        entries.push(...some);
    } catch (error) {
      if (mine === turn) complain(`${entry.name}: ${error.message}`);
    }
  }
  return found;
}

function listen() {
  const zone = $("drop");
  for (const input of zone.querySelectorAll("input"))
    input.onchange = () => {
      const given = [...input.files];
      input.value = ""; // else the same photo can't be chosen again
      if (given.length) add(given);
    };
  for (const name of ["dragover", "dragleave", "drop"])
    document.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
    });
  document.addEventListener("drop", async ({ dataTransfer: { items, files: plain } }) => {
    const all = [...plain], mine = beginPhoto(); // The files are gone after the first wait.
    const found = await dropped(items, mine);
    if (mine === turn) add(found.length ? found : all, mine);
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) add(clipboardData.files);
  });
  for (const button of document.querySelectorAll("#samples button"))
    button.onclick = () => sample(button);
  for (const input of document.querySelectorAll("[name=preset]"))
    input.onchange = () => {
      begin();
      knob.choose(input.value).catch((error) => complain(error.message));
    };
  $("jpeg").onclick = () => save("image/jpeg");
  $("png").onclick = () => save("image/png");
  $("all").onclick = saveAll;
  askPixel($("pixel"), knob);
  swapEmbedding($("swap"), $("samples"));
  zone.disabled = false;
  // A file is opened at once when it comes: what colors it is fetched meanwhile.
  zone.addEventListener("pointerenter", () => ask("prepare", { preset: knob.preset }).catch(() => {}),
    { once: true });
}

// Without networks the page shows what was colored beforehand.
const rest = () => { for (const id of ["drop", "choice", "samples", "swap"]) $(id).hidden = true; };
if (obstacle()) rest();
else presets().then(listen, rest);
