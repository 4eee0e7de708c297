"""Paints the style pictures in `data/style`.

Every picture is drawn from scratch with NumPy and Pillow, so the repository can
ship it without asking anyone:

  nocturne        Curved impasto strokes that swirl around stars and a moon.
  stained_glass   Leaded glass cells: a sun, hills, water and flowers.
  waves           A woodblock print of curling breakers.
  pointillism     A river at sunset in dots of broken colour.
  discs           Interlocking colour wheels in dry brush.

Lengths are shares of the picture's height unless a name says otherwise, so a
small picture shows the same composition as a large one.

Usage:
  python scripts/draw_samples.py --output=data/style
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from PIL import Image, ImageDraw, ImageFilter

FLAGS = flags.FLAGS

flags.DEFINE_string("output", "data/style", "Folder to write the pictures to.")
flags.DEFINE_integer("seed", 7, "Seed of every picture.")
flags.DEFINE_integer("width", 640, "Width of the pictures in pixels.", lower_bound=16)
flags.DEFINE_integer("height", 512, "Height of the pictures in pixels.", lower_bound=16)
flags.DEFINE_multi_string("only", [], "Paint only these pictures; all when empty.")

Array = np.ndarray
Painter = Callable[[int, int, np.random.Generator], Array]

_SUPERSAMPLING = 2
_JPEG_QUALITY = 90


@dataclasses.dataclass(frozen=True)
class Brush:
    """A brush and how it is used.

    Attributes:
      width: Width of a stroke.
      length: Length of a stroke, in widths.
      coverage: How many times the strokes' area covers the picture.
      jitter: Standard deviation of a stroke's tone around the picture's.
      bristles: Number of parallel hairs that make up a stroke.
    """

    width: float
    length: float
    coverage: float
    jitter: float
    bristles: int = 7


# ------------------------------------------------------------------ raw material


def palette(colours: str) -> Array:
    """Parses space-separated hex colours to `(n, 3)` floats in [0, 1]."""
    return np.array([list(bytes.fromhex(c)) for c in colours.split()]) / 255.0


def ramp(t: Array, colours: Array) -> Array:
    """Maps `t` in [0, 1] to a colour on the piecewise linear ramp `colours`."""
    stops = np.linspace(0.0, 1.0, len(colours))
    channels = [np.interp(t, stops, colours[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1)


def grid(width: int, height: int) -> tuple[Array, Array]:
    """Returns the pixels' x and y in units of the picture's height."""
    y, x = np.mgrid[0:height, 0:width]
    return (x + 0.5) / height, (y + 0.5) / height


def smoothstep(low: float, high: float, t: Array) -> Array:
    """Rises smoothly from 0 at `low` to 1 at `high`."""
    s = np.clip((t - low) / (high - low), 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


def mix(a: Array, b: Array, t: Array) -> Array:
    """Blends colours `a` and `b` by the mask `t`."""
    return a + (b - a) * t[..., None]


def noise(
    rng: np.random.Generator,
    shape: tuple[int, int],
    cells: float,
    octaves: int = 4,
    stretch: float = 1.0,
) -> Array:
    """Returns fractal noise with zero mean and unit deviation.

    Args:
      rng: Source of randomness.
      shape: Height and width in pixels.
      cells: Number of noise cells down the picture in the coarsest octave.
      octaves: Number of octaves, each twice as fine and half as strong.
      stretch: How many times longer than high a cell is.
    """
    height, width = shape
    total = np.zeros(shape)
    for octave in range(octaves):
        rows = max(2, round(cells * 2**octave))
        columns = max(2, round(rows * width / height / stretch))
        knots = Image.fromarray(rng.normal(size=(rows, columns)).astype(np.float32))
        layer = knots.resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
    return (total - total.mean()) / total.std()


def to_image(pixels: Array) -> Image.Image:
    """Rounds floats in [0, 1] to an 8-bit RGB image."""
    return Image.fromarray((np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def blur(values: Array, radius: float) -> Array:
    """Blurs each channel of values in [0, 1] by a radius in pixels."""
    blurred = to_image(values).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(blurred) / 255.0


def light(pixels: Array, heights: Array, strength: float) -> Array:
    """Lights the relief `heights` from the top left."""
    dy, dx = np.gradient(heights)
    return pixels * (1.0 + np.clip(strength * (dx + dy), -0.3, 0.3))[..., None]


# ----------------------------------------------------------------- brush strokes


def look_up(values: Array, points: Array) -> Array:
    """Returns `values` at the pixels nearest to `(..., 2)` points."""
    height, width = values.shape[:2]
    columns = np.clip(points[..., 0].astype(int), 0, width - 1)
    rows = np.clip(points[..., 1].astype(int), 0, height - 1)
    return values[rows, columns]


def trace(angle: Array, starts: Array, length: float, steps: int = 10) -> Array:
    """Follows the flow `angle` from `(n, 2)` points; returns `(n, steps + 1, 2)`."""
    points = [starts]
    for _ in range(steps):
        heading = look_up(angle, points[-1])
        move = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        points.append(points[-1] + move * (length / steps))
    return np.stack(points, axis=1)


def hairs(paths: Array, width: float, bristles: int) -> Array:
    """Splits `(n, k, 2)` paths into `(n, bristles, k, 2)` parallel hairs."""
    tangent = np.gradient(paths, axis=1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    offsets = np.linspace(-0.5, 0.5, bristles) * width
    taper = np.sin(np.linspace(0.25, np.pi - 0.35, paths.shape[1])) ** 0.6
    spread = offsets[:, None] * taper[None, :]
    return paths[:, None] + normal[:, None] * spread[None, :, :, None]


def stroke(
    picture: Array,
    heights: Array,
    target: Array,
    angle: Array,
    brush: Brush,
    rng: np.random.Generator,
    where: Array | None = None,
    regions: Array | None = None,
) -> tuple[Array, Array]:
    """Paints one layer of strokes that take their colour from `target`.

    Args:
      picture: The picture so far.
      heights: Thickness of the paint so far, in [0, 1].
      target: Colours to paint.
      angle: Direction of the strokes at each pixel.
      brush: The brush.
      rng: Source of randomness.
      where: Probability that a stroke which starts at a pixel is kept.
      regions: Labels of regions whose borders no stroke crosses.

    Returns:
      The new picture and thickness.
    """
    rows, columns = heights.shape
    width = max(2.0, brush.width * rows)
    reach = width * brush.length
    # Strokes start outside as well, or the side they flow away from stays bare.
    area = (rows + 2 * reach) * (columns + 2 * reach)
    count = int(brush.coverage * area / (width * reach))
    starts = rng.uniform(-reach, (columns + reach, rows + reach), size=(count, 2))
    if where is not None:
        starts = starts[rng.uniform(size=count) < look_up(where, starts)]
    lengths = reach * rng.uniform(0.6, 1.3, size=(len(starts), 1))
    paths = trace(angle, starts, lengths)
    if regions is not None:
        labels = look_up(regions, paths)
        paths = paths[(labels == labels[:, :1]).all(axis=1)]
    colours = look_up(target, paths[:, paths.shape[1] // 2])
    colours = vary(colours, brush.jitter, rng)
    return draw_hairs(picture, heights, paths, colours, width, brush.bristles, rng)


def vary(colours: Array, jitter: float, rng: np.random.Generator) -> Array:
    """Breaks `(n, 3)` colours up in tone and a little in hue."""
    tone = rng.normal(scale=jitter, size=(len(colours), 1))
    hue = rng.normal(scale=jitter * 0.35, size=colours.shape)
    return np.clip(colours * (1.0 + tone) + 0.25 * tone + hue, 0.0, 1.0)


def draw_hairs(
    picture: Array,
    heights: Array,
    paths: Array,
    colours: Array,
    width: float,
    bristles: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draws strokes hair by hair, so that each shows its bristles and an edge."""
    paint = to_image(picture)
    relief = Image.fromarray((heights * 255.0).astype(np.uint8))
    pens = ImageDraw.Draw(paint), ImageDraw.Draw(relief)
    side = np.linspace(0.05, -0.05, bristles)
    tones = 1.0 + side + rng.normal(scale=0.07, size=(len(paths), bristles))
    inks = np.clip(colours[:, None] * tones[..., None] * 255.0, 0, 255).astype(int)
    profile = 1.0 - 0.6 * np.linspace(-1.0, 1.0, bristles) ** 2
    thick = profile * rng.uniform(0.5, 1.0, size=(len(paths), bristles)) * 255.0
    pen_width = max(1, round(1.5 * width / bristles))
    lines = hairs(paths, width, bristles)
    for line, ink, height in zip(lines, inks, thick.astype(int), strict=True):
        for b in range(bristles):
            points = line[b].ravel().tolist()
            pens[0].line(points, fill=tuple(ink[b].tolist()), width=pen_width)
            pens[1].line(points, fill=int(height[b]), width=pen_width)
    return np.asarray(paint) / 255.0, np.asarray(relief) / 255.0


