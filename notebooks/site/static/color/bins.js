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

/** The mean colors [a, b], two Float32Arrays, of places given by the starts of their logits. */
export function meansOf(logits, starts, { bins, rarity }, vividness) {
  const as = new Float32Array(starts.length), bs = new Float32Array(starts.length);
  const shares = new Float64Array(rarity.length);
  for (let i = 0; i < starts.length; i++) {
    probabilities(logits, starts[i], rarity, vividness, shares);
    let a = 0, b = 0;
    for (let q = 0; q < shares.length; q++) {
      a += shares[q] * bins[q][0];
      b += shares[q] * bins[q][1];
    }
    as[i] = a;
    bs[i] = b;
  }
  return [as, bs];
}
