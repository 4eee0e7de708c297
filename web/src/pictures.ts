/** Pictures of the page, from samples, files and the camera. */
import type { Pixels } from "./protocol";

export const LARGEST = 1024; // pixels a side
const MOST_PIXELS = 120e6; // of a file, which is decoded whole

/** A picture cannot be used; the message says why, for people. */
export class BadPicture extends Error {}

export class Picture {
  /** What it is known by, among all pictures of the page. */
  readonly key = crypto.randomUUID();
  #scaled = new Map<number, Pixels>();

  private constructor(
    readonly name: string,
    readonly address: string,
    private bitmap: ImageBitmap,
  ) {}

  /** A file that a person chose or dropped. */
  static async ofFile(file: File): Promise<Picture> {
    const name = file.name.replace(/\.[^.]*$/, "");
    return Picture.ofAddress(URL.createObjectURL(file), name, file.name);
  }

  /** A picture by its address; `shown` is what a message calls it. */
  static async ofAddress(address: string, name: string, shown = name): Promise<Picture> {
    const image = new Image();
    image.src = address;
    try {
      await new Promise((resolve, reject) => ([image.onload, image.onerror] = [resolve, reject]));
    } catch {
      throw new BadPicture(
        `${shown} is not a picture that this browser can read. Choose a JPEG, PNG or WebP file.`,
      );
    }
    const { naturalWidth: width, naturalHeight: height } = image;
    if (!width || width * height > MOST_PIXELS)
      throw new BadPicture(
        `${shown} is too large: ${width} × ${height} pixels. Choose one of at most 120 megapixels.`,
      );
    try {
      const sides = fitted(width, height, LARGEST);
      return new Picture(name, address, await resized(image, width, height, sides));
    } catch {
      throw new BadPicture(`${shown} cannot be read whole: the file is damaged or too large.`);
    }
  }

  /** The frame that a camera shows now. */
  static async ofVideo(video: HTMLVideoElement, name: string): Promise<Picture> {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = fitted(video.videoWidth, video.videoHeight, LARGEST);
    mirrored(canvas, video);
    const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve));
    if (!blob) throw new BadPicture("The camera gave no picture. Try again.");
    return new Picture(name, URL.createObjectURL(blob), await createImageBitmap(canvas));
  }

  /** Its pixels, with no side longer than `side`; never enlarged. */
  async pixels(side: number): Promise<Pixels> {
    let pixels = this.#scaled.get(side);
    if (!pixels) {
      const { width, height } = this.bitmap;
      const sides = fitted(width, height, side);
      const small = await resized(this.bitmap, width, height, sides);
      pixels = read(small, ...sides);
      this.#scaled.set(side, pixels);
    }
    return pixels;
  }
}

/** The sides of a picture that is scaled down to fit. */
export function fitted(width: number, height: number, side: number): [number, number] {
  const scale = Math.min(1, side / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** Draws what a camera shows as in a mirror, which is how people expect to see themselves. */
export function mirrored(canvas: HTMLCanvasElement, video: HTMLVideoElement): Pixels {
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.setTransform(-1, 0, 0, 1, canvas.width, 0);
  context.drawImage(video, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function resized(
  source: ImageBitmapSource,
  width: number,
  height: number,
  [resizeWidth, resizeHeight]: [number, number],
): Promise<ImageBitmap> {
  if (width === resizeWidth && height === resizeHeight) return createImageBitmap(source);
  return createImageBitmap(source, { resizeWidth, resizeHeight, resizeQuality: "high" });
}

/** RGBA on white. */
function read(source: CanvasImageSource, width: number, height: number): Pixels {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}
