// Files for the reader: marked as machine-colored, one by one or in a zip.

const MACHINE =
  "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const encode = (text) => new TextEncoder().encode(text);

/** The XMP that says what made a photo's colors, as colorlib/metadata.py writes it. */
function xmp(madeBy) {
  const safe = madeBy.replace(/[&<"]/g, (c) => `&#${c.charCodeAt(0)};`);
  return encode(
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    + '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    + 'rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
    + 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    + `xmp:CreatorTool="${safe}" Iptc4xmpExt:DigitalSourceType="${MACHINE}"/></rdf:RDF>`
    + '</x:xmpmeta><?xpacket end="w"?>');
}

/** A JPEG or PNG with the note that its colors are machine-made: Blob. */
export async function mark(blob, madeBy) {
  const head = new Uint8Array(await blob.slice(0, 40).arrayBuffer());
  const png = blob.type === "image/png";
  // After the header; in a JPEG after the segment that says JFIF, which comes first.
  const at = png ? 33 : head[3] === 0xe0 ? 4 + head[4] * 256 + head[5] : 2;
  return new Blob([blob.slice(0, at), (png ? chunk : segment)(xmp(madeBy)), blob.slice(at)],
    { type: blob.type });
}

function segment(packet) {
  const name = encode("http://ns.adobe.com/xap/1.0/\0"), size = 2 + name.length + packet.length;
  return new Blob([new Uint8Array([0xff, 0xe1, size >> 8, size & 255]), name, packet]);
}

function chunk(packet) {
  const content = new Uint8Array([...encode("iTXtXML:com.adobe.xmp"), 0, 0, 0, 0, 0, ...packet]);
  const size = new DataView(new ArrayBuffer(8));
  size.setUint32(0, content.length - 4);
  size.setUint32(4, crc32(content));
  return new Blob([size.buffer.slice(0, 4), content, size.buffer.slice(4)]);
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
