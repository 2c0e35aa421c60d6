// d' and its interval, and Wilson's interval, as study/analysis.py has them: `d_prime`,
// `d_prime_interval` and `wilson`. A test holds both to the same numbers.

const Z = 1.959963984540054; // of a 95 % interval

const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);

// The area under the normal curve up to x (Marsaglia 2004, a series of its Taylor terms).
function area(x) {
  let term = x;
  let sum = x;
  for (let i = 3; sum + term !== sum; i += 2) sum += term *= (x * x) / i;
  return 0.5 + sum * density(x);
}

// Its inverse, by Newton's method: from 0 it comes ever closer and never past.
function quantile(p) {
  if (p < 0.5) return -quantile(1 - p);
  let x = 0;
  for (let step = 1; Math.abs(step) > 1e-13; x += step) step = (p - area(x)) / density(x);
  return x;
}

// A hit is a colored photo that was called fake, a false alarm an original that was called fake.
export function dPrime(hits, signals, falseAlarms, noises) {
  const [hit, alarm] = [[hits, signals], [falseAlarms, noises]].map(([count, photos]) => {
    const p = (count + 0.5) / (photos + 1); // the log-linear correction (Hautus 1995)
    const z = quantile(p);
    return { z, variance: (p * (1 - p)) / ((photos + 1) * density(z) ** 2) };
  });
  const value = hit.z - alarm.z;
  const half = Z * Math.sqrt(hit.variance + alarm.variance);
  return { value, low: value - half, high: value + half };
}

export function wilson(successes, answers) {
  const middle = (successes + Z ** 2 / 2) / (answers + Z ** 2);
  const spread = Math.sqrt((successes * (answers - successes)) / answers + Z ** 2 / 4);
  const half = (Z / (answers + Z ** 2)) * spread;
  return {
    low: successes === 0 ? 0 : middle - half,
    high: successes === answers ? 1 : middle + half,
  };
}
