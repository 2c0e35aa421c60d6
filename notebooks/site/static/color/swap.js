// Swap the embedding: the paper's network, told that a photo shows something else.
import { Photo, fileAt, latest } from "./engine.js";
import { json, presets } from "./table.js";

const TOP = 5;

/** @param samples the row of buttons whose photos are offered. */
export function swapEmbedding(panel, samples) {
  const start = panel.querySelector(".start"), note = panel.querySelector("[role=status]");
  const [photos, others] = panel.querySelectorAll(".thumbs");
  const pictures = panel.querySelectorAll("figure");
  const offered = [...samples.querySelectorAll("button")].map((button) => ({
    address: button.dataset.photo,
    thumbnail: button.querySelector("img").src,
    name: button.getAttribute("aria-label"),
  }));
  const chosen = [offered[0], offered[1]], open = new Map();
  let preset, entry, classes;

  const known = (choice) => {
    if (!open.has(choice)) {
      open.set(choice, fileAt(choice.address).then(async (file) => {
        const photo = await Photo.open(file);
        return { photo, embedding: await photo.ask("embedding", { preset }) };
      }));
      open.get(choice).catch(() => open.delete(choice)); // Another click tries again.
    }
    return open.get(choice);
  };

  /** The most probable classes of an embedding, which is standardized: "name 93 %", … */
  const seen = (embedding) => {
    const logits = Array.from(embedding, (value) => value * entry.deviation + entry.mean);
    const most = Math.max(...logits), powers = logits.map((value) => Math.exp(value - most));
    const sum = powers.reduce((total, value) => total + value, 0);
    return powers.map((value, i) => [value / sum, classes[i]]).sort((x, y) => y[0] - x[0])
      .slice(0, TOP).map(([share, name]) => `${name.replaceAll("_", " ")} ${Math.round(100 * share)} %`);
  };

  const show = latest(async () => {
    try {
      note.textContent = "Coloring";
      const [own, other] = [await known(chosen[0]), await known(chosen[1])];
      const color = (embedding) =>
        own.photo.ask("color", { preset, vividness: 0, size: "moving", embedding });
      const images = [own.photo.gray, await color(own.embedding), await color(other.embedding)];
      const lines = [[], seen(own.embedding), seen(other.embedding)];
      pictures.forEach((figure, i) => {
        const canvas = figure.querySelector("canvas");
        Object.assign(canvas, { width: images[i].width, height: images[i].height });
        canvas.getContext("2d").putImageData(images[i], 0, 0);
        figure.querySelector("ol")?.replaceChildren(...lines[i].map((line) => {
          const item = document.createElement("li");
          item.textContent = line;
          return item;
        }));
      });
      panel.querySelector(".three").hidden = false;
      note.textContent = "";
    } catch (error) {
      note.textContent = error.message;
    }
  });

  const fill = (row, which) => {
    row.replaceChildren(...offered.map((choice) => {
      const button = document.createElement("button");
      button.innerHTML = `<img src="${choice.thumbnail}" alt="${choice.name}">`;
      button.onclick = () => {
        chosen[which] = choice;
        for (const one of row.children) one.setAttribute("aria-pressed", one === button);
        show();
      };
      button.setAttribute("aria-pressed", choice === chosen[which]);
      return button;
    }));
  };

  start.onclick = async () => {
    start.disabled = true;
    try {
      const table = await presets();
      preset = Object.keys(table).find((name) => table[name].embed);
      entry = table[preset];
      classes = await json("classes.json");
      fill(photos, 0);
      fill(others, 1);
      panel.querySelector(".choices").hidden = false;
      // The button that goes had the focus, unless the reader went on.
      if ([start, document.body].includes(document.activeElement)) photos.firstChild.focus();
      start.hidden = true;
      await show();
    } catch (error) {
      note.textContent = error.message;
      start.disabled = false;
    }
  };
}
