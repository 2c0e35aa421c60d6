// CIE Lab of sRGB, with the constants of colorlib/lab.py (D65, scikit-image's matrix).

const XYZ = [
  [0.412453, 0.35758, 0.180423], [0.212671, 0.71516, 0.072169], [0.019334, 0.119193, 0.950227],
];
const WHITE = [0.95047, 1, 1.08883];
const TOLERANCE = 5e-6; // of linear light, outside sRGB

const RGB = inverse(XYZ);

function inverse([[a, b, c], [d, e, f], [g, h, i]]) {
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / det));
}

const linear = (c) => (c > 0.04045 ? ((c + 0.055) / 1.055) ** 2.4 : c / 12.92);
const gamma = (c) => (c > 0.0031308 ? 1.055 * c ** (1 / 2.4) - 0.055 : 12.92 * c);
const root = (t) => (t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116);
const cube = (f) => (f > 0.2068966 ? f * f * f : (f - 16 / 116) / 7.787);

const LINEAR = Float64Array.from({ length: 256 }, (_, i) => linear(i / 255));
const LUMINANCE = XYZ[1].map((weight) => LINEAR.map((value) => value * weight));
// The 8-bit code of linear light in 65536 steps: a table takes a tenth of the time of a power.
const CODES = Uint8Array.from({ length: 65536 }, (_, i) => Math.round(255 * gamma(i / 65535)));
// L of luminance in 65536 steps and between them; near black, where it bends, it is computed.
const ROOTS = Float64Array.from({ length: 65538 }, (_, i) => 116 * root(i / 65536) - 16);

function index(light) {
  const at = light * 65535 + 0.5;
  return at < 0 ? 0 : at > 65535 ? 65535 : at | 0;
}

function lightnessOf(y) {
  if (y < 0.02) return 116 * root(y) - 16;
  const at = y * 65536, low = Math.floor(at);
  return ROOTS[low] + (at - low) * (ROOTS[low + 1] - ROOTS[low]);
}

/** L in 0..100 of `count` pixels of RGBA bytes from pixel `start`, into a Float32Array. */
export function lightness(rgba, start, count, result = new Float32Array(count)) {
  const [red, green, blue] = LUMINANCE;
  for (let i = 0, j = 4 * start; i < count; i++, j += 4)
    result[i] = lightnessOf(red[rgba[j]] + green[rgba[j + 1]] + blue[rgba[j + 2]]);
  return result;
}

/** [L, a, b] of one sRGB color of bytes. */
export function labOf(r, g, b) {
  const light = [LINEAR[r], LINEAR[g], LINEAR[b]];
  const [x, y, z] = XYZ.map((row, i) =>
    root((row[0] * light[0] + row[1] * light[1] + row[2] * light[2]) / WHITE[i]));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

const [[RX, RY, RZ], [GX, GY, GZ], [BX, BY, BZ]] =
  RGB.map((row) => row.map((value, i) => value * WHITE[i]));
const rgb = new Float64Array(3); // The color in work: a new array each time would cost.
const LEAST = -TOLERANCE, MOST = 1 + TOLERANCE;

function toLinear(l, a, b) {
  const fy = (l + 16) / 116;
  const x = cube(fy + a / 500), y = cube(fy), z = cube(Math.max(fy - b / 200, 0));
  const red = RX * x + RY * y + RZ * z;
  const green = GX * x + GY * y + GZ * z;
  const blue = BX * x + BY * y + BZ * z;
  rgb[0] = red;
  rgb[1] = green;
  rgb[2] = blue;
  return red >= LEAST && green >= LEAST && blue >= LEAST
    && red <= MOST && green <= MOST && blue <= MOST;
}

/**
 * Puts color under the lightness of pixels, as RGBA bytes. What leaves sRGB loses chroma, at
 * constant L and hue, until it fits.
 */
export function recombine(lightness, as, bs, rgba, start) {
  for (let i = 0, j = 4 * start; i < lightness.length; i++, j += 4) {
    const l = lightness[i], a = as[i], b = bs[i];
    if (!toLinear(l, a, b)) {
      let low = 0, width = 1;
      for (let step = 0; step < 8; step++) {
        width /= 2;
        if (toLinear(l, a * (low + width), b * (low + width))) low += width;
      }
      toLinear(l, a * low, b * low);
    }
    rgba[j] = CODES[index(rgb[0])];
    rgba[j + 1] = CODES[index(rgb[1])];
    rgba[j + 2] = CODES[index(rgb[2])];
    rgba[j + 3] = 255;
  }
}

/** The sRGB bytes of a color of Lab, as CSS. */
export function css(l, a, b) {
  const bytes = new Uint8Array(4);
  recombine([l], [a], [b], bytes, 0);
  return `rgb(${bytes.subarray(0, 3).join(" ")})`;
}
