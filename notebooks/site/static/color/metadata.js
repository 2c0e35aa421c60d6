// What a photo's file says beside its pixels (date, place, author, resolution), for the file that is
// saved: as colorlib/metadata.py keeps it.

const RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const XMP = "http://ns.adobe.com/xap/1.0/";
const IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const TIFF = "http://ns.adobe.com/tiff/1.0/";
const MACHINE =
  "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
// What speaks of parts of the old file: a phone's video, depth and gain maps, further packets.
const OF_PARTS = [
  ...["camera", "container", "depthmap"].map((name) => `http://ns.google.com/photos/1.0/${name}/`),
  "http://ns.adobe.com/hdr-gain-map/1.0/", "http://ns.adobe.com/xmp/note/",
];
const NEW_PACKET =
  '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
  + `<rdf:RDF xmlns:rdf="${RDF}"/></x:xmpmeta><?xpacket end="w"?>`;

// Bytes of a value, by the type of an EXIF entry.
const SIZES = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4 };
const BELOW = [0x8769, 0x8825, 0xa005]; // where the directories of EXIF, GPS, interoperability are
const INCH = { 2: 1, 3: 2.54 }; // how many units of a resolution, by EXIF's number of the unit

const latin = (bytes) => String.fromCharCode(...bytes);
const begins = (bytes, text) => latin(bytes.subarray(0, text.length)) === text;
const after = (bytes, text) => (begins(bytes, text) ? bytes.subarray(text.length) : null);
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);

/** The segments of a JPEG: {marker, content, whole}; with the pixels' comes all the rest. */
export function* segments(bytes) {
  const view = viewOf(bytes);
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff;) {
    const marker = bytes[at + 1], pixels = marker === 0xda;
    if (marker === 0xff) { // a byte that fills
      at += 1;
      continue;
    }
    const end = pixels ? bytes.length : at + 2 + view.getUint16(at + 2);
    yield { marker, content: bytes.subarray(at + 4, end), whole: bytes.subarray(at, end) };
    at = end;
  }
}

/** The chunks of a PNG: {kind, content, whole}. */
export function* chunks(bytes) {
  const view = viewOf(bytes);
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + view.getUint32(at);
    yield {
      kind: latin(bytes.subarray(at + 4, at + 8)),
      content: bytes.subarray(at + 8, end - 4),
      whole: bytes.subarray(at, end),
    };
    at = end;
  }
}

function* chunksOfWebp(bytes) {
  const view = viewOf(bytes);
  for (let at = 12; at + 8 <= bytes.length;) {
    const size = view.getUint32(at + 4, true);
    const kind = latin(bytes.subarray(at, at + 4));
    yield { kind, content: bytes.subarray(at + 8, at + 8 + size) };
    at += 8 + size + (size % 2);
  }
}

/**
 * What a JPEG, PNG or WebP says: {exif, xmp, iptc, texts, dpi, orientation}, undefined where it is
 * not there; of other formats nothing. The EXIF block is for an upright photo.
 * @param {{width: number, height: number}} size of the photo as it is saved
 */
export function metadataOf(bytes, size) {
  const found = {};
  if (bytes[0] === 0xff && bytes[1] === 0xd8) readJpeg(bytes, found);
  else if (begins(bytes, "\x89PNG")) readPng(bytes, found);
  else if (isWebp(bytes))
    for (const { kind, content } of chunksOfWebp(bytes)) {
      if (kind === "EXIF") found.exif = content;
      if (kind === "XMP ") found.xmp = content;
    }
  const exif = found.exif && uprightExif(after(found.exif, "Exif\0\0") ?? found.exif, size);
  return { ...found, exif: exif?.block, dpi: exif?.dpi ?? found.dpi, orientation: exif?.orientation };
}

const isWebp = (bytes) => begins(bytes, "RIFF") && begins(bytes.subarray(8), "WEBP");

/** EXIF's orientation of a WebP, which Chromium leaves as it is; undefined for all else. */
export async function orientationOf(blob) {
  const bytesOf = async (part) => new Uint8Array(await part.arrayBuffer());
  if (!isWebp(await bytesOf(blob.slice(0, 12)))) return undefined;
  return metadataOf(await bytesOf(blob), {}).orientation;
}

function readJpeg(bytes, found) {
  for (const { marker, content } of segments(bytes)) {
    if (marker === 0xe0 && begins(content, "JFIF\0") && content.length > 11) {
      const unit = content[7], view = viewOf(content);
      const dots = [8, 10].map((at) => view.getUint16(at) * { 1: 1, 2: 2.54 }[unit]);
      if (dots.every((value) => value > 1)) found.dpi = dots;
    }
    if (marker === 0xe1) {
      found.exif ??= after(content, "Exif\0\0") ?? undefined;
      found.xmp ??= after(content, `${XMP}\0`) ?? undefined;
    }
    if (marker === 0xed && begins(content, "Photoshop 3.0\0")) found.iptc ??= iptcOf(content);
  }
}

/** The IPTC records among the resources that Photoshop keeps, as a resource alone. */
function iptcOf(content) {
  const start = latin(content).indexOf("8BIM\x04\x04");
  if (start < 0) return undefined;
  const named = start + 6 + (content[start + 6] | 1) + 1; // a name of even length, nearly always empty
  if (named + 4 > content.length) return undefined;
  const size = viewOf(content).getUint32(named);
  return content.subarray(start, named + 4 + size + (size % 2));
}

