// <live-knob>: a photo gray and colored under one slider, with the knob `vividness` below.
//
// In the page it holds two figures, gray and colored beforehand, that show without scripts:
//   <live-knob photo="photo.jpg" preset="pyramid"><figure>…</figure><figure>…</figure></live-knob>
// The network is fetched when the knob is first touched. Beside this module a page loads color.css
// and img-comparison-slider with slider.js, which mends it; color.md shows how.
import { Photo, fileAt, latest, obstacle } from "./engine.js";
import { presets } from "./table.js";

const HANDLE = '<div class="handle" slot="handle"><svg width="24" height="24" viewBox="0 0 24 24" '
  + 'fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true">'
  + '<path d="M9 7l-5 5 5 5M15 7l5 5-5 5"/></svg></div>';
let count = 0;

export class LiveKnob extends HTMLElement {
  async connectedCallback() {
    if (this.slider) return;
    const [gray, colored] = this.querySelectorAll("figure");
    const id = `knob-${count++}`;
    this.insertAdjacentHTML("beforeend",
      `<div class="stage"><img-comparison-slider role="slider" keyboard="disabled"
        aria-valuemin="0" aria-valuemax="100"
        aria-label="Gray or colored">${HANDLE}</img-comparison-slider></div>
      <p class="knob"><label for="${id}">Vividness</label>
        <input id="${id}" type="range" min="0" max="1" step="0.01">
        <output for="${id}"></output></p>
      <p class="note" role="status"></p>`);
    this.slider = this.querySelector("img-comparison-slider");
    this.range = this.querySelector("input");
    this.note = this.querySelector(".note");
    gray.slot = "first";
    colored.slot = "second";
    this.slider.prepend(gray, colored);
    this.shape(gray.querySelector("img"));
    mendSlider(this.slider);
    const move = latest((size) => this.draw(size).catch((error) => this.tell(error.message)));
    this.range.oninput = () => {
      this.label();
      move("moving");
    };
    this.range.onchange = () => move("resting");
    this.preset = this.getAttribute("preset");
    const obstructed = obstacle();
    this.range.disabled = true;
    if (obstructed) return this.tell(obstructed);
    try {
      this.reset(await presets());
    } catch (error) {
      this.tell(error.message);
    }
  }

  /** The range as the preset has it. */
  reset(table) {
    const { vividness } = table[this.preset];
    this.range.disabled = vividness === null;
    this.range.value = vividness ?? 0;
    this.label();
  }

  get vividness() {
    return Number(this.range.value);
  }

  label() {
    this.querySelector("output").value =
      this.range.disabled ? "none: this network gives one color" : this.vividness.toFixed(2);
  }

  tell(text) {
    this.note.textContent = text;
  }

  shape({ width, height }) {
    const ratio = width / height;
    if (ratio) this.style.setProperty("--ratio", ratio);
  }

  /** Colors with another preset. */
  async choose(preset) {
    this.preset = preset;
    this.reset(await presets());
    await this.draw("resting");
  }

  /** Shows a photo of the engine in the place of the one before: gray, and then colored. */
  async show(photo) {
    this.photo = photo;
    this.shape(photo);
    for (const figure of this.slider.querySelectorAll("figure")) {
      paint(figure, photo.gray, "gray");
      figure.querySelector("figcaption").textContent = "gray";
    }
    await this.draw("resting");
  }

  /** Colors, `moving` or `resting`; what comes after another photo or preset was chosen is left. */
  async draw(size) {
    if (!this.photo) this.tell("Fetching the network, once");
    const given = (this.photo ??= this.own()), { preset } = this;
    const overtaken = () => (this.photo ?? given) !== given || preset !== this.preset;
    try {
      const photo = await given, { vividness } = this;
      const image = await photo.ask("color", { preset, vividness, size });
      if (overtaken()) return;
      const [, colored] = this.slider.querySelectorAll("figure");
      paint(colored, image, `colored by ${preset}`);
      colored.querySelector("figcaption").textContent = preset;
      this.dispatchEvent(new CustomEvent("colored", { detail: { photo, image, size } }));
    } catch (error) {
      if (!overtaken()) throw error;
    } finally {
      if (!overtaken()) this.tell("");
    }
  }

  /** The photo that the markup names. */
  async own() {
    try {
      return await Photo.open(await fileAt(this.getAttribute("photo")));
    } catch (error) {
      this.photo = null; // The next touch tries again.
      throw error;
    }
  }
}

/** Draws into a figure's canvas, which takes the place of its picture. */
function paint(figure, image, alt) {
  let canvas = figure.querySelector("canvas");
  if (!canvas) {
    canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    figure.querySelector("img").replaceWith(canvas);
  }
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.setAttribute("aria-label", `The photo, ${alt}`);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

customElements.define("live-knob", LiveKnob);
