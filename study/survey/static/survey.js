// The page of the study: consent, instructions, practice, trials, questions, debriefing, thanks.
// jsPsych shows each screen and times it; what the next screen is follows from the server's word.

import { Outbox, Refused, newId, newKey, persist, request, speakFor } from "./outbox.js";
import { Photos } from "./photos.js";
import { enter, link, tab, turk } from "./visitor.js";
import { drawnSide, drawnWidth, watchFocus, watchSize } from "./watch.js";

const DEAF_MS = 200; // a double tap must not answer the next photo, too
const HALF_FRAME_MS = 8; // at 60 frames a second
const CARD_MM = 53.98; // the shorter side of a bank card (ISO/IEC 7810, ID-1)
const USUAL_PX_PER_MM = 96 / 25.4;
// What the server says when it knows more of the session than this page does.
const STALE = ["answered", "changed", "not_due", "no_session", "no_trial"];

const stage = document.getElementById("stage");
const status = document.getElementById("status");
const progress = document.getElementById("progress");
const enlarge = document.getElementById("enlarge");
const troubles = new Set();
const outboxes = {}; // the current one, once there is a session
const mturk = turk();
let study, texts;
let release = () => {}; // lets another tab have the study
let jsPsych; // the one that shows the present screen
let covered; // what had the focus when the stage was covered
let pxPerMm = null; // by the person's own calibration, where the protocol asks for it

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
  jsPsych = initJsPsych({ display_element: stage, use_webaudio: false });
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

function textScreen(title, body, next, more = "") {
  return {
    type: jsPsychHtmlButtonResponse,
    stimulus: `<div class="text">${heading(title)}${paragraphs(body)}${more}</div>`,
    choices: [next],
    button_html: (choice) => button(choice),
    on_load: () => arrive("text"),
  };
}

// A last page, with nothing behind it.
function end(content) {
  release();
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

async function consent(another) {
  const { consent } = study;
  let declined = false;
  const [shown] = await run([
    {
      type: jsPsychSurveyHtmlForm,
      html:
        `<div class="text">${heading(consent.title)}${paragraphs(consent.body)}` +
        `${box("adult", consent.adult)}${box("agree", consent.agree)}</div>` +
        `<button type="button" class="button quiet" id="decline">${html(consent.decline)}</button>`,
      button_label: html(consent.accept),
      on_load: () => {
        arrive("consent");
        const form = document.getElementById("jspsych-survey-html-form");
        const decline = document.getElementById("decline");
        form.append(decline); // the keyboard goes where the eye goes
        decline.addEventListener("click", () => {
          declined = true;
          form.noValidate = true;
          form.querySelector("[type=submit]").click(); // Safari has requestSubmit from 16
        });
      },
    },
  ]);
  return declined || !shown ? null : start(another);
}

function start(another) {
  const body = {
    protocol: study.protocol, // what was shown
    adult: true,
    agree: true,
    key: newKey(),
    another, // after a session that was somebody else's, or in a demonstration
    ...link(study.panel_parameter),
  };
  return persist(() => request("/api/start", body), trouble("start"));
}

// Who comes where something was begun already

// A screen with a choice; returns the chosen one's number.
async function choose(title, body, choices) {
  const screen = { ...textScreen(title, body), choices, grid_rows: null, grid_columns: 1 };
  screen.button_html = (choice, index) =>
    index ? button(choice).replace('class="button"', 'class="button quiet"') : button(choice);
  const [{ response }] = await run([screen]);
  return response;
}

// Whether somebody else than the one who was here before goes on.
function isSomebodyElse({ state }) {
  const { coming_back, problems } = texts;
  const { go_on, somebody_else } = coming_back;
  if (state === "running") {
    return choose(coming_back.title, [coming_back.begun_here], [go_on, somebody_else]);
  }
  const told = state === "finished" ? coming_back.finished_here : problems[state];
  return choose(texts.title, [told], [somebody_else]).then(() => true);
}

// Takes over what was begun by this invitation in another browser.
async function goOnHere(way) {
  const { title, begun_elsewhere, go_on } = texts.coming_back;
  await choose(title, [begun_elsewhere], [go_on]);
  const body = { invitation: way.invitation, key: newKey() };
  return persist(() => request("/api/continue", body), trouble("continue"));
}

// Withdrawal

function offerWithdrawal() {
  const opener = document.getElementById("withdraw");
  opener.textContent = texts.withdrawal.button;
  opener.hidden = false;
  opener.addEventListener("click", openWithdrawal);
}

function openWithdrawal() {
  if (document.querySelector("dialog")) return; // one that isn't modal leaves the opener within reach
  const { title, body, code, confirm, cancel } = texts.withdrawal;
  const known = tab.read()?.code ?? "";
  const dialog = document.createElement("dialog");
  const input =
    `<input name="code" value="${html(known)}" required maxlength="40"` +
    ' autocomplete="off" autocapitalize="characters" spellcheck="false">';
  dialog.setAttribute("aria-labelledby", "withdrawal");
  dialog.innerHTML =
    `<form><h2 id="withdrawal">${html(title)}</h2>${paragraphs(body)}` +
    `<label>${html(code)} ${input}</label><p role="alert"></p>` +
    `<div><button class="button">${html(confirm)}</button>` +
    `<button type="button" class="button quiet">${html(cancel)}</button></div></form>`;
  const first = dialog.querySelector(known ? "[type=button]" : "input");
  first.autofocus = true;
  const leave = () => {
    dialog.remove();
    stage.querySelector("h2")?.focus({ preventScroll: true }); // the keys answer again
  };
  const isModal = Boolean(dialog.showModal); // Safari has it from 15.4
  dialog.addEventListener("close", leave);
  dialog.querySelector("[type=button]").addEventListener("click", () => (isModal ? dialog.close() : leave()));
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    withdraw(dialog.querySelector("input").value, dialog.querySelector("[role=alert]"));
  });
  document.body.append(dialog);
  if (isModal) return dialog.showModal();
  dialog.setAttribute("role", "dialog");
  dialog.setAttribute("open", "");
  first.focus();
}

