// The page of the study: consent, instructions, practice, trials, questions, debriefing, thanks.
// jsPsych shows each screen and times it; what the next screen is follows from the server's word.

import { Outbox, Refused, persist, request } from "./outbox.js";

const AHEAD = 16; // photos that are fetched before their turn: a cut of half a minute goes unnoticed
const DEAF_MS = 200; // a double tap must not answer the next photo, too
const HALF_FRAME_MS = 8; // at 60 frames a second
const SHUT = ["closed", "paused", "full"]; // why nobody may begin

const stage = document.getElementById("stage");
const status = document.getElementById("status");
const progress = document.getElementById("progress");
const troubles = new Set();
let study, texts;
let jsPsych; // the one that shows the present screen

// Small helpers

const escaped = document.createElement("span");
function html(text) {
  escaped.textContent = text;
  return escaped.innerHTML.replaceAll('"', "&quot;");
}

const paragraphs = (list) => list.map((text) => `<p>${html(text)}</p>`).join("");
const heading = (text) => `<h2 tabindex="-1">${html(text)}</h2>`;
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

function say(text = "") {
  if (status.textContent !== text) status.textContent = text;
}

// Takes back what was said, if nothing else has been said since.
function unsay(text) {
  if (status.textContent === text) say();
}

// Says what is wrong with the connection, as long as something is.
function trouble(name) {
  return (is) => {
    if (is) troubles.add(name);
    else troubles.delete(name);
    if (troubles.size) say(texts?.connection.offline);
    else unsay(texts?.connection.offline);
  };
}

function frame() {
  return new Promise((resolve) => requestAnimationFrame(resolve));
}

// Screens

async function run(timeline) {
  stage.replaceChildren();
  jsPsych = initJsPsych({ display_element: stage });
  await jsPsych.run(timeline);
  const shown = jsPsych.data.get().values();
  stage.replaceChildren();
  stage.removeAttribute("tabindex");
  return shown;
}

// Called when a screen is there: a screen reader starts at its heading, or, where one key shall
// lead on, at its button with the heading as description.
function arrive(kind, { onButton = false } = {}) {
  document.body.dataset.screen = kind;
  window.scrollTo(0, 0);
  const heading = stage.querySelector("h2");
  const start = onButton ? stage.querySelector("button") : heading;
  if (onButton) start.setAttribute("aria-describedby", (heading.id = "heading"));
  start?.focus({ preventScroll: true });
}

function button(choice, key) {
  const hint = key ? ` <kbd aria-hidden="true">${html(key.toUpperCase())}</kbd>` : "";
  return `<button type="button" class="button"><span>${html(choice)}</span>${hint}</button>`;
}

function textScreen(title, body, next) {
  return {
    type: jsPsychHtmlButtonResponse,
    stimulus: `<div class="text">${heading(title)}${paragraphs(body)}</div>`,
    choices: [next],
    button_html: (choice) => button(choice),
    on_load: () => arrive("text"),
  };
}

// A last page, with nothing behind it.
function end(content) {
  progress.hidden = true;
  say();
  stage.innerHTML = `<div class="text">${content}</div>`;
  arrive("text");
}

function problem(name, { reload = false } = {}) {
  const again = reload ? `<p>${button(texts.problems.reload)}</p>` : "";
  end(`${heading(texts.title)}<p>${html(texts.problems[name])}</p>${again}`);
  stage.querySelector("button")?.addEventListener("click", () => location.reload());
}

function showProgress(number, total) {
  progress.hidden = false;
  const [label, bar] = progress.children;
  label.textContent = fill(texts.trial.progress, { number, total });
  bar.max = total;
  bar.value = number - 1;
}

// Consent

function box(name, text) {
  return `<label class="box"><input type="checkbox" name="${name}" required> ${html(text)}</label>`;
}

async function consent() {
  const { consent } = study;
  let declined = false;
  const [shown] = await run([
    {
      type: jsPsychSurveyHtmlForm,
      html:
        `<div class="text">${heading(consent.title)}${paragraphs(consent.body)}` +
        `${box("adult", consent.adult)}${box("agree", consent.agree)}</div>` +
        `<button type="button" class="button quiet" id="decline">${html(consent.decline)}</button>`,
      button_label: consent.accept,
      on_load: () => {
        arrive("consent");
        document.getElementById("decline").addEventListener("click", () => {
          declined = true;
          const form = document.getElementById("jspsych-survey-html-form");
          form.noValidate = true;
          form.requestSubmit();
        });
      },
    },
  ]);
  return declined || !shown ? null : start();
}