# ---------------------------------------------------------------------- nocturne

_STARS = (
    # x, y, radius, spin
    (1.04, 0.17, 0.100, 1.0),
    (0.13, 0.10, 0.038, 1.0),
    (0.37, 0.21, 0.026, -1.0),
    (0.55, 0.06, 0.033, 1.0),
    (0.78, 0.08, 0.019, -1.0),
    (1.18, 0.47, 0.034, 1.0),
    (0.95, 0.50, 0.020, 1.0),
    (0.06, 0.40, 0.030, -1.0),
    (0.46, 0.52, 0.018, 1.0),
)
_WHIRLS = (
    # x, y, radius, spin
    (0.58, 0.32, 0.150, 1.0),
    (0.82, 0.39, 0.105, -1.0),
    (0.24, 0.40, 0.065, 1.0),
)


def ridge(x: Array, level: float, swell: float, phase: float) -> Array:
    """Returns the skyline of a hill at `x`."""
    return level + swell * (np.sin(3.1 * x + phase) + 0.4 * np.sin(7.3 * x + 2 * phase))


def cypress(x: Array, y: Array) -> Array:
    """Returns a mask of two flame-shaped trees."""
    mask = np.zeros_like(x)
    for centre, top, girth in ((0.175, 0.16, 0.082), (0.300, 0.45, 0.060)):
        t = np.clip((y - top) / (1.05 - top), 0.0, 1.0)
        middle = centre + 0.012 * np.sin(13.0 * y + 40.0 * centre)
        half = girth * t**0.7 * (1.3 - 0.6 * t) * (1.0 + 0.10 * np.sin(37.0 * y))
        mask = np.maximum(mask, (np.abs(x - middle) < half) & (y > top))
    return mask.astype(float)


