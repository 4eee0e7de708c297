/** What the page and its worker say to each other. */

/** A picture: RGBA, one byte each. */
export interface Pixels {
  width: number;
  height: number;
  data: Uint8ClampedArray<ArrayBuffer>;
}

/** A picture whose style counts, by its share of the whole. */
export interface Share {
  key: string;
  weight: number;
  pixels: Pixels;
}

/** What to paint: the weights of all styles add up to 1. */
export interface Order {
  content: Pixels;
  styles: Share[];
  /** The content itself, where the strength is not full. */
  own?: Share;
}

export type Question =
  | { type: "load"; base: string; sizes: Record<string, number>; gpu: boolean; lock: string }
  | ({ type: "paint" } & Order);

export type Answer =
  | { type: "progress"; share: number }
  | { type: "loaded"; gpu: boolean }
  | { type: "painted"; pixels: Pixels; seconds: number }
  | { type: "failed"; message: string };
