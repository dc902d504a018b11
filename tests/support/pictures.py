"""Pictures with text in them."""

import io

from PIL import Image, ImageDraw, ImageFont


def picture_of(*lines: str) -> bytes:
    """A PNG with lines of black text on white, each 40 pixels high."""
    image = Image.new("RGB", (640, 60 + 80 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        place = (30, 30 + 80 * index)
        draw.text(place, line, fill="black", font=ImageFont.load_default(40))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
