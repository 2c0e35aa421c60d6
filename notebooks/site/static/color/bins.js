// From a distribution over colors to a color, as colorlib's model.mean_of_bins does it.

/** log(half of the share in the training photos, half of an even share) of each color. */
export function rarityOf(counts) {
  const total = counts.reduce((sum, n) => sum + n, 0);
  return Float32Array.from(counts, (n) => Math.log((0.5 * n) / total + 0.5 / counts.length));
}

/** The probabilities of one place at a vividness: Float64Array that sums to 1. */
export function probabilities(logits, start, rarity, vividness, result) {
  const over = 1 / (1 - 0.5 * vividness), g = 0.75 * vividness, n = rarity.length;
  let most = -Infinity, sum = 0;
  for (let i = 0; i < n; i++) {
    const value = (logits[start + i] - g * rarity[i]) * over;
    result[i] = value;
    if (value > most) most = value;
  }
  for (let i = 0; i < n; i++) sum += result[i] = Math.exp(result[i] - most);
  for (let i = 0; i < n; i++) result[i] /= sum;
  return result;
}

// exp(-i / EACH), and 0 at the end: what a color adds whose probability is so far below the highest.
const EACH = 256, FAR = 14;
const POWERS = Float64Array.from({ length: EACH * FAR + 2 }, (_, i) =>
  i < EACH * FAR ? Math.exp(-i / EACH) : 0);

/** The mean colors [a, b], two Float32Arrays, of places given by the starts of their logits. */
export function meansOf(logits, starts, { bins, rarity }, vividness) {
  const over = EACH / (1 - 0.5 * vividness), n = rarity.length;
  const offsets = rarity.map((value) => 0.75 * vividness * value);
  const [as, bs] = [0, 1].map((i) => Float32Array.from(bins, (color) => color[i]));
  const means = [new Float32Array(starts.length), new Float32Array(starts.length)];
  const values = new Float64Array(n);
  for (let i = 0; i < starts.length; i++) {
    const start = starts[i];
    let most = -Infinity, sum = 0, a = 0, b = 0;
    for (let q = 0; q < n; q++) {
      const value = (logits[start + q] - offsets[q]) * over;
      values[q] = value;
      if (value > most) most = value;
    }
    for (let q = 0; q < n; q++) {
      const below = most - values[q];
      if (below >= EACH * FAR) continue;
      // Between two entries of the table, on a straight line.
      const at = below | 0, power = POWERS[at] + (below - at) * (POWERS[at + 1] - POWERS[at]);
      sum += power;
      a += power * as[q];
      b += power * bs[q];
    }
    means[0][i] = a / sum;
    means[1][i] = b / sum;
  }
  return means;
}