function start() {
  const link = new URLSearchParams(location.search);
  const body = {
    protocol: study.protocol, // what was shown
    adult: true,
    agree: true,
    again: true, // a demonstration can be seen twice
    invitation: link.get("invitation") || null,
    panel: link.get(study.panel_parameter) || null,
  };
  return persist(() => request("/api/start", body), trouble("start"));
}

// Photos

class Photos {
  constructor(trials) {
    this.queue = trials.flatMap((trial) => trial.photos);
    this.loaded = new Map(); // token -> promise of an <img>
  }

  // Starts what is missing of a trial's photos and of those that follow.
  fetchFrom(trial) {
    const place = this.queue.indexOf(trial.photos[0]);
    for (const token of this.queue.slice(place, place + AHEAD)) {
      if (this.loaded.has(token)) continue;
      this.loaded.set(token, this.fetch(token));
      this.loaded.get(token).catch(() => {}); // told when its turn comes
    }
  }

  fetch(token) {
    return persist(async () => {
      const image = new Image();
      image.src = `/image/${token}`;
      image.alt = texts.trial.image_alt;
      try {
        await image.decode();
      } catch (error) {
        const { state } = await request("/api/session");
        if (state !== "running") throw new Refused("photo_failed");
        throw error;
      }
      return image;
    }, trouble(token));
  }

  async get(trial) {
    this.fetchFrom(trial);
    const photos = Promise.all(trial.photos.map((token) => this.loaded.get(token)));
    const slow = setTimeout(() => troubles.size || say(texts.connection.loading), 400);
    const images = await photos;
    clearTimeout(slow);
    unsay(texts.connection.loading);
    return images;
  }

  forget(trial) {
    trial.photos.forEach((token) => this.loaded.delete(token));
  }
}

function place(image) {
  stage.querySelector(".photo").append(image);
}

// How wide the photo itself is drawn, CSS px: its element may have bands beside it.
function drawnWidth(image) {
  const ratio = image.naturalWidth / image.naturalHeight;
  return Math.min(image.clientWidth, image.clientHeight * ratio);
}

// Trials

const PHOTO = '<div class="photo"></div>';

// A photo for the protocol's time, from the frame that shows it first, which on a busy machine may
// be late, to the frame that no longer does. What is kept is the time between these two.
function timedPhoto(image, label, measured, index) {
  let shown;
  return {
    type: jsPsychHtmlKeyboardResponse,
    stimulus: `<p class="hidden" role="status">${html(label)}</p>${PHOTO}`,
    choices: "NO_KEYS",
    on_load: () => {
      document.body.dataset.screen = "timed";
      place(image);
      measured.width ??= drawnWidth(image);
      const { pluginAPI, finishTrial } = jsPsych;
      shown = frame();
      shown.then(() => pluginAPI.setTimeout(finishTrial, study.exposure_ms - HALF_FRAME_MS));
    },
    on_finish: () => {
      const gone = frame();
      measured.exposures[index] = Promise.all([shown, gone]).then(([from, to]) => to - from);
    },
  };
}

function pauseScreen() {
  return {
    type: jsPsychHtmlKeyboardResponse,
    stimulus: PHOTO,
    choices: "NO_KEYS",
    trial_duration: study.pause_ms,
    on_load: () => (document.body.dataset.screen = "timed"),
  };
}

function timedPhotos(images, measured) {
  const labels = [texts.trial.first_photo, texts.trial.second_photo];
  const ready = textScreen(texts.trial.ready, [], texts.trial.show);
  ready.on_load = () => arrive("ready", { onButton: true });
  const parts = images.map((image, i) => timedPhoto(image, labels[i], measured, i));
  return [ready, ...parts.flatMap((part) => (study.pause_ms ? [pauseScreen(), part] : [part]))];
}