function readPng(bytes, found) {
  for (const { kind, content, whole } of chunks(bytes)) {
    if (kind === "eXIf") found.exif = content;
    if (kind === "pHYs" && content[8] === 1) {
      const view = viewOf(content);
      found.dpi = [0, 4].map((at) => view.getUint32(at) * 0.0254);
    }
    if (!["tEXt", "zTXt", "iTXt"].includes(kind)) continue;
    if (begins(content, "XML:com.adobe.xmp\0\0\0")) found.xmp = afterZeros(content);
    // Other old forms than IPTC's may be outdated.
    else if (!begins(content, "XML:") && (!begins(content, "Raw profile type")
      || begins(content, "Raw profile type iptc"))) (found.texts ??= []).push(whole);
  }
}

/** What stands in a text of a PNG after keyword, compression, language and translated keyword. */
function afterZeros(content) {
  let at = content.indexOf(0) + 3;
  for (let i = 0; i < 2; i++) at = content.indexOf(0, at) + 1;
  return content.subarray(at);
}

/**
 * An EXIF block of an upright photo in sRGB without a thumbnail. Values stay in their places: what
 * a camera's maker notes there counts from the block's start.
 * @returns {{block: Uint8Array, dpi, orientation: number} | undefined} nothing of a damaged block
 */
function uprightExif(given, { width, height }) {
  const little = begins(given, "II*\0"), first = {};
  if (!little && !begins(given, "MM\0*")) return undefined;
  const block = given.slice(), view = viewOf(block), seen = new Set();
  const set = { 0x112: 1, 0x100: width, 0x101: height, 0xa001: 1, 0xa002: width, 0xa003: height };
  let kept = 8, orientation; // `kept`: up to where something is in use

  /** The entries of a directory: [tag, type, count, where the value is]. */
  function* entries(start) {
    const count = view.getUint16(start, little);
    for (let i = 0, at = start + 2; i < count; i++, at += 12) {
      const [tag, type] = [0, 2].map((more) => view.getUint16(at + more, little));
      const length = view.getUint32(at + 4, little), size = (SIZES[type] ?? 0) * length;
      yield { tag, type, size, at: size > 4 ? view.getUint32(at + 8, little) : at + 8 };
    }
  }

  function keep(start) {
    if (seen.has(start)) return;
    seen.add(start);
    kept = Math.max(kept, start + 2 + 12 * view.getUint16(start, little) + 4);
    for (const { tag, type, size, at } of entries(start)) {
      kept = Math.max(kept, at + size);
      if (tag === 0x112 && type === 3) orientation = view.getUint16(at, little);
      if (BELOW.includes(tag)) keep(view.getUint32(at, little));
      if (tag in set && type === 3) view.setUint16(at, set[tag], little);
      if (tag in set && type === 4) view.setUint32(at, set[tag], little);
      if (seen.size === 1) first[tag] = { type, at };
    }
  }

  try {
    const start = view.getUint32(4, little);
    keep(start);
    const next = start + 2 + 12 * view.getUint16(start, little);
    const thumbnail = view.getUint32(next, little);
    view.setUint32(next, 0, little);
    if (thumbnail) {
      const places = Object.fromEntries([...entries(thumbnail)].map(({ tag, at }) => [tag, at]));
      const [from, size] = [0x201, 0x202].map((tag) => places[tag] && view.getUint32(places[tag], little));
      if (from && size) block.fill(0, from, from + size); // It need not be the last thing.
    }
    return { block: block.subarray(0, kept), dpi: dpiOf(view, little, first), orientation };
  } catch (error) {
    if (error instanceof RangeError) return undefined; // An offset leads out of the block.
    throw error;
  }
}

function dpiOf(view, little, { 282: across, 283: down, 296: unit }) {
  if (across?.type !== 5 || down?.type !== 5) return undefined;
  const scale = INCH[unit ? view.getUint16(unit.at, little) : 2];
  const dpi = [across, down].map(({ at }) =>
    (scale * view.getUint32(at, little)) / view.getUint32(at + 4, little));
  return dpi.every((value) => value > 0.1 && value < 1e6) ? dpi : undefined;
}

/** The XMP of an upright photo without a thumbnail whose colors a network has made: bytes. */
export function packet(xmp, madeBy) {
  const parse = (text) => new DOMParser().parseFromString(text, "application/xml");
  const given = xmp && new TextDecoder().decode(xmp).replace(/[\0 ]+$/, "");
  // Entities, of which XMP has none, can blow a small file up.
  let page = given && !given.includes("<!DOCTYPE") ? parse(given) : null;
  const sound = page && !page.querySelector("parsererror")
    && page.getElementsByTagNameNS(RDF, "RDF").length === 1;
  if (!sound) page = parse(NEW_PACKET);
  const [rdf] = page.getElementsByTagNameNS(RDF, "RDF");
  const remove = [[TIFF, "Orientation"], [XMP, "Thumbnails"], [XMP, "CreatorTool"],
    [IPTC, "DigitalSourceType"]];
  const descriptions = [...rdf.children].filter((node) => node.localName === "Description");
  for (const description of descriptions) {
    for (const part of [...description.attributes, ...description.children])
      if (OF_PARTS.includes(part.namespaceURI))
        part.nodeType === Node.ATTRIBUTE_NODE ? description.removeAttributeNode(part) : part.remove();
    for (const [space, name] of remove) {
      description.removeAttributeNS(space, name);
      for (const child of [...description.children])
        if (child.namespaceURI === space && child.localName === name) child.remove();
    }
  }
  const mark = page.createElementNS(RDF, "rdf:Description");
  mark.setAttributeNS(RDF, "rdf:about", descriptions[0]?.getAttributeNS(RDF, "about") ?? "");
  mark.setAttributeNS(XMP, "xmp:CreatorTool", madeBy);
  mark.setAttributeNS(IPTC, "Iptc4xmpExt:DigitalSourceType", MACHINE);
  rdf.append(mark);
  return new TextEncoder().encode(new XMLSerializer().serializeToString(page));
}
