"""Photos and predictions as HTML that holds all it shows.

Photos and their names come from anywhere, so every text is escaped before it becomes HTML, and what is kept of a photo
is a small thumbnail, encoded anew and without the photo's metadata (place, time, camera).
"""

import base64
import html
import io
from pathlib import Path

import pandas as pd

from carclf.photos import PhotoError, read_photo
from carclf.style import DARK, RIGHT, WRONG, doubt, plain

THUMBNAIL = 240  # pixels: the longer side


def prediction_cards(predictions, photos=None, side=THUMBNAIL):
    """HTML of a card for each row: photo, brand, answer with its confidence, the file's name, the likeliest brands.

    `photos` are paths or bytes in the order of the rows; default the column path. `side` is the longer side in pixels.
    """
    photos = predictions["path"] if photos is None else photos
    cards = [_card(row, photo, side) for row, photo in zip(predictions.itertuples(), photos, strict=True)]
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{"".join(cards)}</div>'


def _card(row, photo, side):
    name = escape(plain(Path(row.path).name, 80))
    box = f'<div class="card" style="width:{side}px;overflow-wrap:anywhere">'
    if pd.isna(row.predicted):
        return f"{box}<b>{name}</b><br>not read: {escape(row.problem)}</div>"
    truth, colour = "", DARK
    if not pd.isna(row.brand):
        right = row.brand == row.predicted
        truth, colour = (" ✓", RIGHT) if right else (f" ✗ {escape(row.brand)}", WRONG)
    bars = "".join(
        f'<div style="background:linear-gradient(90deg,{shade}55 {share:.1%},transparent {share:.1%});padding:0 4px">'
        f'{escape(brand)}<span style="float:right">{share:.0%}</span></div>'
        for shade, (brand, share) in zip([colour, *["#999999"] * len(row.top5)], row.top5.items(), strict=False)
    )
    return (
        f'{box}<b style="color:{colour}">{escape(row.predicted)} {row.confidence:.0%}{doubt(row)}</b>{truth}<br>'
        f'<small>{name}</small>{thumbnail(photo, side)}<div style="line-height:1.6">{bars}</div></div>'
    )


def thumbnail(photo, side=THUMBNAIL):
    """An image of at most `side` pixels, or why there is none; `photo` is a path or bytes."""
    try:
        image = read_photo(photo, at_least=side)
    except PhotoError as error:
        return f"<div>{escape(error)}</div>"
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" alt="">'


def escape(text):
    """Any text as HTML that shows it and does nothing else; lone surrogates, which no file can hold, as '?'."""
    return html.escape(str(text).encode("utf-8", "replace").decode("utf-8"))
