// Answers on their way. Each is kept in the browser's own store until the server has confirmed it,
// through lost connections, restarts of the server and reloads of the page.

const FIRST_WAIT = 500; // ms, doubled up to
const LONGEST_WAIT = 5000;
const TIMEOUT = 15000;
const SLOWEST_PHOTO = 120000;

// The server has heard the request and won't grant it: asking again is no use.
export class Refused extends Error {}

// No word of the server's: asking again may help.
class Lost extends Error {}

// Waits, and no longer than until the network is back.
function pause(ms) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    window.addEventListener("online", done);
  });
}

// Repeats `attempt` until the server has answered it; tells `onTrouble` true at a failure and false
// after it.
export async function persist(attempt, onTrouble) {
  for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
    try {
      const result = await attempt();
      onTrouble(false);
      return result;
    } catch (error) {
      if (!(error instanceof Lost)) {
        onTrouble(false);
        throw error;
      }
      onTrouble(true);
      await pause(wait);
    }
  }
}

let entry = ""; // which of this browser's sessions the requests are about

export function speakFor(tag) {
  entry = tag;
}

// One request; `read` makes of its bytes what is returned. Throws Refused or Lost.
async function ask(path, timeout, read, { headers = {}, ...options } = {}) {
  const limit = new AbortController(); // AbortSignal.timeout is younger than many phones
  const timer = setTimeout(() => limit.abort(), timeout);
  if (entry) headers["X-Entry"] = entry;
  try {
    const response = await fetch(path, { ...options, headers, signal: limit.signal });
    if (response.ok) return read(new Uint8Array(await response.arrayBuffer()));
    const { error } = await response.json(); // A page of a proxy between us is none.
    const again = response.status >= 500 || response.status === 408 || response.status === 429;
    if (error && !again) throw new Refused(error);
    throw new Lost(`HTTP ${response.status}`);
  } catch (error) {
    throw error instanceof Refused ? error : new Lost(`${path}: ${error.message}`);
  } finally {
    clearTimeout(timer);
  }
}

export const requestBytes = (path) => ask(path, SLOWEST_PHOTO, (bytes) => bytes);

export async function request(path, body) {
  const options = {};
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
    options.keepalive = true; // goes on when the page is closed meanwhile
  }
  return ask(path, TIMEOUT, (bytes) => JSON.parse(new TextDecoder().decode(bytes)), options);
}

// A random name of 128 bits, as hex.
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

// crypto.randomUUID exists on https and this machine only.
export function newId() {
  return newKey().replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

export class Outbox {
  constructor(key, onTrouble) {
    this.key = `koala-outbox-${key}`;
    this.onTrouble = onTrouble;
    this.waiting = new Map(); // item -> what to call with the server's reply
    this.refused = false; // whether the server's view differs from ours
    this.items = this.load();
    this.sending = this.drain();
  }

  load() {
    try {
      return JSON.parse(localStorage.getItem(this.key)) ?? [];
    } catch {
      return [];
    }
  }

  save() {
    try {
      if (this.items.length) localStorage.setItem(this.key, JSON.stringify(this.items));
      else localStorage.removeItem(this.key);
    } catch {
      // A browser without a store keeps them in memory, for as long as the page stays open.
    }
  }

  // Takes a message; the promise has the server's reply, or null where it was refused.
  add(path, body) {
    const item = { path, body };
    this.items.push(item);
    this.save();
    const reply = new Promise((resolve) => this.waiting.set(item, resolve));
    this.sending = this.sending.then(() => this.drain());
    return reply;
  }

  async drain() {
    while (this.items.length) {
      const item = this.items[0];
      let reply = null;
      try {
        reply = await persist(() => request(item.path, item.body), this.onTrouble);
      } catch (error) {
        console.info(`${item.path}: ${error.message}`);
        this.refused = true;
      }
      this.items.shift();
      this.save();
      this.waiting.get(item)?.(reply);
      this.waiting.delete(item);
    }
  }

  // Drops what has not been sent.
  discard() {
    this.items = [];
    this.save();
  }

  // Resolves when nothing is left to be sent.
  async empty() {
    while (this.items.length) await (this.sending = this.sending.then(() => this.drain()));
  }
}
