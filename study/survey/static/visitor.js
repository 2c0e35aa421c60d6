// Whom this page speaks for: the way in, and what this tab alone knows of its session.

import { request, speakFor } from "./outbox.js";

const NAME = "koala-tab";

// {entry, code, stopped, thanks}: lives as long as the tab, so that the next person at this
// computer sees none of it. Nothing is written before consent.
export const tab = {
  read() {
    try {
      return JSON.parse(sessionStorage.getItem(NAME));
    } catch {
      return null;
    }
  },
  write(values) {
    try {
      sessionStorage.setItem(NAME, JSON.stringify(values));
    } catch {
      // Without a store, the page asks after a reload who is there.
    }
  },
  // What was noted is told once.
  take() {
    const values = this.read();
    try {
      sessionStorage.removeItem(NAME);
    } catch {
      // Nothing was written, either.
    }
    return values;
  },
};

// A link that was copied from a mail may have a blank at its end.
export function link(parameter) {
  const given = new URLSearchParams(location.search);
  const named = (name) => given.get(name)?.trim() || null;
  return { invitation: named("invitation"), panel: named(parameter) };
}

// What MTurk adds to the link of an ExternalQuestion: it wants a form with the assignment back.
export function turk() {
  const given = new URLSearchParams(location.search);
  const [assignment, site] = [given.get("assignmentId"), given.get("turkSubmitTo")];
  return assignment && site ? { assignment, site } : (tab.read()?.turk ?? null);
}

// Where this visitor stands: the server's word, and whether it is known to be the same person's.
export async function enter(way) {
  const named = Boolean(way.invitation || way.panel);
  // Who types the address may be the next one. (Some older phones tell nothing of the way here.)
  const type = performance.getEntriesByType("navigation")[0]?.type ?? "navigate";
  if (type === "navigate") tab.take();
  const kept = tab.read();
  if (kept?.entry && !named) {
    speakFor(kept.entry);
    const state = await request("/api/session");
    return { ...state, entry: kept.entry, mine: true, kept };
  }
  const state = await request("/api/enter", way);
  speakFor(state.entry);
  return { ...state, mine: named, kept: kept?.entry === state.entry ? kept : null };
}