def night_sky(x: Array, y: Array, rough: Array) -> Array:
    """Returns the sky's colours: whirls of light around the stars."""
    blues = palette("0a1642 122a6e 1d4a9c 2f74b8 5fa6c4 a9cfc0 e0dfae")
    tone = 0.16 + 0.40 * y + 0.06 * rough
    for cx, cy, radius, _ in _WHIRLS:
        r = np.hypot(x - cx, y - cy) / radius
        turn = np.arctan2(y - cy, x - cx)
        arm = 0.5 + 0.5 * np.cos(2.0 * turn - 5.0 * r)
        tone += 0.62 * arm * np.exp(-((r / 1.15) ** 2))
    sky = ramp(tone, blues)
    halo = palette("fff6c8 fdd54a f6a821 f7d774 b9d6a0 5fa6c4 2f74b8")
    for cx, cy, radius, _ in _STARS:
        r = np.hypot(x - cx, y - cy) / radius
        ring = ramp(r / 3.0 + 0.03 * rough, halo)
        sky = mix(sky, ring, 0.96 * (1.0 - smoothstep(1.3, 3.0, r)))
    return sky


def night_flow(x: Array, y: Array) -> Array:
    """Returns the direction of the sky's strokes."""
    vx = 0.55 + 0.0 * x
    vy = 0.30 * np.sin(5.0 * x + 2.0) * np.cos(3.0 * y)
    for cx, cy, radius, spin in _WHIRLS + _STARS:
        dx, dy = (x - cx) / radius, (y - cy) / radius
        r = np.hypot(dx, dy) + 1e-3
        # A star's halo turns as a whole; a whirl fades into the wind around it.
        is_star = (cx, cy, radius, spin) in _STARS
        hold = 1.0 - smoothstep(2.2, 4.2, r) if is_star else np.exp(-((r / 1.8) ** 2))
        vx = vx + (-spin * dy / r - vx) * hold
        vy = vy + (spin * dx / r - vy) * hold
    return np.arctan2(vy, vx)


def night_land(
    x: Array, y: Array, rough: Array, sky: Array, flow: Array
) -> tuple[Array, Array]:
    """Lays hills and fields over the sky and its flow."""
    layers = (
        (0.61, 0.030, 0.4, "101f4e 24508a 5a9ab0"),
        (0.68, 0.028, 2.2, "0f2f4c 1f5f66 5c9a70 c8c866"),
        (0.76, 0.024, 4.0, "8a3f12 c9781c efb02d fbe08a"),
        (0.89, 0.020, 1.2, "12352f 2c6b3a 7fa23a e3c54a"),
    )
    for level, swell, phase, colours in layers:
        depth = y - ridge(x, level, swell, phase)
        rows = 0.5 + 0.5 * np.sin(depth * 130.0 + 3.0 * x + rough)
        crest = 0.7 * (1.0 - smoothstep(0.0, 0.03, depth))
        tone = 0.25 + 0.45 * rows + 0.12 * rough + crest
        sky = mix(sky, ramp(tone, palette(colours)), depth > 0)
        slope = np.arctan(-np.gradient(depth, axis=1) * len(depth))
        flow = np.where(depth > 0, slope + 0.25 * rough, flow)
    return sky, flow


