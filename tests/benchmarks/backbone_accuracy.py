"""How well a backbone classifies photos made gray: top-1 and top-5 in percent, as JSON.

    python tests/benchmarks/backbone_accuracy.py FOLDER [--backbone NAME]

FOLDER holds photos whose names begin with their ImageNet synset: n02124075_egyptian_cat.webp.
The embedder sees each as it sees any photo: lightness only, the center square, resized bicubically
to its own size.
"""

import argparse
import json

import numpy as np

from colorlib import ColorlibError, lab, photos
from colorlib.embedding import DEFAULT_BACKBONE, Embedder, class_names

BATCH = 16


def accuracy(embedder, paths):
    """Top-1 and top-5 accuracy on photos named <synset>_*: dict of percentages."""
    index = {synset: i for i, (synset, _) in enumerate(class_names())}
    truth = [index.get(path.name.split("_")[0]) for path in paths]
    if None in truth:
        name = paths[truth.index(None)].name
        raise ColorlibError(f"{name}: does not begin with an ImageNet synset; rename or remove it")
    hits = []
    for start in range(0, len(paths), BATCH):
        chunk = slice(start, start + BATCH)
        logits = embedder([lab.lightness(photos.read(path)) for path in paths[chunk]])
        best = np.argsort(-logits, axis=1)[:, :5]
        hits.append(best == np.array(truth[chunk])[:, None])
    hits = np.concatenate(hits)
    top_1, top_5 = hits[:, 0].mean(), hits.any(axis=1).mean()
    return {"top_1": round(100 * float(top_1), 1), "top_5": round(100 * float(top_5), 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="photos named <synset>_*")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE)
    arguments = parser.parse_args()
    try:
        paths = photos.find(arguments.folder)
        embedder = Embedder(arguments.backbone)
        if embedder.layer != "logits":
            raise ColorlibError(f"{arguments.backbone}: weights without the classifier; give both")
        result = accuracy(embedder, paths)
    except ColorlibError as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps({"backbone": embedder.backbone, "photos": len(paths), **result}))


if __name__ == "__main__":
    main()
