"""The photos of the page quiz.md: twelve of the study's stimuli, six of them colored."""

import json

from colorlib import photos
from study import protocol, stimuli

import numpy as np
import pyvips

COUNT = 12
SEED = 1  # draws them
QUALITY = 85  # of the JPEG: with the study's 90 they come to more than the page may have


def write(folder):
    """Writes the photos, and `photos.json`: what the page asks, and which photo is which.

    They are the packaged stimuli of the study's default protocol, from its first list, so that each
    scene is there in one version. They go through one encoder, and their names are the stimuli's
    random ones.
    """
    made, asked = stimuli.packaged(), protocol.load(protocol.DEFAULT).texts.trial
    rng, key = np.random.default_rng(SEED), made.table.set_index("stimulus")
    first = made.lists[made.lists["list"] == 0]
    drawn = [
        rng.choice(first.loc[first["version"] == version, "stimulus"], COUNT // 2, replace=False)
        for version in (stimuli.ORIGINAL, stimuli.COLORED)
    ]
    about = photos.packaged("sample").set_index("file")
    folder.mkdir(parents=True)
    shown = []
    for name in sorted(np.concatenate(drawn)):
        picture = pyvips.Image.new_from_array(made.pixels(name))
        picture.jpegsave(
            folder / f"{name}.jpg",
            Q=QUALITY,
            subsample_mode="off",
            optimize_coding=True,
            keep="none",
        )
        row = about.loc[key.loc[name, "source"]]
        shown.append(
            {
                "file": f"{name}.jpg",
                "colored": key.loc[name, "version"] == stimuli.COLORED,
                "title": row["title"],
                "credit": f"{row['author']}, {row['license']}",
            }
        )
    texts = {
        "question": asked.question,
        "answers": [asked.first_answer, asked.second_answer],
        "keys": [asked.first_key, asked.second_key],
        "progress": asked.progress,
        "alt": asked.image_alt,
    }
    content = json.dumps({"texts": texts, "photos": shown}, ensure_ascii=False, indent=1)
    (folder / "photos.json").write_text(content + "\n", encoding="utf-8")