function questionScreen(image, measured) {
  const keys = [texts.trial.first_key, texts.trial.second_key];
  const press = (event) => {
    const choice = keys.findIndex((key) => key.toLowerCase() === event.key.toLowerCase());
    if (choice < 0 || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    stage.querySelectorAll("button")[choice]?.click();
  };
  return {
    type: jsPsychHtmlButtonResponse,
    stimulus: heading(texts.trial.question) + (image ? PHOTO : ""),
    choices: [texts.trial.first_answer, texts.trial.second_answer],
    button_html: (choice, index) => button(choice, keys[index]),
    enable_button_after: DEAF_MS,
    on_load: () => {
      arrive(image ? "trial" : "question");
      if (image) {
        place(image);
        measured.width = drawnWidth(image);
      }
      document.addEventListener("keydown", press);
    },
    on_finish: () => document.removeEventListener("keydown", press),
  };
}

// Shows a trial; returns the answer as the server takes it.
async function ask(trial, images) {
  const measured = { exposures: [] };
  const timed = study.exposure_ms > 0;
  const timeline = timed ? timedPhotos(images, measured) : [];
  timeline.push(questionScreen(timed ? null : images[0], measured));
  const shownAt = new Date().toISOString();
  const { rt, response } = (await run(timeline)).at(-1);
  const [first = null, second = null] = await Promise.all(measured.exposures);
  const choices = study.mode === "2afc" ? ["first", "second"] : ["real", "fake"];
  return {
    id: newId(),
    trial: trial.trial,
    answer: choices[response],
    response_ms: rt,
    exposure_first_ms: first,
    exposure_second_ms: second,
    viewport_width: window.innerWidth,
    viewport_height: window.innerHeight,
    pixel_ratio: window.devicePixelRatio,
    zoom: window.visualViewport?.scale ?? 1,
    image_width_css: measured.width,
    shown_at: shownAt,
  };
}

// crypto.randomUUID exists on https and this machine only.
function newId() {
  const hex = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

async function tellResult(reply) {
  const result = await reply;
  if (result?.correct === undefined) return;
  const { practice } = texts;
  const told = textScreen(result.correct ? practice.right : practice.wrong, [], practice.next);
  await run([{ ...told, on_load: () => arrive("ready", { onButton: true }) }]);
}

// Asks all trials of a kind that the server has no answer to.
async function askAll(kind, session, photos, outbox) {
  const all = session.trials.filter((trial) => trial.kind === kind);
  for (const [index, trial] of all.entries()) {
    if (session.answered.includes(trial.trial)) continue;
    showProgress(index + 1, all.length);
    const images = await photos.get(trial);
    const reply = outbox.add("/api/answers", await ask(trial, images));
    unsay(texts.problems.resumed);
    photos.forget(trial);
    if (kind === "practice" && study.feedback) await tellResult(reply);
    if (outbox.refused) return; // the server's word is asked for anew
  }
}

// Questions

function fieldset({ id, text, options, consent }) {
  const all = [...options, { value: "", label: texts.questions.skip }];
  const radios = all.map(
    ({ value, label }) =>
      `<label><input type="radio" name="${id}" value="${value}"> ${html(label)}</label>`,
  );
  const body = `<fieldset><legend>${html(text)}</legend>${radios.join("")}</fieldset>`;
  if (!consent) return body;
  const agree = `<input type="checkbox" name="agree-${id}" data-opens="${id}">`;
  return `<label class="box">${agree} ${html(consent)}</label><div id="part-${id}" hidden>${body}</div>`;
}

async function questions(outbox) {
  progress.hidden = true;
  const parts = study.questions.map(fieldset).join("");
  const [{ response }] = await run([
    {
      type: jsPsychSurveyHtmlForm,
      html: `<div class="text">${heading(texts.questions.title)}${paragraphs(texts.questions.body)}${parts}</div>`,
      button_label: texts.questions.next,
      on_load: () => {
        arrive("text");
        for (const opener of stage.querySelectorAll("[data-opens]")) {
          const part = document.getElementById(`part-${opener.dataset.opens}`);
          opener.addEventListener("change", () => (part.hidden = !opener.checked));
        }
      },
    },
  ]);
  const agreed = study.questions.filter(({ id }) => response[`agree-${id}`]).map(({ id }) => id);
  const asked = study.questions.filter(({ id, consent }) => !consent || agreed.includes(id));
  const given = asked.map(({ id }) => [id, response[id]]).filter(([, value]) => value);
  outbox.add("/api/replies", { replies: Object.fromEntries(given), agreed });
}

// The end

async function confirmAll(outbox) {
  say(texts.connection.saving);
  await outbox.empty();
  try {
    const thanks = await persist(() => request("/api/finish", {}), trouble("finish"));
    say(texts.connection.saved);
    return thanks;
  } catch (error) {
    if (error instanceof Refused) return null; // answers are missing there: they are asked again
    throw error;
  }
}

function thankYou({ withdrawal_code, completion_code, completion_url }, title) {
  const { thanks } = texts;
  const code = `<p class="code"><output>${html(withdrawal_code)}</output></p>`;
  const copy = navigator.clipboard ? `<p>${button(thanks.copy_code)}</p>` : "";
  const completion =
    (completion_code
      ? `<p class="completion">${html(fill(thanks.completion_code, { code: completion_code }))}</p>`
      : "") +
    (completion_url
      ? `<p><a class="button" href="${html(completion_url)}">${html(thanks.completion_link)}</a></p>`
      : "");
  end(
    `${heading(title ?? thanks.title)}${paragraphs(thanks.body)}${completion}` +
      `<section><h3>${html(thanks.withdrawal_title)}</h3>` +
      `${paragraphs(thanks.withdrawal_body)}${code}${copy}</section>`,
  );
  stage.querySelector("button")?.addEventListener("click", async () => {
    await navigator.clipboard.writeText(withdrawal_code);
    say(thanks.copied);
  });
}

// The whole

async function introduce(session) {
  const { instructions } = texts;
  if (session.answered.length) {
    say(texts.problems.resumed);
  } else {
    const body = [...instructions.body, instructions.keys];
    await run([textScreen(instructions.title, body, instructions.start)]);
  }
}

async function practice(session, photos, outbox) {
  const isLeft = (kind) =>
    session.trials.some((t) => t.kind === kind && !session.answered.includes(t.trial));
  if (!isLeft("practice")) return;
  const { practice } = texts;
  await run([textScreen(practice.title, practice.body, practice.start)]);
  await askAll("practice", session, photos, outbox);
  if (outbox.refused) return;
  progress.hidden = true;
  await run([textScreen(practice.done_title, practice.done_body, practice.done_start)]);
}

// From wherever the server says that this person stands to the end; again where it disagrees.
async function takePart(session, outbox) {
  const photos = new Photos(session.trials.filter((t) => !session.answered.includes(t.trial)));
  await introduce(session);
  await practice(session, photos, outbox);
  if (!outbox.refused) await askAll("main", session, photos, outbox);
  if (!outbox.refused && study.questions.length && !session.replied) await questions(outbox);
  const thanks = outbox.refused ? null : await confirmAll(outbox);
  if (!thanks) return false;
  const { debriefing } = texts;
  await run([textScreen(debriefing.title, debriefing.body, debriefing.next)]);
  thankYou(thanks);
  return true;
}

async function session(outboxes) {
  let state = await persist(() => request("/api/session"), trouble("session"));
  if (!state.key) return state;
  outboxes.current = new Outbox(state.key, trouble("outbox"));
  // What an earlier visit could not send comes first: only then does the server know what is left.
  if (outboxes.current.items.length) {
    await outboxes.current.empty();
    state = await persist(() => request("/api/session"), trouble("session"));
  }
  outboxes.current.refused = false;
  return state;
}

async function main() {
  study = await persist(() => request("/api/study"), trouble("study"));
  texts = study.texts;
  say();
  await onlyTab();
  const outboxes = {};
  for (let rounds = 0; rounds < 5; rounds++) {
    let state = await session(outboxes);
    if (SHUT.includes(state.state)) return problem(state.state);
    const fresh = state.state === "new" || (study.demo && state.state !== "running");
    if (fresh && state.state !== "no_cookie") {
      const started = await consent();
      if (!started) return end(heading(study.consent.title) + paragraphs(study.consent.declined));
      history.replaceState(null, "", location.pathname); // the link has done its work
      state = await session(outboxes);
    }
    if (state.state === "finished") return thankYou(state.thanks, texts.problems.finished);
    if (["expired", "changed"].includes(state.state)) return problem(state.state);
    if (state.state !== "running") break;
    if (await takePart(state, outboxes.current)) return;
  }
  problem("unexpected", { reload: true });
}

// Waits until no other tab has the study open: two would answer the same photos.
async function onlyTab() {
  if (!navigator.locks) return;
  await new Promise((resolve) => {
    const late = setTimeout(() => problem("other_tab", { reload: true }), 500);
    navigator.locks.request("koala", () => {
      clearTimeout(late);
      stage.replaceChildren();
      resolve();
      return new Promise(() => {}); // held until the page goes
    });
  });
}

main().catch((error) => {
  const known = { bad_invitation: false, closed: false, paused: false, full: false, photo_failed: true };
  if (error instanceof Refused && error.message in known) {
    return problem(error.message, { reload: known[error.message] });
  }
  console.error(error);
  if (texts) problem("unexpected", { reload: true });
});
