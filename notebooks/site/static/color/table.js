// What the networks beside the page are, as notebooks/page.py wrote it.
import { rarityOf } from "./bins.js";

let table;

/** The address of a file beside this module. */
export const here = (name) => new URL(name, import.meta.url);

/** A JSON file beside the networks. */
export async function json(name) {
  const response = await fetch(here(`networks/${name}`));
  if (!response.ok) throw new Error("The networks are not here: `make site` puts them here.");
  return response.json();
}

/** {preset: {working_size, square, vividness, bins, counts, rarity, shapes, embed, ...}}. */
export function presets() {
  table ??= json("networks.json").then((all) => {
    for (const entry of Object.values(all)) if (entry.counts) entry.rarity = rarityOf(entry.counts);
    return all;
  });
  table.catch(() => { table = undefined; }); // It is asked for again.
  return table;
}
