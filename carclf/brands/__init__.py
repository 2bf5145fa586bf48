"""File name or folder -> brand, from the table of makes. Must not know photos, models or anything else of carclf."""

# ruff: noqa: F401 - the names below are for the rest of the package

from carclf.brands.makes import Brand, also_right, brand_table, is_right_answer, owner_of
from carclf.brands.names import (
    ParsedName,
    folder_brand,
    name_pattern,
    parse_brand,
    parse_model,
    parse_name,
    parse_path,
)