async function withdraw(code, alert) {
  try {
    await request("/api/withdraw", { code });
  } catch (error) {
    const { unknown, too_late, failed } = texts.withdrawal;
    const told = { unknown_code: unknown, anonymous: too_late };
    alert.textContent = told[error.message] ?? failed;
    return;
  }
  outboxes.current?.discard();
  tab.write({ withdrawn: true, stopped: tab.read()?.stopped, turk: mturk });
  location.replace(location.pathname); // a new page, on which nothing of the old one goes on
}

function withdrawn({ stopped }) {
  const { done_title, done_body } = texts.withdrawal;
  end(heading(done_title) + paragraphs(done_body) + completion(stopped));
}

// Photos

// Loads and begins a trial; the page says so where that takes a while.
async function begin(photos, trial) {
  const slow = setTimeout(() => troubles.size || say(texts.connection.loading), 400);
  try {
    return await photos.release(trial);
  } finally {
    clearTimeout(slow);
    unsay(texts.connection.loading);
  }
}

function place(image) {
  stage.querySelector(".photo").append(image);
}

// Covers a screen for as long as its photo would be too small to judge.
function askForRoom(side) {
  // A size that the protocol fixes may be smaller, on a screen of few px.
  const least = pxPerMm ? Math.min(study.min_side, study.side_mm * pxPerMm - 1) : study.min_side;
  const small = side < least;
  if (small && !stage.inert) covered = document.activeElement;
  const back = stage.inert && !small;
  stage.inert = small;
  if (back) covered.focus({ preventScroll: true }); // what is inert loses the focus
  const text = stage.inert ? texts.trial.enlarge : "";
  if (enlarge.textContent !== text) enlarge.textContent = text;
}

// The size at which photos are drawn, where the protocol fixes it.
function setSize() {
  const side = pxPerMm ? study.side_mm * pxPerMm : study.max_side;
  if (side) document.documentElement.style.setProperty("--side", `${side}px`);
}

// How many CSS px a millimeter has on this screen, by a card that is held to it.
async function calibrate() {
  const { title, body, slider, next } = texts.calibration;
  const least = 2 * CARD_MM;
  const range = `min="${least}" max="${5 * least}" step="0.5" value="${CARD_MM * USUAL_PX_PER_MM}"`;
  const more =
    `<div class="card"></div><label for="width">${html(slider)}</label>` +
    `<input type="range" id="width" ${range}>`;
  const screen = textScreen(title, body, next, more);
  screen.on_load = () => {
    arrive("text");
    const [card, input] = [stage.querySelector(".card"), stage.querySelector("#width")];
    const draw = () => {
      card.style.width = `${input.value}px`;
      pxPerMm = input.value / CARD_MM;
    };
    input.addEventListener("input", draw);
    draw();
  };
  await run([screen]);
}

// Trials

const PHOTO = '<div class="photo" translate="no"></div>';
// Arrows point at an answer where it stands, whatever the keyboard's letters are.
const ARROWS = { ArrowLeft: 0, ArrowUp: 0, ArrowRight: 1, ArrowDown: 1 };

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

