"""UnlearnCanvas (Zhang et al., NeurIPS 2024): 60 styles and Seed_Images x 20 objects x 20 images.

Read from folders, {style}/{object}/{1..20}.jpg, or from the hub's parquet shards (columns image and text).
"""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from fade.data.dataset import Item
from fade.data.folder import Files
from fade.data.images import UNREADABLE, Left, image_files, rgb, square
from fade.errors import BadInput

# In the order of the published classifiers' labels (constants/const.py at 920cfd1): 50 styles and Seed_Images; 20
# objects.
STYLES = """
    Abstractionism Artist_Sketch Blossom_Season Bricks Byzantine Cartoon Cold_Warm Color_Fantasy Comic_Etch Crayon
    Cubism Dadaism Dapple Defoliation Early_Autumn Expressionism Fauvism French Glowing_Sunset Gorgeous_Love
    Greenfield Impressionism Ink_Art Joy Liquid_Dreams Magic_Cube Meta_Physics Meteor_Shower Monet Mosaic Neon_Lines
    On_Fire Pastel Pencil_Drawing Picasso Pop_Art Red_Blue_Ink Rust Seed_Images Sketch Sponge_Dabbed Structuralism
    Superstring Surrealism Ukiyoe Van_Gogh Vibrant_Flow Warm_Love Warm_Smear Watercolor Winter
""".split()  # noqa: SIM905 - a list of seventy lines is harder to read
OBJECTS = """
    Architectures Bears Birds Butterfly Cats Dogs Fishes Flame Flowers Frogs Horses Human Jellyfish Rabbits Sandwiches
    Sea Statues Towers Trees Waterfalls
""".split()  # noqa: SIM905
TARGETS = [style for style in STYLES if style != "Seed_Images"]  # the styles that the benchmark forgets
# In the dataset and not in the benchmark.
OTHER_STYLES = """
    Blue_Blooming Crypto_Punks Dreamweave Foliage_Patchwork Impasto Palette_Knife Pointillism Rainwash
    Realistic_Watercolor Techno
""".split()  # noqa: SIM905
_TEXT = re.compile(r"An? (.+) image in (.+) style\.?", re.IGNORECASE)
_INDEXES = {
    "test": range(1, 6),
    "train": range(6, 18),
    "judge": range(18, 21),
}  # 1-5 are the published reference of the FID


class UnlearnCanvas(Files):
    """Domains `style` and `object`; the default surrogate of a style is Seed_Images, as in the paper.

    styles: `benchmark`, the classifier's 51, `all`, the 61 of the dataset, or some of the 51, which the same classifier
    reads. objects: None for all 20, or some of them. Images 1-5 of a cell are the test split (the published code takes
    the FID's reference there), 6-17 train, 18-20 judge. The parquet files have no index: rows of a cell are numbered in
    their order.
    Raises BadInput for a missing cell, an image whose name is no number, a text that names no cell.
    """

    photo_style = "Seed_Images"

    def __init__(
        self,
        root: str,
        template: str,
        partials: dict[str, str] | None = None,
        styles: str | list[str] = "benchmark",
        objects: list[str] | None = None,
        on_bad: str = "error",
        cache: str = "cache",
        name: str = "unlearncanvas",
    ) -> None:
        base, left = Path(root), Left()
        if not base.is_dir():
            raise BadInput(f"no folder {base}; set dataset.root to where UnlearnCanvas lies")
        known = {"benchmark": STYLES, "all": sorted([*STYLES, *OTHER_STYLES])}
        chosen = known.get(styles) if isinstance(styles, str) else styles
        if not chosen:
            raise BadInput(f"dataset.styles is {styles!r}; choose benchmark, all, or a list of styles")
        domains = {"style": list(chosen), "object": list(objects or OBJECTS)}
        cells = [(style, name) for style in domains["style"] for name in domains["object"]]
        shards = sorted(base.rglob("*.parquet"))
        items: dict[tuple[str, ...], list[Item]]
        items = _from_parquet(shards, cells) if shards else {cell: _from_folder(base, cell, left) for cell in cells}
        super().__init__(
            name,
            base,
            items,
            left,
            domains,
            template,
            {"style": self.photo_style},
            partials,
            on_bad=on_bad,
            cache=cache,
        )
        published = {"style": STYLES, "object": OBJECTS}
        self.whole = {d: published[d] if {*own} <= {*published[d]} else own for d, own in domains.items()}
        self.says = {self.photo_style: "photo"}  # of the texts that the model was trained on

    def items(self, split: str) -> list[Item]:
        return [item for group in self.files.values() for item in group if item.index in _INDEXES[split]]

    def image(self, item: Item, size: int) -> Image.Image:
        if item.row is None:
            return super().image(item, size)
        assert item.path is not None
        try:
            with Image.open(io.BytesIO(_row_bytes(item.path, item.row))) as file:
                return square(rgb(file), size)
        except UNREADABLE as error:
            raise BadInput(f"{item.path}, row {item.row}: not a readable image ({error})") from error

    def _check_sizes(self) -> None:
        for (style, name), group in self.files.items():
            if not group:
                raise BadInput(
                    f"{self.root}: no image of {style}/{name}; restore it, or choose dataset.styles, dataset.objects"
                )

    def _without_bad(self, items: dict[tuple[str, ...], list[Item]], cache: Path) -> dict[tuple[str, ...], list[Item]]:
        return items if any(g and g[0].row is not None for g in items.values()) else super()._without_bad(items, cache)


