// Files for the reader: with what the photo's own file says, marked as machine-colored, one by one or
// in a zip.
import { chunks, metadataOf, packet, segments } from "./metadata.js";

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const LARGEST = 65_000; // bytes of a JPEG's segment

export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const encode = (text) => new TextEncoder().encode(text);
const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

/**
 * A colored photo's file, with what the original says beside its pixels and what made its colors.
 * @param {Blob} colored a JPEG or PNG
 * @param {Blob} original
 * @param {{width: number, height: number}} size the photo's, upright
 * @param {string} madeBy
 * @param {string} profile of sRGB, in base64
 * @returns {Promise<Blob>}
 */
export async function mark(colored, original, size, madeBy, profile) {
  const bytes = await bytesOf(colored), kept = metadataOf(await bytesOf(original), size);
  const icc = Uint8Array.from(atob(profile), (letter) => letter.charCodeAt(0));
  const parts = colored.type === "image/png" ? await png(bytes, kept, madeBy, icc)
    : jpeg(bytes, kept, madeBy, icc);
  return new Blob(parts, { type: colored.type });
}

function jpeg(bytes, { exif, xmp, iptc, dpi }, madeBy, icc) {
  const dots = dpi ? dpi.map((value) => Math.min(65535, Math.round(value))) : [1, 1];
  const full = packet(xmp, madeBy);
  return [
    bytes.subarray(0, 2),
    segment(0xe0, "JFIF\0", [1, 2, dpi ? 1 : 0, ...dots.flatMap((n) => [n >> 8, n & 255]), 0, 0]),
    ...(exif && exif.length <= LARGEST ? [segment(0xe1, "Exif\0\0", exif)] : []),
    segment(0xe1, "http://ns.adobe.com/xap/1.0/\0", full.length <= LARGEST ? full : packet(null, madeBy)),
    ...(iptc && iptc.length <= LARGEST ? [segment(0xed, "Photoshop 3.0\0", iptc)] : []),
    segment(0xe2, "ICC_PROFILE\0\x01\x01", icc),
    // The encoder's own segments of these kinds go.
    ...[...segments(bytes)].filter(({ marker }) => ![0xe0, 0xe1, 0xe2, 0xed].includes(marker))
      .map(({ whole }) => whole),
  ];
}

function segment(marker, name, content) {
  const size = 2 + name.length + content.length;
  return new Uint8Array([0xff, marker, size >> 8, size & 255, ...encode(name), ...content]);
}

async function png(bytes, { exif, xmp, texts, dpi }, madeBy, icc) {
  const [head, ...rest] = [...chunks(bytes)].filter(({ kind }) => /^[A-Z]/.test(kind)); // the pixels'
  const zipped = new Blob([icc]).stream().pipeThrough(new CompressionStream("deflate"));
  const meters = new DataView(new ArrayBuffer(9));
  dpi?.forEach((value, i) => meters.setUint32(4 * i, Math.round(value / 0.0254)));
  meters.setUint8(8, 1);
  return [
    bytes.subarray(0, 8),
    head.whole,
    chunk("iCCP", [...encode("icc\0\0"), ...(await bytesOf(new Response(zipped)))]),
    ...(dpi ? [chunk("pHYs", new Uint8Array(meters.buffer))] : []),
    ...(exif ? [chunk("eXIf", exif)] : []),
    chunk("iTXt", [...encode("XML:com.adobe.xmp\0\0\0\0\0"), ...packet(xmp, madeBy)]),
    ...(texts ?? []).filter(sound),
    ...rest.map(({ whole }) => whole),
  ];
}

/** Whether a chunk is as it was written. */
function sound(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return view.getUint32(bytes.length - 4) === crc32(bytes.subarray(4, -4));
}

function chunk(kind, content) {
  const bytes = new Uint8Array([0, 0, 0, 0, ...encode(kind), ...content, 0, 0, 0, 0]);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  view.setUint32(bytes.length - 4, crc32(bytes.subarray(4, -4)));
  return bytes;
}

// What a zip holds whose numbers have 32 and 16 bits, with room for its directory.
const MOST = { bytes: 4_000_000_000, files: 65_000 };

/** Divides files, in their order, among as many zips as they need. */
export function* portions(files) {
  let portion = [], bytes = 0;
  for (const file of files) {
    if (portion.length === MOST.files || (portion.length && bytes + file.blob.size > MOST.bytes)) {
      yield portion;
      [portion, bytes] = [[], 0];
    }
    portion.push(file);
    bytes += file.blob.size;
  }
  if (portion.length) yield portion;
}

/** A zip of files that are stored as they are: photos don't get smaller. */
export async function zip(files) {
  const parts = [], directory = [];
  let at = 0;
  for (const { name, blob } of files) {
    const bytes = encode(name), crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // Version, UTF-8 names, stored, 1 January 1980, sum, both sizes, lengths.
    const common = record([[20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc, 4], [blob.size, 4],
      [blob.size, 4], [bytes.length, 2], [0, 2]]);
    parts.push(record([[0x04034b50, 4]]), common, bytes, blob);
    directory.push(record([[0x02014b50, 4], [20, 2]]), common,
      record([[0, 2], [0, 2], [0, 2], [0, 4], [at, 4]]), bytes);
    at += 30 + bytes.length + blob.size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record([[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2],
    [size, 4], [at, 4], [0, 2]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Numbers in little-endian order: [value, bytes] each. */
function record(fields) {
  return Uint8Array.from(fields.flatMap(([value, size]) =>
    Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 255)));
}

/** `photo.png` -> `photo_colored.jpg`; a name that is taken gets a number. */
export function nameFor(original, type, taken = new Set()) {
  const stem = `${original.replace(/\.[^.]*$/, "")}_colored`;
  const suffix = type === "image/png" ? ".png" : ".jpg";
  let name = stem + suffix;
  for (let n = 2; taken.has(name); n++) name = `${stem}-${n}${suffix}`;
  taken.add(name);
  return name;
}

/** Offers a file as a download. */
export function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
