"""`nuclei`: 205 microscope images, included in the package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segacc.hookspecs import Dataset, DataSplits, Sample, hookimpl
from segacc.labels import LabelMap


@dataclass(frozen=True, kw_only=True)
class NucleiOptions:
    """Options of nuclei."""

    border: bool = False
    """True: three classes, where the outer two pixels of each nucleus are `nucleus_border`."""


@dataclass(frozen=True)
class ParquetSamples(Sequence[Sample]):
    """Rows of a parquet table as samples; the encoded images stay in Arrow's memory."""

    table: Any
    label_column: str

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __getitem__(self, index: Any) -> Any:
        """Return one Sample."""
        row = self.table.slice(index, 1).to_pylist()[0]
        return Sample(row["image"]["bytes"], row[self.label_column]["bytes"], row["image_id"])


def build_nuclei(options: NucleiOptions) -> DataSplits:
    """Read the two parquet files of the package."""
    from pyarrow.parquet import ParquetFile  # unlike read_table, it does not import pandas

    column = "annotation_border" if options.border else "annotation"
    folder = Path(__file__).parent / "data" / "nuclei"
    splits = {
        split: ParquetSamples(
            ParquetFile(folder / f"{split}.parquet").read(["image_id", "image", column]), column
        )
        for split in ("train", "validation")
    }
    names = ("background", "nucleus", "nucleus_border")
    palette = ((40, 40, 40), (255, 200, 0), (200, 0, 80))
    count = 3 if options.border else 2
    return DataSplits(
        splits, LabelMap.plain(names[:count], palette=palette[:count]), crop_size=(192, 192)
    )


@hookimpl
def segacc_datasets() -> list[Dataset]:
    """Register nuclei."""
    return [
        Dataset(
            name="nuclei",
            summary="205 microscope images of the 2018 Data Science Bowl (CC0), in the package",
            options=NucleiOptions,
            build=build_nuclei,
        )
    ]