def paint_cypresses(
    picture: Array,
    heights: Array,
    x: Array,
    y: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Paints the trees last: their upward strokes must not mix with the sky's."""
    tree = cypress(x, y)
    licks = np.sin(70.0 * x + 5.0 * np.sin(8.0 * y)) + 0.5 * noise(rng, x.shape, 9.0)
    greens = palette("050f1a 0a2527 143f33 2c6338 5f8436 a88a30")
    target = ramp(0.38 + 0.22 * licks, greens)
    angle = -np.pi / 2 + 0.40 * np.sin(19.0 * y + 8.0 * x)
    for brush in (Brush(0.016, 5.0, 9.0, 0.05), Brush(0.009, 8.0, 3.0, 0.08, 4)):
        # A stroke rises by its length, so it has to start that much lower.
        lift = int(0.5 * brush.width * brush.length * len(y))
        where = np.minimum(tree, np.roll(tree, lift, axis=0))
        picture, heights = stroke(picture, heights, target, angle, brush, rng, where)
    return picture, heights


def paint_nocturne(width: int, height: int, rng: np.random.Generator) -> Array:
    """Paints a night landscape in thick, swirling strokes."""
    x, y = grid(width, height)
    rough = noise(rng, x.shape, 7.0)
    sky = night_sky(x, y, rough)
    target, angle = night_land(x, y, rough, sky, night_flow(x, y))
    picture, heights = target * 0.55, np.zeros_like(x)
    layers = (
        Brush(0.028, 4.5, 3.0, 0.06),
        Brush(0.018, 5.0, 3.0, 0.10),
        Brush(0.011, 6.0, 2.6, 0.12, bristles=5),
        Brush(0.007, 9.0, 0.6, 0.14, bristles=4),
    )
    for brush in layers:
        picture, heights = stroke(picture, heights, target, angle, brush, rng)
    picture, heights = paint_cypresses(picture, heights, x, y, rng)
    return light(picture, blur(heights, height / 1024), 1.1)


# ----------------------------------------------------------------- stained glass


def polar_sites(cx: float, cy: float, rng: np.random.Generator) -> Array:
    """Returns sites on staggered rings around a sun, wilder away from it."""
    sites = [np.array([[cx, cy]])]
    radius, gap = 0.085, 0.058
    for ring in range(14):
        count = 12 * (1 + ring // 3)
        turn = (np.arange(count) + 0.5 * (ring % 2)) / count * 2 * np.pi
        wild = min(1.0, ring / 6.0)
        turn = turn + rng.normal(scale=0.05 * wild, size=count)
        reach = radius * (1.0 + rng.normal(scale=0.035 * wild, size=count))
        points = np.stack([cx + reach * np.cos(turn), cy + reach * np.sin(turn)], -1)
        sites.append(points)
        radius += gap
        gap *= 1.07
    return np.concatenate(sites)


def rows_of_sites(top: float, aspect: float, rng: np.random.Generator) -> Array:
    """Returns flat, staggered cells for the land below `top`."""
    sites = []
    for row, level in enumerate(np.arange(top, 1.08, 0.052)):
        xs = np.arange(-0.1, aspect + 0.1, 0.15) + 0.075 * (row % 2)
        ys = np.full_like(xs, level)
        sites.append(np.stack([xs, ys], axis=-1))
    flat = np.concatenate(sites)
    return flat + rng.normal(scale=(0.022, 0.008), size=flat.shape)


def flower_sites(flowers: Sequence[tuple[float, float, float]]) -> Array:
    """Returns a heart and seven petals for each `(x, y, radius)`."""
    sites = []
    for index, (cx, cy, radius) in enumerate(flowers):
        turn = np.arange(7) / 7 * 2 * np.pi + index
        petals = np.stack([cx + radius * np.cos(turn), cy + radius * np.sin(turn)], -1)
        sites.append(np.concatenate([[[cx, cy]], petals]))
    return np.concatenate(sites)


def nearest_two(x: Array, y: Array, sites: Array) -> tuple[Array, Array]:
    """Returns each pixel's nearest site and its distance to the cell's border."""
    points = np.stack([x, y], axis=-1).astype(np.float32)
    sites = sites.astype(np.float32)
    owner = np.empty(x.shape, dtype=int)
    border = np.empty(x.shape)
    every = np.arange(x.shape[1])
    for row, line in enumerate(points):
        dx, dy = (line[:, None, k] - sites[None, :, k] for k in range(2))
        square = dx * dx + dy * dy
        first = square.argmin(axis=1)
        near = square[every, first]
        square[every, first] = np.inf
        second = square.argmin(axis=1)
        gap = np.linalg.norm(sites[first] - sites[second], axis=-1)
        owner[row] = first
        border[row] = (square[every, second] - near) / (2.0 * gap + 1e-6)
    return owner, border


_FLOWERS = (
    # x, y, radius
    (0.13, 0.80, 0.062),
    (0.36, 0.91, 0.056),
    (0.60, 0.83, 0.048),
    (0.85, 0.92, 0.060),
    (1.12, 0.82, 0.066),
)
_SUN = (0.80, 0.30)


def window_sites(aspect: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns the window's cells and what each shows: sky, land or flower."""
    sky = polar_sites(*_SUN, rng)
    sky = sky[sky[:, 1] < ridge(sky[:, 0], 0.50, 0.04, 1.0) - 0.02]
    land = rows_of_sites(0.46, aspect, rng)
    land = land[land[:, 1] > ridge(land[:, 0], 0.50, 0.04, 1.0) + 0.01]
    flowers = flower_sites(_FLOWERS)
    gaps = [np.hypot(land[:, 0] - cx, land[:, 1] - cy) / r for cx, cy, r in _FLOWERS]
    land = land[np.min(gaps, axis=0) > 1.75]
    kinds = np.repeat([0, 1, 2], [len(sky), len(land), len(flowers)])
    return np.concatenate([sky, land, flowers]), kinds


def sky_glass(sites: Array, rng: np.random.Generator) -> Array:
    """Colours panes from a golden sun out to a violet sky."""
    reach = np.hypot(sites[:, 0] - _SUN[0], sites[:, 1] - _SUN[1])
    tone = reach / 1.0 + rng.normal(scale=0.06, size=len(sites))
    return ramp(
        tone, palette("fff3b0 ffc22e f5771f d92b3a 8e2a86 3b3aa8 1b6fb5 123a86")
    )


def land_glass(sites: Array, rng: np.random.Generator) -> Array:
    """Colours panes of far hills, a river and a meadow."""
    tone = (sites[:, 1] - 0.47) / 0.58 + rng.normal(scale=0.07, size=len(sites))
    greens = palette("1c4f9c 16869e 31b8a8 7fd6b0 2f9e5a 8bc34a 1f7a3d 0f5a3a")
    return ramp(tone, greens)


def flower_glass(count: int) -> Array:
    """Colours a golden heart and petals that alternate two reds or violets."""
    pairs = ("e0224f ff6f91", "f4511e ffb13b", "b5179e ef7fd0", "e0224f ff8a65")
    colours = []
    for index in range(count):
        pair = palette(pairs[index % len(pairs)])
        colours += [palette("ffd93b")[0]] + [pair[k % 2] for k in range(7)]
    return np.array(colours)


def paint_stained_glass(width: int, height: int, rng: np.random.Generator) -> Array:
    """Paints a leaded window with the light behind it."""
    x, y = grid(width, height)
    shape = x.shape
    sites, kinds = window_sites(width / height, rng)
    sky, land = sites[kinds == 0], sites[kinds == 1]
    glass = [sky_glass(sky, rng), land_glass(land, rng), flower_glass(len(_FLOWERS))]
    bend_x, bend_y = noise(rng, shape, 5.0, 2), noise(rng, shape, 5.0, 2)
    owner, border = nearest_two(x + 0.008 * bend_x, y + 0.008 * bend_y, sites)
    streaks = np.stack([noise(rng, shape, 6.0, 5, s) for s in (5.0, 0.2)])
    grain = np.where(owner % 2 == 0, streaks[0], streaks[1])
    glow = np.exp(-((np.hypot(x - _SUN[0], y - _SUN[1]) / 0.7) ** 2))
    inner = smoothstep(0.0, 0.04, border)
    # Thicker glass is deeper in colour, which a power keeps; a factor would grey it.
    thickness = 1.45 - 0.60 * inner - 0.30 * glow - 0.20 * grain
    thickness -= 0.08 * noise(rng, shape, 60.0, 2)
    pane = np.concatenate(glass)[owner] ** np.clip(thickness, 0.35, 2.5)[..., None]
    return add_leads(pane, border, noise(rng, shape, 90.0, 2))


def add_leads(pane: Array, border: Array, rough: Array) -> Array:
    """Solders rounded lead between the panes and lets the light bleed over it."""
    half = 0.0054
    bead = np.sqrt(np.clip(1.0 - (border / half) ** 2, 0.0, 1.0))
    lead = palette("16141a")[0] + (0.02 * rough + 0.10 * bead)[..., None]
    lead = light(lead, bead, 1.2)
    window = mix(pane, lead, 1.0 - smoothstep(half * 0.85, half * 1.15, border))
    bloom = blur(window, len(border) / 50)
    return window + 0.30 * bloom**2 * (1.0 - window)


# ------------------------------------------------------------------------- waves

_CURLS = (
    # x, y, radius, turn
    (0.40, 0.38, 0.185, 5.2),
    (0.98, 0.52, 0.150, 4.8),
    (0.12, 0.66, 0.120, 4.6),
    (0.62, 0.76, 0.120, 4.8),
    (1.16, 0.86, 0.110, 4.4),
    (0.30, 0.96, 0.090, 4.2),
)


def curl(x: Array, y: Array) -> tuple[Array, Array]:
    """Winds the plane up around each breaker."""
    for cx, cy, radius, turn in _CURLS:
        dx, dy = x - cx, y - cy
        twist = turn * np.exp(-((dx**2 + dy**2) / radius**2))
        cos, sin = np.cos(twist), np.sin(twist)
        x, y = cx + cos * dx - sin * dy, cy + sin * dx + cos * dy
    return x, y


def print_sky(x: Array, y: Array) -> Array:
    """Returns a sky in graded ink with a red sun, thin clouds and engraved lines."""
    sky = ramp(y / 0.55, palette("c8503f e5855a f3b57c f7d9a4 f3e2bb e6d9b8"))
    sun = 1.0 - smoothstep(0.098, 0.102, np.hypot(x - 1.0, y - 0.19))
    sky = mix(sky, ramp((y - 0.08) / 0.24, palette("a81a2a d0302c ec6238")), sun)
    drift = y + 0.035 * np.sin(4.0 * x) + 0.017 * np.sin(9.0 * x + 1.0)
    wave = np.sin(46.0 * drift) + 0.35 * np.sin(6.0 * x + 20.0 * y)
    sky = mix(sky, palette("fff4dc")[0], 0.8 * smoothstep(0.55, 0.75, wave))
    edge = 1.0 - smoothstep(0.03, 0.10, np.abs(wave - 0.60))
    lines = smoothstep(0.72, 0.95, np.sin(2 * np.pi * 62.0 * drift)) * (wave < 0.5)
    return mix(sky, palette("8f3b3a")[0], np.maximum(0.55 * edge, 0.34 * lines))


def print_sea(u: Array, v: Array, surface: Array, rng: np.random.Generator) -> Array:
    """Returns bands of graded blue ink with keylines and foam between them."""
    depth = (v - surface) * 24.0 + 0.5 * np.sin(5.0 * u) + 0.3 * np.sin(11.0 * u + 2.0)
    band = np.floor(depth).astype(int)
    part = depth - band
    tops = palette("0b2a55 f7f3e3 1b4f8a 7fb3c8 f4ead0 0f3a6e 2f7fa8 cfe3dc")
    ends = palette("1f5f9e d3e6e2 2f86b5 dcebe3 9cc7cf 0a2148 79bcc6 5fa3bd")
    order = rng.permutation(np.arange(64) % len(tops))[band % 64]
    sea = tops[order] + (ends - tops)[order] * smoothstep(0.1, 1.0, part)[..., None]
    fine = smoothstep(0.75, 0.95, np.sin(2 * np.pi * 4.0 * part))
    sea = mix(sea, palette("0b2a55")[0], 0.30 * fine)
    edge = np.minimum(part, 1.0 - part)
    return mix(sea, palette("071a3a")[0], 1.0 - smoothstep(0.03, 0.07, edge))


def foam_dots(picture: Array, mask: Array, rng: np.random.Generator) -> Array:
    """Scatters outlined drops of spray, mostly small, where `mask` allows."""
    image = to_image(picture)
    pen = ImageDraw.Draw(image)
    rows, columns = mask.shape
    drops = rng.uniform((0, 0), (columns, rows), size=(6000, 2))
    drops = drops[rng.uniform(size=len(drops)) < look_up(mask, drops)]
    radii = rows * 0.0028 * rng.lognormal(sigma=0.55, size=len(drops))
    for (x, y), radius in zip(drops.tolist(), radii.tolist(), strict=True):
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=(252, 248, 234), outline=(18, 48, 92), width=rows // 512)
    return np.asarray(image) / 255.0


def paint_waves(width: int, height: int, rng: np.random.Generator) -> Array:
    """Paints curling breakers in the manner of a woodblock print."""
    x, y = grid(width, height)
    u, v = curl(x, y)
    surface = 0.40 + 0.05 * np.sin(4.0 * u + 1.0)
    sea = print_sea(u, v, surface, rng)
    wet = smoothstep(-0.002, 0.002, v - surface)
    picture = mix(print_sky(x, y), sea, wet)
    near = np.exp(-(((v - surface) / 0.05) ** 2))
    picture = foam_dots(picture, 0.45 * near * smoothstep(0.1, 0.3, y), rng)
    wood = noise(rng, x.shape, 40.0, 3, stretch=14.0)
    paper = noise(rng, x.shape, 120.0, 2)
    return picture * (1.0 + 0.035 * wood + 0.03 * paper)[..., None]


# ------------------------------------------------------------------- pointillism

_POPLARS = (
    # x, top, girth
    (0.07, 0.06, 0.050),
    (0.18, 0.13, 0.042),
    (0.27, 0.20, 0.036),
    (0.35, 0.26, 0.030),
    (1.17, 0.19, 0.045),
    (1.08, 0.28, 0.034),
)
_HORIZON = 0.52


def sunset(x: Array, y: Array) -> Array:
    """Returns a sunset sky over hills and poplars, down to the horizon."""
    sky = ramp(
        y / _HORIZON, palette("3c4d8f 5d63a6 9673ab d58a98 efa77c f6c878 fbe7a6")
    )
    sun = np.hypot(x - 0.76, y - 0.38)
    sky = mix(sky, palette("fff7c9")[0], np.exp(-((sun / 0.13) ** 2)))
    clouds = np.sin(30.0 * y + 2.0 * np.sin(5.0 * x)) * np.sin(3.0 * x + 9.0 * y + 1.0)
    sky = mix(sky, palette("f7b59a")[0], 0.75 * smoothstep(0.35, 0.9, clouds))
    hill = y - 0.455 - 0.025 * np.sin(4.5 * x + 0.6) - 0.012 * np.sin(11.0 * x)
    far = ramp(hill / 0.08, palette("5a64a0 5f83a5 7d9f7c"))
    scene = mix(sky, far, smoothstep(-0.004, 0.004, hill))
    for middle, top, girth in _POPLARS:
        t = np.clip((y - top) / (_HORIZON - top), 0.0, 1.0)
        sway = 0.08 * np.sin(90.0 * y + 50.0 * middle)
        swell = np.sin(np.pi * t**0.75 * 0.95) ** 0.75 * (1.0 + sway)
        side = (x - middle) / (girth * swell + 1e-4)
        leaf = ramp(0.5 + 0.5 * side, palette("14284a 1f4a52 47763f a9a548 f0b557"))
        scene = mix(scene, leaf, (np.abs(side) < 1.0) & (y > top))
    return scene


def riverside(x: Array, y: Array, rough: Array) -> Array:
    """Returns the sunset, its reflection in a river and a bank in bloom."""
    deep = np.clip((y - _HORIZON) / 0.3, 0.0, 1.0)
    swing = np.sin(2 * np.pi * 13.0 * deep**0.7 + 1.2 * rough)
    mirrored = sunset(x + 0.010 * swing, 2.0 * _HORIZON - y + 0.010 * swing * deep)
    glint = smoothstep(0.35, 0.95, swing + 0.35 * rough)
    water = mix(mirrored, palette("2f5f9a")[0], 0.10 + 0.34 * glint)
    sparkle = np.exp(-(((x - 0.76) / 0.10) ** 2)) * smoothstep(0.2, 0.8, -swing)
    water = mix(water, palette("fff0b8")[0], 0.8 * sparkle)
    scene = np.where((y > _HORIZON)[..., None], water, sunset(x, y))
    bank = y - 0.81 - 0.05 * np.sin(2.6 * x + 2.6) - 0.012 * rough
    shade = bank / 0.30 + 0.13 * rough + 0.10 * np.sin(40.0 * y + 6.0 * np.sin(3.0 * x))
    grass = ramp(shade, palette("e3cf6b a9b24c 5f9350 2f7058 27506b 2c3768"))
    scene = mix(scene, grass, smoothstep(-0.004, 0.004, bank))
    shore = 1.0 - smoothstep(0.004, 0.014, np.abs(y - _HORIZON))
    return mix(scene, palette("2b4a63")[0], 0.8 * shore * (bank < 0))


def draw_dots(
    picture: Array,
    target: Array,
    radius: float,
    coverage: float,
    jitter: float,
    rng: np.random.Generator,
) -> Array:
    """Covers the picture with dots of `target`, broken into pure colours."""
    image = to_image(picture)
    pen = ImageDraw.Draw(image)
    rows, columns = target.shape[:2]
    size = max(1.0, radius * rows)
    count = int(coverage * rows * columns / (np.pi * size * size))
    centres = rng.uniform((0, 0), (columns, rows), size=(count, 2))
    colours = divide(look_up(target, centres), jitter, rng)
    sizes = size * rng.uniform(0.7, 1.2, size=(count, 2))
    inks = (colours * 255.0).astype(int).tolist()
    for (x, y), (a, b), ink in zip(centres.tolist(), sizes.tolist(), inks, strict=True):
        pen.ellipse((x - a, y - b, x + a, y + b), fill=tuple(ink))
    return np.asarray(image) / 255.0


def divide(colours: Array, jitter: float, rng: np.random.Generator) -> Array:
    """Splits `(n, 3)` colours into purer neighbours and a few complements."""
    grey = colours.mean(axis=-1, keepdims=True)
    pure = grey + (colours - grey) * rng.uniform(0.9, 1.45, size=grey.shape)
    pure = pure + rng.normal(scale=jitter, size=colours.shape)
    opposite = np.clip(2.0 * grey - colours, 0.0, 1.0) * 0.6 + 0.3
    swap = rng.uniform(size=grey.shape) < 0.07
    return np.clip(np.where(swap, opposite, pure), 0.0, 1.0)


def add_blossoms(target: Array, rng: np.random.Generator) -> Array:
    """Sows poppies and daisies over the near bank."""
    image = to_image(target)
    pen = ImageDraw.Draw(image)
    rows, columns = target.shape[:2]
    colours = palette("d8434e ee7b45 fbeed2 f4cb55 c9699f b9a8dc")
    inks = (colours * 255.0).astype(int).tolist()
    for _ in range(170):
        x, y = rng.uniform(0, columns), rows * (1.0 - 0.20 * rng.uniform() ** 0.8)
        radius = rows * 0.012 * (0.4 + 3.2 * (y / rows - 0.78))
        ink = tuple(inks[int(rng.integers(len(inks)))])
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    return np.asarray(image) / 255.0


def paint_pointillism(width: int, height: int, rng: np.random.Generator) -> Array:
    """Paints a river at sunset in dots that the eye has to mix."""
    x, y = grid(width, height)
    target = add_blossoms(riverside(x, y, noise(rng, x.shape, 9.0)), rng)
    picture = np.broadcast_to(palette("e8d8b4")[0], target.shape)
    for radius, coverage, jitter in (
        (0.0095, 2.5, 0.05),
        (0.0065, 1.6, 0.09),
        (0.0042, 1.1, 0.11),
    ):
        picture = draw_dots(picture, target, radius, coverage, jitter, rng)
    return picture


# ------------------------------------------------------------------------- discs

_DISCS = (
    # x, y, radius, rings, sectors, turn
    (0.40, 0.42, 0.400, 7, 6, 0.20),
    (0.98, 0.68, 0.370, 7, 6, 0.90),
    (0.90, 0.16, 0.230, 4, 4, 0.45),
    (0.18, 0.90, 0.240, 5, 4, 1.10),
    (0.62, 0.94, 0.170, 4, 4, 0.30),
    (1.20, 0.28, 0.160, 3, 4, 0.70),
    (0.06, 0.12, 0.170, 3, 4, 0.10),
    (0.66, 0.12, 0.100, 3, 2, 1.20),
)


def wheel(x: Array, y: Array, disc: Sequence[float]) -> tuple[Array, Array]:
    """Returns a disc's distance from its centre, in radii, and its sector."""
    cx, cy, radius, rings, sectors, turn = disc
    r = np.hypot(x - cx, y - cy) / radius
    around = (np.arctan2(y - cy, x - cx) - turn) / (2 * np.pi) * sectors
    return r, np.floor(around).astype(int) + 3 * np.floor(r * rings).astype(int)


def wheels(x: Array, y: Array, rough: Array) -> tuple[Array, Array, Array]:
    """Returns interlocking colour wheels, their flow and the label of each piece."""
    hues = palette(
        "1b2a5c c8232f f3e3b8 1f6f8f e8832a 0f1b38 f2b53c 2f9aa0 8e1f3f 2e5fb0 f0c9a0"
    )
    code = np.floor(x * 2.6 + 0.5 * y).astype(int) * 3
    code += np.floor(y * 3.1 - 0.6 * x).astype(int) * 5
    angle = np.full_like(x, 0.9)
    tone = 0.10 * np.sin(9.0 * x + 6.0 * y)
    for index, disc in enumerate(_DISCS):
        r, cell = wheel(x, y, disc)
        inside = r < 1.0
        # Sums of codes change where discs overlap, as if they were glass.
        code = np.where(inside, code + 3 * cell + index + 1, code)
        tangent = np.arctan2(y - disc[1], x - disc[0]) + np.pi / 2
        angle = np.where(inside, tangent, angle)
        shade = (r * disc[3]) % 1.0 - 0.5
        tone = np.where(inside, 0.30 * shade, tone)
    colours = hues[code % len(hues)]
    return np.clip(colours * (1.0 + tone + 0.04 * rough)[..., None], 0, 1), angle, code


def paint_discs(width: int, height: int, rng: np.random.Generator) -> Array:
    """Paints interlocking colour wheels with a dry brush on canvas."""
    x, y = grid(width, height)
    target, angle, code = wheels(x, y, noise(rng, x.shape, 6.0))
    picture, heights = target * 0.9, np.zeros_like(x)
    for brush in (Brush(0.014, 3.5, 4.0, 0.06, 9), Brush(0.007, 5.0, 3.0, 0.10, 5)):
        picture, heights = stroke(
            picture, heights, target, angle, brush, rng, regions=code
        )
    weave = np.sin(x * 2 * np.pi * 170) + np.sin(y * 2 * np.pi * 170)
    picture = light(picture, blur(heights, height / 1024), 0.8)
    return picture * (1.0 + 0.02 * weave)[..., None]


# -------------------------------------------------------------------------- main

PAINTERS: dict[str, Painter] = {
    "nocturne": paint_nocturne,
    "stained_glass": paint_stained_glass,
    "waves": paint_waves,
    "pointillism": paint_pointillism,
    "discs": paint_discs,
}


def paint(name: str, width: int, height: int, seed: int) -> Image.Image:
    """Paints one picture, larger than asked for, and scales it down.

    Args:
      name: A key of `PAINTERS`.
      width: Width in pixels.
      height: Height in pixels.
      seed: Seed of the picture.

    Returns:
      An RGB picture of the size asked for.
    """
    # The name is part of the seed: a new picture leaves the others as they are.
    rng = np.random.default_rng([seed, *name.encode()])
    pixels = PAINTERS[name](_SUPERSAMPLING * width, _SUPERSAMPLING * height, rng)
    return to_image(pixels).reduce(_SUPERSAMPLING)


def main(argv: Sequence[str]) -> None:
    """Paints the pictures that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    unknown = sorted(set(FLAGS.only) - set(PAINTERS))
    if unknown:
        raise app.UsageError(
            f"Unknown pictures {unknown}; choose from {list(PAINTERS)}"
        )
    output = Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    for name in FLAGS.only or PAINTERS:
        path = output / f"{name}.jpg"
        picture = paint(name, FLAGS.width, FLAGS.height, FLAGS.seed)
        picture.save(path, quality=_JPEG_QUALITY, optimize=True)
        logging.info("Painted %s", path)


if __name__ == "__main__":
    app.run(main)
