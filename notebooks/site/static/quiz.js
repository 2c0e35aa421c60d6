// The page quiz.md: twelve photos one by one, and at the end what the answers come to. Everything
// is fetched when the page opens; nothing is stored and nothing is sent.
import { dPrime, wilson } from "./dprime.js";

const DEAF_MS = 200; // a double tap must not answer the next photo, too
const FOLDER = "quiz/";

const quiz = document.getElementById("quiz");
const find = (selector) => quiz.querySelector(selector);
const screens = [...quiz.querySelectorAll("[data-screen]")];

function show(name) {
  for (const screen of screens) screen.hidden = screen.dataset.screen !== name;
}

function shuffled(list) {
  const mixed = [...list];
  for (let i = mixed.length - 1; i > 0; i -= 1) {
    const j = Math.floor(Math.random() * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

async function load(photo) {
  const image = new Image();
  image.src = FOLDER + photo.file;
  await image.decode();
  return { ...photo, image };
}

async function loadAll() {
  const { texts, photos } = await (await fetch(`${FOLDER}photos.json`)).json();
  return { texts, loaded: await Promise.all(photos.map(load)) };
}

const { texts, loaded } = await loadAll().catch((error) => {
  find("[data-screen=loading]").textContent =
    "The photos could not be fetched. Please check your connection and reload this page.";
  throw error; // nothing below can go on
});
let order = [];
let answers = []; // for each photo: whether it was called real
let since = 0;

const buttons = [...quiz.querySelectorAll(".quiz-answers button")];
buttons.forEach((button, index) => {
  button.textContent = texts.answers[index];
  const key = document.createElement("kbd");
  key.textContent = texts.keys[index].toUpperCase();
  button.append(" ", key);
  button.addEventListener("click", () => answer(index === 0));
});
find("[data-fill=question]").textContent = texts.question;
find(".quiz-start").addEventListener("click", begin);
find(".quiz-again").addEventListener("click", begin);
// Not on the whole page: a single key may act only where the focus is (WCAG 2.1.4).
find("[data-screen=trial]").addEventListener("keydown", (event) => {
  const index = texts.keys.indexOf(event.key.toLowerCase());
  if (index < 0 || event.altKey || event.ctrlKey || event.metaKey || event.repeat) return;
  answer(index === 0);
});
show("start");

function begin() {
  order = shuffled(loaded);
  answers = [];
  show("trial");
  ask();
  find("[data-fill=question]").focus();
  quiz.scrollIntoView({ block: "start" });
}

function ask() {
  const { image } = order[answers.length];
  image.alt = texts.alt;
  find(".quiz-photo").replaceChildren(image);
  find("[data-fill=progress]").textContent = texts.progress
    .replace("{number}", answers.length + 1)
    .replace("{total}", order.length);
  since = performance.now();
}

function answer(real) {
  if (performance.now() - since < DEAF_MS) return;
  answers.push(real);
  if (answers.length < order.length) ask();
  else finish();
}

function finish() {
  const judged = order.map((photo, index) => ({ ...photo, real: answers[index] }));
  const [colored, originals] = [true, false].map((kind) => judged.filter((p) => p.colored === kind));
  const fooled = colored.filter((photo) => photo.real).length;
  const doubted = originals.filter((photo) => !photo.real).length;
  const d = dPrime(colored.length - fooled, colored.length, doubted, originals.length);
  const share = wilson(fooled, colored.length);
  const percent = (part) => `${Math.round(100 * part)}\u00a0%`;
  const number = (value) => value.toFixed(1).replace("-", "\u2212");
  const values = {
    right: judged.filter((photo) => photo.real !== photo.colored).length,
    total: judged.length,
    dprime: number(d.value),
    range: `${number(d.low)} to ${number(d.high)}`,
    fooled: `${fooled} of ${colored.length}`,
    percent: percent(fooled / colored.length),
    wilson: `${percent(share.low)} to ${percent(share.high)}`,
    doubted: `${doubted} of ${originals.length}`,
  };
  for (const [name, value] of Object.entries(values)) {
    for (const place of quiz.querySelectorAll(`[data-fill=${name}]`)) place.textContent = value;
  }
  find(".quiz-review").replaceChildren(...judged.map(review));
  show("result");
  find("[data-screen=result] h2").focus();
  quiz.scrollIntoView({ block: "start" });
}

function review({ image, title, credit, colored, real }) {
  const figure = document.createElement("figure");
  figure.className = real === colored ? "quiz-wrong" : "quiz-right";
  const text = document.createElement("figcaption");
  const [verdict, name, small] = ["b", "span", "small"].map((tag) => document.createElement(tag));
  verdict.textContent = `${real === colored ? "✗" : "✓"} ${colored ? "recolored" : "real"}`;
  name.textContent = `${title}; you said ${real ? "real" : "fake"}`;
  small.textContent = credit;
  image.alt = title;
  text.append(verdict, name, small);
  figure.append(image, text);
  return figure;
}
