// Ask a pixel: what a network says of one place, on the plane of a and b.
import { latest } from "./engine.js";
import { css } from "./lab.js";
import { presets } from "./table.js";

const CELL = 10, HALF = 115;
const number = (value) => `${value < 0 ? "−" : ""}${Math.abs(Math.round(value))}`;
const pair = ([a, b]) => `a ${number(a)}, b ${number(b)}`;

/** @param knob the live-knob whose photo is asked; the panel is filled when it shows one. */
export function askPixel(panel, knob) {
  const canvas = panel.querySelector("canvas"), plane = panel.querySelector("svg");
  const text = panel.querySelector("[aria-live]");
  let at = [0.5, 0.5], picture = null;

  const point = () => {
    const context = canvas.getContext("2d");
    canvas.width = picture.width;
    canvas.height = picture.height;
    context.putImageData(picture, 0, 0);
    const scale = canvas.width / (canvas.clientWidth || canvas.width);
    const [x, y] = [at[0] * canvas.width, at[1] * canvas.height];
    for (const [color, width] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = color;
      context.lineWidth = width * scale;
      context.beginPath();
      context.arc(x, y, 9 * scale, 0, 2 * Math.PI);
      context.stroke();
    }
  };

  const answer = latest((aloud) => say(aloud).catch((error) => { text.textContent = error.message; }));
  const say = async (aloud) => {
    const table = await presets(), photo = await knob.photo;
    const preset = table[knob.preset].counts ? knob.preset
      : Object.keys(table).find((name) => table[name].counts);
    const vividness = table[knob.preset].counts ? knob.vividness : table[preset].vividness;
    const { shares, raw, mean, truth } =
      await photo.ask("ask", { preset, x: at[0], y: at[1], vividness });
    draw(plane, table[preset].bins, shares, mean, photo.inColor ? truth : null, truth[0]);
    if (!aloud) return;
    const top = raw.indexOf(Math.max(...raw));
    text.textContent =
      `${preset} holds ${pair(table[preset].bins[top])} for the most probable color here, with `
      + `${Math.round(100 * raw[top])} %. At vividness ${vividness.toFixed(2)} it paints the mean, `
      + `${pair(mean)}.` + (photo.inColor ? ` The photo's own color is ${pair(truth.slice(1))}.` : "");
  };

  const move = (x, y) => {
    at = [x, y].map((value) => Math.min(0.999, Math.max(0, value)));
    point();
    answer(true);
  };
  canvas.addEventListener("pointerdown", (event) => {
    const box = canvas.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(...at.map((value, i) => value + step[i] * (event.shiftKey ? 0.1 : 0.02)));
  });
  let shown = null;
  knob.addEventListener("colored", ({ detail: { photo, image, size } }) => {
    panel.hidden = false;
    if (photo !== shown) at = [0.5, 0.5];
    [shown, picture] = [photo, image];
    point();
    answer(size === "resting"); // Screen readers read each change of the text aloud.
  });
}

/** The colors as cells: the more probable, the larger; the mean a ring, the truth a cross. */
function draw(plane, bins, shares, mean, truth, lightness) {
  const most = Math.max(...shares), shown = Math.min(85, Math.max(35, lightness));
  const cells = bins.map(([a, b], i) => {
    const side = CELL * Math.sqrt(shares[i] / most), color = css(shown, a, b);
    const ghost = `<rect x="${a - 1}" y="${-b - 1}" width="2" height="2" fill="${color}"/>`;
    return side < 2 ? ghost
      : `<rect x="${a - side / 2}" y="${-b - side / 2}" width="${side}" height="${side}" fill="${color}"/>`;
  });
  const marks = `<circle class="mean" cx="${mean[0]}" cy="${-mean[1]}" r="6"/>`
    + (truth ? `<path class="truth" d="M${truth[1] - 5} ${-truth[2]}h10m-5 -5v10"/>` : "");
  plane.setAttribute("viewBox", `${-HALF} ${-HALF} ${2 * HALF} ${2 * HALF}`);
  plane.innerHTML =
    `<path class="axes" d="M${-HALF} 0H${HALF}M0 ${-HALF}V${HALF}"/>`
    + `<text x="${HALF - 2}" y="-3" text-anchor="end">a: red</text><text x="3" y="${9 - HALF}">b: yellow</text>`
    + cells.join("") + marks;
}