// Waits for the person before timed photos, and for a window that is large enough.
async function getReady() {
  let stop;
  const screen = textScreen(texts.trial.ready, [], texts.trial.show);
  screen.on_load = () => {
    arrive("ready", { onButton: true });
    stop = watchSize(() => askForRoom(Math.min(stage.clientWidth, stage.clientHeight)));
  };
  screen.on_finish = () => stop();
  await run([screen]);
}

function timedPhotos(images, measured) {
  const labels = [texts.trial.first_photo, texts.trial.second_photo];
  const parts = images.map((image, i) => timedPhoto(image, labels[i], measured, i));
  return parts.flatMap((part) => (study.pause_ms ? [pauseScreen(), part] : [part]));
}

// Which answer a key stands for, or -1: by what is written on it, else, on a keyboard of other
// letters, by its place.
function choiceOf({ key, code }, keys) {
  if (key in ARROWS) {
    const mirrored = /Left|Right/.test(key) && getComputedStyle(stage).direction === "rtl";
    return mirrored ? 1 - ARROWS[key] : ARROWS[key];
  }
  const written = keys.findIndex((name) => name.toLowerCase() === key.toLowerCase());
  if (written >= 0 || /^[a-z]$/i.test(key)) return written;
  const places = (name) => ["Key", "Digit", "Numpad"].map((part) => part + name.toUpperCase());
  return keys.findIndex((name) => places(name).includes(code));
}

function questionScreen(image, measured) {
  const keys = [texts.trial.first_key, texts.trial.second_key];
  let stop;
  const press = (event) => {
    const choice = choiceOf(event, keys);
    if (choice < 0 || stage.inert || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
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
      // Not on the whole page: a single key may act only where the focus is (WCAG 2.1.4). `arrive`
      // has put it here, and a click on the photo does, too.
      stage.addEventListener("keydown", press);
      if (!image) return;
      place(image);
      stop = watchSize(() => {
        measured.width = drawnWidth(image);
        askForRoom(drawnSide(image));
      });
    },
    on_finish: () => {
      stop?.();
      stage.removeEventListener("keydown", press);
    },
  };
}

// Shows a trial; returns the answer as the server takes it.
async function ask(trial, photos) {
  const measured = { exposures: [] };
  const timed = study.exposure_ms > 0;
  if (timed) await getReady();
  const images = await begin(photos, trial);
  const stopFocus = watchFocus();
  const timeline = timed ? timedPhotos(images, measured) : [];
  timeline.push(questionScreen(timed ? null : images[0], measured));
  const shownAt = new Date().toISOString();
  const { rt, response } = (await run(timeline)).pop();
  const focusLost = stopFocus();
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
    px_per_mm: pxPerMm,
    focus_lost_ms: focusLost,
    shown_at: shownAt,
  };
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
    const reply = outbox.add("/api/answers", await ask(trial, photos));
    unsay(texts.problems.resumed);
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
      button_label: html(texts.questions.next),
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

function completion({ completion_code, completion_url } = {}) {
  const { thanks } = texts;
  if (completion_code && mturk) {
    const fields = { assignmentId: mturk.assignment, code: completion_code };
    const inputs = Object.entries(fields).map(
      ([name, value]) => `<input type="hidden" name="${name}" value="${html(value)}">`,
    );
    return (
      `<form method="post" action="${html(`${mturk.site}/mturk/externalSubmit`)}">` +
      `${inputs.join("")}<button class="button">${html(thanks.completion_link)}</button></form>`
    );
  }
  return (
    (completion_code
      ? `<p class="completion">${html(fill(thanks.completion_code, { code: completion_code }))}</p>`
      : "") +
    (completion_url
      ? `<p><a class="button" href="${html(completion_url)}">${html(thanks.completion_link)}</a></p>`
      : "")
  );
}

// Whoever finds the study finished, in a tab that does not know of it, gets no withdrawal code.
function thankYou(given, title) {
  const { thanks } = texts;
  const copy = navigator.clipboard ? `<p>${button(thanks.copy_code)}</p>` : "";
  const withdrawal =
    `<section><h3>${html(thanks.withdrawal_title)}</h3>${paragraphs(thanks.withdrawal_body)}` +
    `<p class="code"><output translate="no">${html(given.withdrawal_code)}</output></p>${copy}</section>`;
  end(
    `${heading(title ?? thanks.title)}${paragraphs(thanks.body)}${completion(given)}` +
      (given.withdrawal_code ? withdrawal : ""),
  );
  stage.querySelector("section button")?.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(given.withdrawal_code);
      say(thanks.copied);
    } catch {
      getSelection().selectAllChildren(stage.querySelector("output"));
      say(thanks.copy_failed);
    }
  });
}

// The whole

