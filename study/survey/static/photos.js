// Photos, fetched ahead but for the bytes that the server withholds until a trial begins.

import { Refused, newId, persist, request, requestBytes } from "./outbox.js";

const AHEAD = 2; // trials whose photos are fetched before their turn
const EVERY = 16; // server.py withholds every 16th byte

// Puts the withheld bytes back: the file of the photo.
function join(body, withheld) {
  const missing = Uint8Array.from(atob(withheld), (letter) => letter.charCodeAt(0));
  const file = new Uint8Array(body.length + missing.length);
  missing.forEach((byte, i) => {
    file[i * EVERY] = byte;
    file.set(body.subarray(i * (EVERY - 1), (i + 1) * (EVERY - 1)), i * EVERY + 1);
  });
  return file;
}

async function decoded(file, type, alt) {
  const image = new Image();
  image.alt = alt;
  image.src = URL.createObjectURL(new Blob([file], { type }));
  try {
    await image.decode();
  } catch {
    throw new Refused("photo_failed");
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

export class Photos {
  // `trials` are those without an answer, in their order; `trouble` makes what `persist` tells.
  constructor(trials, { type, alt, trouble }) {
    Object.assign(this, { trials, type, alt, trouble });
    this.bodies = new Map(); // token -> promise of the bytes that come ahead
    this.last = Promise.resolve();
    if (trials.length) this.fetchFrom(trials[0]);
  }

  // Fetches the photos of a trial and of those that follow, one after the other: on a slow line,
  // a photo that is due must not share the line with one that isn't.
  fetchFrom(trial) {
    const place = this.trials.indexOf(trial);
    const due = this.trials.slice(place, place + 1 + AHEAD).flatMap(({ photos }) => photos);
    for (const token of due) {
      if (this.bodies.has(token)) continue;
      const path = `/image/${token}`;
      const body = this.last.then(() => persist(() => requestBytes(path), this.trouble(token)));
      this.bodies.set(token, body);
      this.last = body.catch(() => {}); // told when its turn comes
    }
  }

  // Begins a trial, which the server counts; its photos, ready to be drawn.
  async release(trial) {
    this.fetchFrom(trial);
    const bodies = await Promise.all(trial.photos.map((token) => this.bodies.get(token)));
    const asked = { id: newId(), trial: trial.trial };
    const { pieces } = await persist(
      () => request("/api/presentations", asked),
      this.trouble("photos"),
    );
    trial.photos.forEach((token) => this.bodies.delete(token));
    return Promise.all(
      bodies.map((body, i) => decoded(join(body, pieces[i]), this.type, this.alt)),
    );
  }
}
