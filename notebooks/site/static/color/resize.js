// Resizing as Pillow does it for 32-bit floats: bicubic, antialiased where a plane gets smaller.

const cubic = (x) => {
  const a = -0.5, t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
};

/**
 * The weights with which `from` values along an axis make `to`.
 * @returns {{first: Int32Array, size: Int32Array, most: number, weights: Float64Array}}
 */
export function weightsOf(from, to) {
  const scale = from / to, wide = Math.max(scale, 1), support = 2 * wide;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to), size = new Int32Array(to);
  const weights = new Float64Array(to * most);
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    // Pillow casts to int, which cuts towards zero.
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const high = Math.min(from, Math.trunc(center + support + 0.5));
    let sum = 0;
    for (let j = low; j < high; j++) {
      const weight = cubic((j - center + 0.5) / wide);
      weights[i * most + j - low] = weight;
      sum += weight;
    }
    for (let j = 0; j < high - low; j++) weights[i * most + j] /= sum;
    first[i] = low;
    size[i] = high - low;
  }
  return { first, size, most, weights };
}

function across(plane, height, width, toWidth) {
  const { first, size, most, weights } = weightsOf(width, toWidth);
  const result = new Float32Array(height * toWidth);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < toWidth; x++) {
      const start = y * width + first[x];
      let sum = 0;
      for (let k = 0; k < size[x]; k++) sum += plane[start + k] * weights[x * most + k];
      result[y * toWidth + x] = sum;
    }
  return result;
}

function down(plane, height, width, toHeight) {
  const { first, size, most, weights } = weightsOf(height, toHeight);
  const result = new Float32Array(toHeight * width), row = new Float64Array(width);
  for (let y = 0; y < toHeight; y++) {
    row.fill(0);
    for (let k = 0; k < size[y]; k++) {
      const weight = weights[y * most + k], start = (first[y] + k) * width;
      for (let x = 0; x < width; x++) row[x] += plane[start + x] * weight;
    }
    result.set(row, y * width);
  }
  return result;
}

/** A Float32Array plane (height x width) at another size. */
export function resize(plane, height, width, toHeight, toWidth) {
  const wide = width === toWidth ? plane : across(plane, height, width, toWidth);
  return height === toHeight ? wide : down(wide, height, toWidth, toHeight);
}

/**
 * A function that enlarges a small map, planes of height x width, for rows of a larger one.
 * It writes each plane's row to the Float32Arrays that it is given, kept to the range of ab.
 */
export function enlarger(planes, height, width, toHeight, toWidth) {
  const wide = planes.map((plane) => resize(plane, height, width, height, toWidth));
  const { first, size, most, weights } = weightsOf(height, toHeight);
  return (y, rows) => {
    // Four rows at a time: what gets larger has no more of them.
    const [start, end] = [first[y], first[y] + size[y]];
    for (let k = start; k < end; k += 4) {
      const given = [0, 1, 2, 3].map((i) => (k + i < end ? weights[y * most + k + i - start] : 0));
      const from = [0, 1, 2, 3].map((i) => Math.min(k + i, end - 1) * toWidth);
      rows.forEach((row, plane) => add(wide[plane], from, given, row, k === start));
    }
    for (const row of rows) keepToRange(row);
  };
}

function add(plane, [p, q, r, s], [a, b, c, d], row, anew) {
  if (anew) row.fill(0);
  for (let x = 0; x < row.length; x++)
    row[x] += a * plane[p + x] + b * plane[q + x] + c * plane[r + x] + d * plane[s + x];
}

function keepToRange(row) {
  for (let x = 0; x < row.length; x++)
    if (row[x] > 127) row[x] = 127;
    else if (row[x] < -128) row[x] = -128;
}