async function introduce(session) {
  const { instructions } = texts;
  if (session.answered.length) {
    say(texts.problems.resumed);
  } else {
    const { title, body, keys, start } = instructions;
    const told = fill(texts.withdrawal.told, { code: session.withdrawal_code });
    const more = `<p class="keys">${html(keys)}</p>`;
    await run([textScreen(title, [...body, told], start, more)]);
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
  const left = session.trials.filter((t) => !session.answered.includes(t.trial));
  const { media_type: type } = study;
  const photos = new Photos(left, { type, alt: texts.trial.image_alt, trouble });
  await introduce(session);
  if (study.side_mm && !pxPerMm && left.length) await calibrate();
  setSize();
  await practice(session, photos, outbox);
  if (!outbox.refused) await askAll("main", session, photos, outbox);
  if (!outbox.refused && study.questions.length && !session.replied) await questions(outbox);
  const thanks = outbox.refused ? null : await confirmAll(outbox);
  if (!thanks) return false;
  tab.write({ ...tab.read(), thanks });
  const { debriefing } = texts;
  await run([textScreen(debriefing.title, debriefing.body, debriefing.next)]);
  thankYou(thanks);
  return true;
}

// Whether this person came to the end; where the server's word has changed, it is asked for anew.
async function isThrough(state, outbox) {
  try {
    return await takePart(state, outbox);
  } catch (error) {
    if (error instanceof Refused && STALE.includes(error.message)) return false;
    throw error;
  }
}

async function session() {
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
  if (tab.read()?.withdrawn) return withdrawn(tab.take());
  const way = link(study.panel_parameter);
  let visit = await persist(() => enter(way), trouble("enter"));
  offerWithdrawal();
  if (await onlyTab(visit.entry)) visit = await persist(() => enter(way), trouble("enter"));
  if (visit.key) await session(); // sends what an earlier visit could not, whoever is here now
  if (visit.kept && visit.state === "new") return gone();
  if (visit.kept?.thanks) return thankYou(visit.kept.thanks, texts.problems.finished);
  let { entry } = visit;
  let begun = visit.mine && visit.state !== "new"; // whether this person has a session
  if (visit.state === "elsewhere") {
    ({ entry } = await goOnHere(way));
    begun = true;
  } else if (!visit.mine && visit.state !== "new" && (visit.state === "running" || !study.demo)) {
    begun = !(await isSomebodyElse(visit));
  }
  for (let rounds = 0; rounds < 5; rounds++) {
    let state = await session();
    let fresh = false;
    if (!begun || (study.demo && ["finished", "expired", "changed"].includes(state.state))) {
      const started = await consent(state.state !== "new");
      if (!started) return declined(visit);
      ({ entry } = started);
      begun = fresh = true;
      speakFor(entry);
      state = await session();
    }
    if (state.state === "finished") return thankYou(state, texts.problems.finished);
    if (["expired", "changed"].includes(state.state)) return problem(state.state);
    if (state.state === "new") return fresh ? problem("no_cookie", { reload: true }) : gone();
    tab.write({ entry, code: state.withdrawal_code, stopped: state.stopped, turk: mturk });
    history.replaceState(null, "", location.pathname); // the link has done its work
    if (await isThrough(state, outboxes.current)) return;
  }
  problem("unexpected", { reload: true });
}

function declined({ declined }) {
  const { title, declined: body } = study.consent;
  end(heading(title) + paragraphs(body) + completion(declined));
}

// The session was continued elsewhere, or withdrawn.
function gone() {
  tab.take();
  end(`${heading(texts.title)}<p>${html(texts.coming_back.gone)}</p>`);
}

// Waits until no other tab has the study open: two would answer the same photos. Returns whether
// one had.
async function onlyTab(entry) {
  if (!navigator.locks) return false;
  let waited = false;
  await new Promise((resolve) => {
    const late = setTimeout(() => {
      waited = true;
      problem("other_tab", { reload: true });
    }, 500);
    const begin = () => {
      clearTimeout(late);
      stage.replaceChildren();
      resolve();
    };
    const held = navigator.locks.request(`koala-${entry}`, () => {
      begin();
      return new Promise((done) => (release = done)); // to the last page, or until the page goes
    });
    held.catch(begin); // not allowed here: the server's word keeps answers apart, too
  });
  return waited;
}

main().catch((error) => {
  const shut = { closed: false, paused: false, full: false }; // nobody may begin
  const known = { bad_invitation: false, ...shut, photo_failed: true, no_cookie: true };
  // Of what is sent from here, only the link can be in a bad form.
  const causes = { no_photo: "photo_failed", bad_form: "bad_invitation" };
  const name = causes[error.message] ?? error.message;
  if (error instanceof Refused && name in known) return problem(name, { reload: known[name] });
  console.error(error);
  if (texts) problem("unexpected", { reload: true });
});
