/** The page: what is chosen becomes a picture, as soon as it is chosen. */
import files from "virtual:files";
import { Camera } from "./camera";
import { Gallery, takesDrops } from "./gallery";
import { keepForLater, keepSamples } from "./offline";
import { Lost, Painter } from "./painter";
import { BadPicture, type Picture } from "./pictures";
import type { Pixels, Share } from "./protocol";
import { Wall } from "./wall";

const STYLE_SIDE = 512; // pixels of a painting that the network looks at
const DRAFT_SIDE = 256;
const PATIENCE = 0.7; // seconds, after which a draft comes first

const $ = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const value = (id: string) => Number($<HTMLInputElement>(id).value);

const wall = new Wall();
const camera = new Camera();
const photographs = new Gallery($("photographs"), "photograph", refresh);
const seconds = new Gallery($("seconds"), "second", refresh);
const paintings = new Gallery($("paintings"), "painting", refresh, (p) => seconds.add(p, false));
const painter = new Painter(
  (share) => wall.busy("Loading the network…", share),
  (gpu) => ($("device").textContent = `Runs on the ${gpu ? "graphics processor" : "processor"} of this device.`),
);

let asked = 0; // how often something has been chosen
let working = false;
let pace = 0; // seconds for a pixel of the result

/** Makes the picture anew, and again if something has been chosen meanwhile. */
async function refresh() {
  label();
  asked++;
  if (working || camera.on) return;
  working = true;
  try {
    for (let done = 0; done !== asked && !camera.on; ) await make((done = asked));
  } finally {
    working = false;
  }
}

async function make(turn: number) {
  wall.finished = false;
  try {
    const photograph = await photographs.chosen;
    const styles = await chosenStyles();
    const size = value("size");
    const [before, draft] = [await photograph.pixels(size), await photograph.pixels(DRAFT_SIDE)];
    const waits = pace * before.width * before.height > PATIENCE && before.width > draft.width;
    for (const content of waits ? [draft, before] : [before]) {
      if (turn !== asked) return;
      await paint(photograph, content, styles);
      wall.showBefore(before);
    }
    wall.finished = true;
    keepSamples();
  } catch (error) {
    tell(error, turn);
  }
}

async function paint(photograph: Picture, content: Pixels, styles: Share[]) {
  await painter.load();
  const slow = setTimeout(() => wall.busy("Painting…"), 300);
  const own = ownShare(`${photograph.key} ${content.width}`, content);
  const order = { content, ...withStrength(styles, own) };
  const painted = await painter.paint(order).finally(() => clearTimeout(slow));
  const { width, height } = painted.pixels;
  pace = painted.seconds / (width * height);
  const names = [photographs.title, ...styleTitles()].join("_");
  wall.show(painted.pixels, caption(), names.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "_"));
  wall.say(`${width} × ${height} pixels, ${painted.seconds.toFixed(1)} s`);
}

/** The chosen paintings with their shares, which add up to 1. */
async function chosenStyles(): Promise<Share[]> {
  const second = mixing() ? value("share") / 100 : 0;
  const parts = [shareOf(await paintings.chosen, 1 - second)];
  if (second) parts.push(shareOf(await seconds.chosen, second));
  return Promise.all(parts);
}

async function shareOf(painting: Picture, weight: number): Promise<Share> {
  return { key: painting.key, weight, pixels: await painting.pixels(STYLE_SIDE) };
}

/** The same with a share of the photograph's own style, where the strength is not full. */
function withStrength(styles: Share[], own: Share) {
  if (!own.weight) return { styles };
  const weaker = styles.map((share) => ({ ...share, weight: (1 - own.weight) * share.weight }));
  return { styles: weaker.filter(({ weight }) => weight > 0), own };
}

const ownShare = (key: string, pixels: Pixels): Share => ({
  key,
  weight: 1 - value("strength") / 100,
  pixels,
});

const mixing = () => $<HTMLInputElement>("mix").checked;
const styleTitles = () => (mixing() ? [paintings.title, seconds.title] : [paintings.title]);
const caption = () => `${photographs.title}, after ${styleTitles().join(" and ")}`;

/** Writes values and names beside the controls. */
function label() {
  $("seconds").hidden = !mixing();
  $("share-value").textContent = `${value("share")} %`;
  $("strength-value").textContent = `${value("strength")} %`;
  $("size-value").textContent = `${value("size")} pixels`;
  $("first-name").textContent = paintings.title;
  $("second-name").textContent = seconds.title;
}

/** Says what went wrong, in one line. */
function tell(error: unknown, turn = asked) {
  if (error instanceof BadPicture) return wall.say(error.message, true);
  if (!(error instanceof Lost)) console.error(error);
  if (!navigator.onLine) return wall.say("The network is not loaded yet, and this device is offline.", true);
  if (turn !== asked) return; // the next picture starts anew
  wall.say("The picture was not finished: this device may be short of memory. Choose a smaller size, or try again.", true);
}

/** Paints what the camera shows, until it is closed. */
async function live() {
  let problem: unknown;
  photographs.say("");
  try {
    await painter.load();
    await camera.start();
    wall.live = true;
    while (camera.on) {
      const frame = camera.frame();
      const order = withStrength(await chosenStyles(), ownShare(camera.key, frame));
      const { pixels, seconds } = await painter.paint({ content: frame, ...order });
      camera.adapt(seconds);
      if (!camera.on) break;
      wall.show(pixels, `Camera, after ${styleTitles().join(" and ")}`, "camera");
      wall.say(`Live, ${(1 / seconds).toFixed(1)} pictures a second`);
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    problem = error;
  }
  camera.stop();
  wall.live = false;
  if (problem instanceof BadPicture) photographs.say(problem.message);
  else if (problem) tell(problem);
  else await refresh();
}

async function shoot() {
  const picture = await camera.picture();
  photographs.add(picture, true);
  camera.stop();
}

/** Why this browser cannot do it; empty where it can. */
function unable(): string {
  const current = "A current Firefox, Chrome, Edge or Safari can.";
  if (typeof WebAssembly !== "object") return `This browser has no WebAssembly, or it is turned off. ${current}`;
  if (typeof createImageBitmap !== "function" || typeof crypto.randomUUID !== "function")
    return `This browser is too old for this page, or the page was not loaded by HTTPS. ${current}`;
  return "";
}

async function start() {
  photographs.addSamples("content", files.photographs);
  for (const gallery of [paintings, seconds]) gallery.addSamples("style", files.paintings);
  photographs.choose("cat");
  paintings.choose("nocturne");
  seconds.choose("waves");
  label();
  const reason = unable();
  if (reason) return wall.say(reason, true);
  for (const id of ["mix", "share", "strength", "size"]) $(id).addEventListener("input", refresh);
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => event.preventDefault());
  takesDrops($("photographs"), (file) => photographs.bring(file));
  takesDrops($("wall"), (file) => photographs.bring(file));
  takesDrops($("paintings"), (file) => paintings.bring(file));
  $("again").addEventListener("click", refresh);
  $("camera").addEventListener("click", live);
  $("shoot").addEventListener("click", shoot);
  $("end").addEventListener("click", () => camera.stop());
  wall.busy("Loading the network…", 0);
  const first = await photographs.chosen;
  wall.show(await first.pixels(value("size")), photographs.title, "photograph");
  await keepForLater();
  await refresh();
}

void start();
