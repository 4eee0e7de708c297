/** The camera, with the style live. */
import { BadPicture, fitted, mirrored, Picture } from "./pictures";
import type { Pixels } from "./protocol";

const SIDES = [128, 160, 192, 256, 320, 384, 512];
const SLOW = 0.45; // seconds a frame
const FAST = 0.12;

export class Camera {
  #video = document.getElementById("camera-view") as HTMLVideoElement;
  #canvas = document.createElement("canvas");
  #level = 2; // in SIDES
  #count = 0;

  get on(): boolean {
    return this.#video.srcObject !== null;
  }

  /** What the styles of its frames are known by: of one time that it is on. */
  get key(): string {
    return `camera-${this.#count}`;
  }

  /** Starts it; a `BadPicture` says why it does not. */
  async start() {
    try {
      const wanted = { video: { width: { ideal: 1024 }, facingMode: "user" } };
      this.#video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
      await this.#video.play();
    } catch (error) {
      this.stop();
      const refused = error instanceof DOMException && error.name === "NotAllowedError";
      throw new BadPicture(
        refused
          ? "The camera is blocked. Allow it in the browser's settings of this page."
          : "There is no camera that this page can use.",
      );
    }
    this.#count++;
  }

  stop() {
    const stream = this.#video.srcObject as MediaStream | null;
    stream?.getTracks().forEach((track) => track.stop());
    this.#video.srcObject = null;
  }

  /** The frame of now, small enough for a few each second. */
  frame(): Pixels {
    const { videoWidth, videoHeight } = this.#video;
    const [width, height] = fitted(videoWidth, videoHeight, SIDES[this.#level]);
    if (this.#canvas.width !== width || this.#canvas.height !== height)
      [this.#canvas.width, this.#canvas.height] = [width, height];
    return mirrored(this.#canvas, this.#video);
  }

  /** Adapts the size of frames to the seconds that one took. */
  adapt(seconds: number) {
    if (seconds > SLOW && this.#level > 0) this.#level--;
    if (seconds < FAST && this.#level < SIDES.length - 1) this.#level++;
  }

  /** The frame of now, whole. */
  picture(): Promise<Picture> {
    return Picture.ofVideo(this.#video, "Camera");
  }
}
