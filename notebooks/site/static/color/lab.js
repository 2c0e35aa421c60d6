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
// Tables take a tenth of the time of powers. Luminance and linear light are looked up in 65536 steps.
const STEPS = 65535;
const LUMINANCE = XYZ[1].map((weight) => LINEAR.map((value) => STEPS * value * weight));
const ROOTS = Float32Array.from({ length: STEPS + 1 }, (_, i) => root(i / STEPS));
const CODES = Uint8Array.from({ length: STEPS + 1 }, (_, i) => Math.round(255 * gamma(i / STEPS)));

/** L in 0..100 of `count` pixels of RGBA bytes from pixel `start`, into a Float32Array. */
export function lightness(rgba, start, count, result) {
  const [red, green, blue] = LUMINANCE;
  for (let i = 0, j = 4 * start; i < count; i++, j += 4)
    result[i] = 116 * ROOTS[(red[rgba[j]] + green[rgba[j + 1]] + blue[rgba[j + 2]] + 0.5) | 0] - 16;
}

/** The gray photo that L alone shows, as RGBA bytes. */
export function gray(rgba, result) {
  const [red, green, blue] = LUMINANCE;
  for (let j = 0; j < rgba.length; j += 4) {
    const code = CODES[(red[rgba[j]] + green[rgba[j + 1]] + blue[rgba[j + 2]] + 0.5) | 0];
    result[j] = result[j + 1] = result[j + 2] = code;
    result[j + 3] = 255;
  }
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
const LEAST = -TOLERANCE, MOST = 1 + TOLERANCE;

/** Whether X, Y, Z over those of white lie in sRGB. */
function fits(x, y, z) {
  const red = RX * x + RY * y + RZ * z;
  const green = GX * x + GY * y + GZ * z;
  const blue = BX * x + BY * y + BZ * z;
  return red >= LEAST && green >= LEAST && blue >= LEAST
    && red <= MOST && green <= MOST && blue <= MOST;
}

const xOf = (fy, a) => cube(fy + a * (1 / 500));
const zOf = (fy, b) => cube(Math.max(fy - b * (1 / 200), 0));

/** The largest share of a color's chroma, of 256 steps, that is in sRGB; found by halving. */
function share(fy, y, a, b) {
  let low = 0;
  for (let width = 0.5; width > 1 / 512; width /= 2) {
    const t = low + width;
    if (fits(xOf(fy, t * a), y, zOf(fy, t * b))) low = t;
  }
  return low;
}

/** The place in a table of light that is not below 0 by half a step; white may be above 1. */
const step = (light) => Math.min(STEPS, light * STEPS + 0.5) | 0;

/** Writes one color, of X, Y, Z over those of white, as RGBA bytes. */
function write(x, y, z, result, j) {
  result[j] = CODES[step(RX * x + RY * y + RZ * z)];
  result[j + 1] = CODES[step(GX * x + GY * y + GZ * z)];
  result[j + 2] = CODES[step(BX * x + BY * y + BZ * z)];
  result[j + 3] = 255;
}

/**
 * Puts color under the lightness of pixels, RGBA bytes to RGBA bytes, from pixel `start` on. What
 * leaves sRGB loses chroma, at constant L and hue, until it fits.
 */
export function recolor(rgba, as, bs, result, start) {
  const [red, green, blue] = LUMINANCE;
  for (let i = 0, j = 4 * start; i < as.length; i++, j += 4) {
    const light = (red[rgba[j]] + green[rgba[j + 1]] + blue[rgba[j + 2]] + 0.5) | 0;
    const fy = ROOTS[light], y = light * (1 / STEPS), a = as[i], b = bs[i];
    let x = xOf(fy, a), z = zOf(fy, b);
    if (!fits(x, y, z)) {
      // Black and white, much of a scanned page, have no room for color.
      const t = light > 0 && light < STEPS ? share(fy, y, a, b) : 0;
      x = xOf(fy, t * a);
      z = zOf(fy, t * b);
    }
    write(x, y, z, result, j);
  }
}

/** The sRGB bytes of a color of Lab, as CSS. */
export function css(l, a, b) {
  const bytes = new Uint8Array(4), fy = (l + 16) / 116, y = cube(fy);
  const t = fits(xOf(fy, a), y, zOf(fy, b)) ? 1 : share(fy, y, a, b);
  write(xOf(fy, t * a), y, zOf(fy, t * b), bytes, 0);
  return `rgb(${bytes.subarray(0, 3).join(" ")})`;
}
