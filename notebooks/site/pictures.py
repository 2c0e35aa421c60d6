"""Pictures of executed notebooks as the pages show them: WebP, numbered, with a caption."""

import hashlib
import re
from base64 import b64decode
from html import escape
from pathlib import Path

import pyvips

WIDEST = 1600  # pixels: twice the column of text
QUALITY = 84  # of photos
EMBEDDED = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


class Pictures:
    """The pictures of a site.

    Args:
        folder: Path of the folder that becomes the site's, with `figures/` if there are any.
        manifest: The entries of the figures' manifest, by name.
    """

    def __init__(self, folder, manifest):
        self.folder, self.sizes = folder, {}
        self.entries = {entry["sha256"]: (name, entry) for name, entry in manifest.items()}

    def store(self, data, width=WIDEST, height=None, quality=QUALITY):
        """Writes a picture as WebP, no wider than `width`; what is far taller is cut at `height`.

        The quality is a photo's.

        Returns:
            Its address from a page, and its width and height in pixels.
        """
        digest = hashlib.sha256(data + repr((width, height, quality)).encode()).hexdigest()[:16]
        address = f"pictures/{digest}.webp"
        if address not in self.sizes:
            picture = pyvips.Image.thumbnail_buffer(data, width, height=10**6, size="down")
            if height and picture.height > 1.5 * height:
                picture = picture.crop(0, 0, picture.width, height)
            target = Path(self.folder, address)
            target.parent.mkdir(exist_ok=True)
            # A plot keeps its edges and is small all the same; of a photo, color counts here.
            plot = data.startswith(b"\x89PNG")
            how = (
                {"near_lossless": True, "Q": 60}
                if plot
                else {"Q": quality, "smart_subsample": True}
            )
            picture.webpsave(str(target), effort=4, **how)
            self.sizes[address] = picture.width, picture.height
        return address, *self.sizes[address]

    def unpack(self, html, quality=QUALITY):
        """A widget's HTML with its photos as files, of three quarters of the bytes and less."""

        def stored(found):
            return self.store(b64decode(found[1]), quality=quality)[0]

        return EMBEDDED.sub(stored, html)

    def figure(self, data, metadata, number, cell):
        """A notebook's picture as a `<figure>`.

        Args:
            data: The bytes of the picture.
            metadata: The metadata that the notebook has of it: `alt`, and `width` in CSS pixels.
            number: The number of the figure on its page.
            cell: The number of the cell that made it.
        """
        address, wide, high = self.store(data)
        name, entry = self.entries.get(hashlib.sha256(data).hexdigest(), (None, {}))
        alt = escape(metadata.get("alt", ""))
        links = [f'<a href="#cell-{cell}">code</a>'] * bool(cell)
        links += [f'<a href="made.html#{name}">manifest</a>'] * bool(name)
        original = f"figures/{entry['file']}" if name else address
        width = min(int(metadata.get("width", wide)), wide)
        return (
            f'<figure class="picture" id="figure-{number}" style="max-width:{width}px">'
            f'<a class="enlarge" href="{original}"><img src="{address}" width="{wide}" '
            f'height="{high}" loading="lazy" alt="{alt}"></a>'
            f"<figcaption><b>Figure {number}.</b> {alt} "
            f'<span class="links">{" · ".join(links)}</span></figcaption></figure>'
        )
