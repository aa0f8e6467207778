"""References that images are compared with: statistics of features, and some of the features themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from flowar.errors import DataError, FlowARError
from flowar.evaluation.extractors import Extractor
from flowar.evaluation.features import FeatureChunks, extract
from flowar.evaluation.images import ADM_IMAGES, StoredImages, open_stored
from flowar.evaluation.metrics.statistics import FeatureStatistics
from flowar.evaluation.npz import npz_names, read_npz
from flowar.storage.weights import metadata_record, open_safetensors, safetensors_metadata, save_tensors
from flowar.system.ranks import Ranks
from flowar.system.rules import Count

FORMAT = "flowar-reference"
KEPT = 10_000  # features for precision, recall and the kernel distance: as many as ADM's reference batches have
MOMENTS = ("mu", "sigma", "mu_s", "sigma_s")
UNKNOWN_COUNT = 2  # of statistics that do not say theirs: the mean and the covariance do not depend on it


class ExtractorRecord(TypedDict):
    """What `Extractor.record` gives."""

    name: str
    weights: str


class ReferenceRecord(TypedDict):
    """What a reference's file says of its images."""

    source: str
    fingerprint: str
    size: tuple[Count, Count] | None
    count: Count | None


@dataclass
class Reference:
    """Statistics of the features of a reference.

    Attributes:
        extractor: the record of the extractor.
        source: the place that the images come from.
        fingerprint: the hash of the images, or of the statistics if there are no images.
        size: height and width of the images; None if a file of statistics does not tell.
        count: the number of images; None if a file of statistics does not tell.
        pooled, spatial: statistics of the features; None for spatial ones that a file does not have.
        features: features of up to `KEPT` images, evenly chosen, float32 [M, d]; None if a file has statistics alone.
    """

    extractor: dict[str, Any]
    source: str
    fingerprint: str
    size: tuple[int, int] | None
    count: int | None
    pooled: FeatureStatistics
    spatial: FeatureStatistics | None
    features: Tensor | None

    @staticmethod
    def from_chunks(chunks: FeatureChunks, images: StoredImages, extractor: Extractor) -> Reference:
        """The reference of the features of all images; only those that are kept are in memory together."""
        return Reference(
            extractor.record(),
            images.name,
            images.fingerprint(),
            images.size,
            len(images),
            reduce(FeatureStatistics.merge, (FeatureStatistics.from_features(chunk.pooled) for chunk in chunks)),
            reduce(FeatureStatistics.merge, (FeatureStatistics.from_features(chunk.spatial) for chunk in chunks)),
            chunks.every(-(-len(images) // KEPT)),
        )

    def record(self) -> dict[str, Any]:
        """Plain data that identifies the reference."""
        kept = 0 if self.features is None else len(self.features)
        identity = {"source": self.source, "fingerprint": self.fingerprint}
        return identity | {"count": self.count, "size": self.size, "features_kept": kept}

    def save(self, path: Path) -> None:
        """Write a safetensors file, which `open_reference` reads.

        Raises:
            OSError: if writing fails.
        """
        about = {"source": self.source, "fingerprint": self.fingerprint, "size": self.size, "count": self.count}
        tensors = {"mean": self.pooled.mean, "scatter": self.pooled.scatter}
        if self.spatial is not None:
            tensors |= {"spatial_mean": self.spatial.mean, "spatial_scatter": self.spatial.scatter}
        if self.features is not None:
            tensors["features"] = self.features
        about_extractor = {"extractor": json.dumps(self.extractor), "reference": json.dumps(about)}
        save_tensors(path, tensors, {"format": FORMAT} | about_extractor)


def open_reference(
    source: str,
    extractor: Extractor,
    folder: Path,
    ranks: Ranks,
    batch_size: int,
    image_size: int | Sequence[int] | None,
    split: str,
    renew: bool = False,
) -> Reference:
    """Open the reference that `source` names, or compute it.

    Args:
        source: a file that `flowar reference` wrote; an npz with statistics of Inception (mu, sigma; mu_s, sigma_s),
            with images (arr_0), or with both, as ADM's; or images as `open_stored` takes them.
        extractor: the network that computes features.
        folder: the folder of the chunks of features.
        ranks: this process among others.
        batch_size: the number of images in a chunk.
        image_size, split: those of `open_stored`.
        renew: whether chunks of other settings make room for these.

    Raises:
        FlowARError: for a file of another extractor, or one that is missing, damaged, or something else.
    """
    if source.endswith(".safetensors"):
        return read_reference(Path(source), extractor)
    moments = read_npz(Path(source), MOMENTS) if source.endswith(".npz") else {}
    if moments and extractor.name == "inception":
        return from_moments(source, moments, extractor, folder, ranks, batch_size, renew)
    if moments and ADM_IMAGES not in npz_names(Path(source)):
        raise FlowARError(f"{source}: expected statistics of {extractor.name}, got mu and sigma, which are Inception's")
    stored = open_stored(source, extractor.channels, image_size, split)
    return from_images(stored, extractor, folder, ranks, batch_size, renew)


def from_images(
    images: StoredImages, extractor: Extractor, folder: Path, ranks: Ranks, batch_size: int, renew: bool
) -> Reference:
    """Compute a reference from images."""
    settings = {"images": images.record(), "extractor": extractor.record()}
    chunks = extract(images, extractor, folder, settings, ranks, batch_size, "reference", renew)
    return Reference.from_chunks(chunks, images, extractor)


def from_moments(
    source: str,
    moments: dict[str, Any],
    extractor: Extractor,
    folder: Path,
    ranks: Ranks,
    batch_size: int,
    renew: bool,
) -> Reference:
    """Read a reference from the moments in an npz, and compute the features of its images if it has some."""
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in moments.values()))
    size, features = None, None
    if ADM_IMAGES in npz_names(Path(source)):
        stored = open_stored(source, extractor.channels)
        of_images = from_images(stored, extractor, folder, ranks, batch_size, renew)
        size, features = of_images.size, of_images.features
    pooled, spatial = (statistics_from(source, moments, *names) for names in (MOMENTS[:2], MOMENTS[2:]))
    if pooled is None:
        raise DataError(f"{source}: expected mu and sigma, got {', '.join(moments)}")
    return Reference(extractor.record(), source, digest.hexdigest()[:16], size, None, pooled, spatial, features)