def _from_folder(base: Path, cell: tuple[str, str], left: Left) -> list[Item]:
    folder = base.joinpath(*cell)
    if not folder.is_dir() and cell[0] == "Seed_Images" and (base / "Seed_Image").is_dir():
        folder = base / "Seed_Image" / cell[1]  # as the benchmark's README writes it
    if not folder.is_dir():
        raise BadInput(f"{folder} is missing: UnlearnCanvas needs a folder for {'/'.join(cell)}")
    files = image_files(folder, left)
    strange = [path for path in files if not path.stem.isdigit()]
    if strange:
        raise BadInput(f"{strange[0]} is not named by its index, 1.jpg to 20.jpg; rename or remove it")
    return [Item(cell, int(path.stem), path) for path in files]


def parse_text(text: str) -> tuple[str, str]:
    """ "A Dogs image in Van Gogh style" -> (Van_Gogh, Dogs); "photo" and "Seed Images" are Seed_Images."""
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise BadInput(f"the text {text!r} is not of the form 'A OBJECT image in STYLE style'")
    style = match[2].replace(" ", "_")
    return ("Seed_Images" if style.lower() in ("photo", "seed_images") else style), match[1].replace(" ", "_")


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise BadInput("reading parquet files needs pyarrow: pip install 'fade-unlearning[parquet]'") from None
    return parquet


def _from_parquet(shards: list[Path], cells: list[tuple[str, str]]) -> dict[tuple[str, ...], list[Item]]:
    """Items by the cells that the shards' texts name; only the text column is read."""
    found: dict[tuple[str, ...], list[Item]] = {cell: [] for cell in cells}
    for shard in shards:
        try:
            column = _pyarrow().read_table(shard, columns=["text"]).column("text").to_pylist()
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{shard}: cannot read the column text ({str(error).splitlines()[0]})") from error
        for row, text in enumerate(column):
            cell = parse_text(text)
            if cell in found:
                found[cell].append(Item(cell, len(found[cell]) + 1, shard, row))
    return found


@lru_cache(maxsize=1)
def _row_group(shard: Path, group: int) -> list[Any]:
    return _pyarrow().ParquetFile(shard).read_row_group(group, columns=["image"]).column("image").to_pylist()


def _row_bytes(shard: Path, row: int) -> bytes:
    """The encoded image of one row: bytes, or the hub's {bytes, path}. Neighbouring rows share one read."""
    metadata = _pyarrow().ParquetFile(shard).metadata
    for group in range(metadata.num_row_groups):
        if row < metadata.row_group(group).num_rows:
            value = _row_group(shard, group)[row]
            return value["bytes"] if isinstance(value, dict) else value
        row -= metadata.row_group(group).num_rows
    raise BadInput(f"{shard} has no row {row}")