def statistics_from(source: str, moments: dict[str, Any], mean: str, covariance: str) -> FeatureStatistics | None:
    """Statistics from the arrays called `mean` and `covariance`; None if they are not there."""
    if mean not in moments or covariance not in moments:
        return None
    try:
        tensors = [torch.from_numpy(moments[name].astype(np.float64)) for name in (mean, covariance)]
        return FeatureStatistics.from_moments(UNKNOWN_COUNT, *tensors)
    except ValueError as error:
        raise DataError(f"{source}: {mean}, {covariance}: {error}") from error


def read_reference(path: Path, extractor: Extractor) -> Reference:
    """Read the file that `Reference.save` wrote.

    Raises:
        FlowARError: for features of another extractor, and for a file that is missing, damaged, or something else.
    """
    kind = safetensors_metadata(path).get("format")
    if kind != FORMAT:
        raise DataError(f"{path}: expected a file that flowar reference wrote, got format {kind}")
    own, other = extractor.record(), metadata_record(path, "extractor", ExtractorRecord, DataError)
    if dict(other) != own:
        raise FlowARError(f"{path}: expected features of {extractor_label(own)}, got those of {extractor_label(other)}")
    about, tensors = metadata_record(path, "reference", ReferenceRecord, DataError), open_safetensors(path)
    count = about["count"] or UNKNOWN_COUNT
    pooled, spatial = (stored_statistics(path, count, tensors, prefix) for prefix in ("", "spatial_"))
    if pooled is None:
        raise DataError(f"{path}: expected tensors mean and scatter, found {', '.join(tensors) or 'none'}")
    kept = tensors.get("features")
    if kept is not None and (kept.dim() != 2 or not kept.sum().isfinite()):
        raise DataError(f"{path}: expected finite features [M, d], got {list(kept.shape)}")
    return Reference(own, about["source"], about["fingerprint"], about["size"], about["count"], pooled, spatial, kept)


def stored_statistics(path: Path, count: int, tensors: Mapping[str, Tensor], prefix: str) -> FeatureStatistics | None:
    """The statistics in the tensors with this prefix; None if they are not there.

    Raises:
        DataError: for tensors that are none.
    """
    mean, scatter = (tensors.get(prefix + name) for name in ("mean", "scatter"))
    if mean is None or scatter is None:
        return None
    finite = mean.sum().isfinite() and scatter.sum().isfinite()
    if mean.dim() != 1 or scatter.shape != (*mean.shape, *mean.shape) or not finite:
        got = f"{list(mean.shape)} and {list(scatter.shape)}"
        raise DataError(f"{path}: expected finite {prefix}mean [d] and {prefix}scatter [d, d], got {got}")
    return FeatureStatistics(count, mean.double(), scatter.double())


def extractor_label(record: Mapping[str, Any]) -> str:
    """An extractor's record in a few words."""
    return f"{record['name']} (weights {record['weights']})"
